//! One sequence: its tokens, how many of them are computed, and the blocks that hold them.

use std::time::Duration;

use super::queue::Rank;
use super::swap::Swapped;
use crate::kv::{BLOCK_SIZE, BlockAllocator, BlockId, CacheSalt, Prefix, blocks_for};
use crate::request::FinishReason;

/// Names a sequence in the scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeqId(pub u64);

/// When a sequence ends by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndConditions {
    /// Most tokens to generate, at least 1.
    pub max_new_tokens: usize,
    /// Ids that end it.
    pub stop_token_ids: Vec<u32>,
}

/// A sequence to run.
#[derive(Debug, Clone)]
pub struct NewSequence {
    /// Its name, given to no other.
    pub id: SeqId,
    /// Token ids to continue, at least one.
    pub prompt: Vec<u32>,
    /// When it ends by itself.
    pub end: EndConditions,
    /// With whom it shares blocks of equal tokens; `None`: with nobody.
    pub cache: Option<CacheSalt>,
    /// Higher is served first.
    pub priority: i32,
    /// When it ends whether it is done or not.
    pub deadline: Option<Duration>,
}

/// A sequence in the scheduler. Tokens `0..num_computed` have keys and values in the blocks of `block_table`.
#[derive(Debug, Clone)]
pub(super) struct Sequence {
    pub(super) id: SeqId,
    pub(super) rank: Rank,
    pub(super) priority: i32,
    pub(super) deadline: Option<Duration>,
    /// Prompt, then what was generated.
    pub(super) tokens: Vec<u32>,
    pub(super) prompt_len: usize,
    pub(super) num_computed: usize,
    pub(super) block_table: Vec<BlockId>,
    /// Whether it ever held blocks.
    pub(super) started: bool,
    /// Its last token is there; it leaves at the end of this step.
    pub(super) ended: bool,
    end: EndConditions,
    pub(super) cache: Option<CacheSalt>,
    /// While it waits after a preemption.
    pub(super) swapped: Option<Swapped>,
}

impl Sequence {
    pub(super) fn new(new: NewSequence, rank: Rank) -> Self {
        Self {
            id: new.id,
            rank,
            priority: new.priority,
            deadline: new.deadline,
            prompt_len: new.prompt.len(),
            tokens: new.prompt,
            num_computed: 0,
            block_table: Vec::new(),
            started: false,
            ended: false,
            end: new.end,
            cache: new.cache,
            swapped: None,
        }
    }

    /// Notes that tokens up to `end` are computed, and lets others share the blocks that became full.
    pub(super) fn computed(&mut self, end: usize, blocks: &mut BlockAllocator) {
        let full = self.num_computed / BLOCK_SIZE..end / BLOCK_SIZE;
        self.num_computed = end;
        for at in full {
            if let Some(prefix) = self.prefix(at, blocks) {
                blocks.share(&mut self.block_table, at, prefix);
            }
        }
    }

    /// What the block to be computed next will hold, if it will be full, and others may have it.
    pub(super) fn next_prefix(&self, blocks: &BlockAllocator) -> Option<Prefix> {
        self.prefix(self.num_computed / BLOCK_SIZE, blocks)
    }

    fn prefix(&self, at: usize, blocks: &BlockAllocator) -> Option<Prefix> {
        let tokens = self.tokens.get(at * BLOCK_SIZE..(at + 1) * BLOCK_SIZE)?;
        blocks.prefix(&self.block_table, at, tokens, self.cache.as_ref()?)
    }

    /// Whether the next block can be had from somebody else: not the one with the last token, whose logits are wanted.
    pub(super) fn can_adopt(&self) -> bool {
        (self.num_computed / BLOCK_SIZE + 1) * BLOCK_SIZE < self.tokens.len()
    }

    /// Takes over the next blocks as far as others have computed them by now. Returns how many tokens that spares.
    pub(super) fn catch_up(&mut self, blocks: &mut BlockAllocator) -> usize {
        let before = self.num_computed;
        while self.can_adopt()
            && let Some(prefix) = self.next_prefix(blocks)
        {
            let at = self.num_computed / BLOCK_SIZE;
            if !blocks.adopt(&mut self.block_table, at, &prefix) {
                break;
            }
            self.num_computed = (at + 1) * BLOCK_SIZE;
        }
        self.num_computed - before
    }

    pub(super) fn num_generated(&self) -> usize {
        self.tokens.len() - self.prompt_len
    }

    /// Tokens that still need keys and values: 1 while decoding, more during prefill or after a preemption.
    pub(super) fn num_pending(&self) -> usize {
        self.tokens.len() - self.num_computed
    }

    /// How many tokens can still be generated, at least 1 while it runs.
    pub(super) fn room(&self, max_model_len: usize) -> usize {
        let answer = self.end.max_new_tokens - self.num_generated();
        answer.min(max_model_len - self.tokens.len())
    }

    /// Whether this token ends it.
    pub(super) fn ends_at(&self, token: u32) -> bool {
        self.end.stop_token_ids.contains(&token)
    }

    /// Gives the blocks back that held nothing but wrong guesses.
    pub(super) fn release_look_ahead(&mut self, blocks: &mut BlockAllocator) {
        let needed = blocks_for(self.tokens.len()).min(self.block_table.len());
        blocks.release(self.block_table.drain(needed..));
    }

    pub(super) fn is_decoding(&self) -> bool {
        self.num_generated() > 0 && self.num_pending() == 1
    }

    /// Whether the latest token ended the sequence, and how. A full context ends it too.
    pub(super) fn finish_reason(&self, max_model_len: usize) -> Option<FinishReason> {
        let last = self.tokens.last()?;
        if self.num_generated() > 0 && self.ends_at(*last) {
            return Some(FinishReason::Stop);
        }
        let full =
            self.num_generated() >= self.end.max_new_tokens || self.tokens.len() >= max_model_len;
        full.then_some(FinishReason::Length)
    }
}
