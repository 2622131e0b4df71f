//! Who runs in the next step. Arithmetic on ids, counts and blocks: no tensor, no clock, no channel.
//!
//! Continuous batching (Yu et al. 2022, "Orca"): every step decodes one token of each running sequence and fills the rest
//! of its token budget with chunks of prompts. A prompt is admitted when the blocks for all of it are free. When a
//! decoding sequence needs a block and none is free, the youngest running sequence is preempted: its blocks are released,
//! and it is computed again from its tokens, which are all known, when there is room; what of it is still in the prefix
//! cache then need not be. The oldest sequence is never
//! preempted, and a whole context fits into the cache, so every sequence ends.

mod plan;
mod sequence;

use std::collections::VecDeque;

pub use plan::{Chunk, StepPlan};
use sequence::Sequence;
pub use sequence::{EndConditions, NewSequence, SeqId};

use crate::kv::{Allocated, BlockAllocator, blocks_for};
use crate::request::FinishReason;

/// Limits of a step and of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchedulerConfig {
    /// Most sequences in one step, at least 1.
    pub max_num_seqs: usize,
    /// Most tokens in one step, at least `max_num_seqs`.
    pub max_num_batched_tokens: usize,
    /// Most tokens of one sequence, prompt and answer together; that many must fit into the KV cache.
    pub max_model_len: usize,
}

/// The prompt leaves no room for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PromptTooLong;

/// What a step did to one sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// Whose.
    pub seq: SeqId,
    /// The new token.
    pub token: u32,
    /// Its position in the answer, from 0.
    pub index: usize,
    /// Set if it was the last one; the sequence is gone then.
    pub finish_reason: Option<FinishReason>,
}

/// Sequences waiting and running.
#[derive(Debug)]
pub struct Scheduler {
    config: SchedulerConfig,
    /// Hold no blocks. The front runs next; preempted sequences come back to the front.
    waiting: VecDeque<Sequence>,
    /// Hold blocks for all their tokens but, while decoding, perhaps the next. Oldest first.
    running: Vec<Sequence>,
    /// Whether waiting sequences may start.
    admitting: bool,
    preemptions: u64,
    prefix_queries: u64,
    prefix_hits: u64,
}

impl Scheduler {
    /// A scheduler without sequences.
    pub fn new(config: SchedulerConfig) -> Self {
        Self {
            config,
            waiting: VecDeque::new(),
            running: Vec::new(),
            admitting: true,
            preemptions: 0,
            prefix_queries: 0,
            prefix_hits: 0,
        }
    }

    /// Sequences that hold no blocks yet.
    pub fn num_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Sequences that hold blocks.
    pub fn num_running(&self) -> usize {
        self.running.len()
    }

    /// Preemptions so far.
    pub fn num_preemptions(&self) -> u64 {
        self.preemptions
    }

    /// Tokens of sequences that were started (again) and might have been in the prefix cache, and how many were.
    pub fn prefix_lookups(&self) -> (u64, u64) {
        (self.prefix_queries, self.prefix_hits)
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Queues a sequence.
    ///
    /// # Errors
    /// [`PromptTooLong`] if not even one token could be generated; such a sequence would wait for ever.
    pub fn add(&mut self, new: NewSequence) -> Result<(), PromptTooLong> {
        if new.prompt.len() >= self.config.max_model_len {
            return Err(PromptTooLong);
        }
        self.waiting.push_back(Sequence::new(new));
        Ok(())
    }

    /// With `false`, no waiting sequence starts until it is set again, so that the blocks of running ones come free.
    pub fn set_admitting(&mut self, admitting: bool) {
        self.admitting = admitting;
    }

    /// Decides the next step, or `None` if nothing can run.
    pub fn plan(&mut self, blocks: &mut BlockAllocator) -> Option<StepPlan> {
        self.grow_decoding(blocks);
        let mut plan = StepPlan::default();
        let mut budget = self.config.max_num_batched_tokens;
        for decoding in [true, false] {
            for seq in self
                .running
                .iter()
                .filter(|seq| seq.is_decoding() == decoding)
            {
                take_chunk(seq, &mut budget, &mut plan);
            }
        }
        while self.admitting
            && budget > 0
            && self.running.len() < self.config.max_num_seqs
            && self.admit(blocks)
        {
            if let Some(seq) = self.running.last() {
                take_chunk(seq, &mut budget, &mut plan);
            }
        }
        debug_assert!(plan.num_tokens() <= self.config.max_num_batched_tokens);
        (!plan.chunks.is_empty()).then_some(plan)
    }

    /// Gives every decoding sequence the block its next token needs, oldest first, preempting the youngest as long as
    /// none is free.
    fn grow_decoding(&mut self, blocks: &mut BlockAllocator) {
        let mut next = 0;
        while next < self.running.len() {
            let missing =
                blocks_for(self.running[next].tokens.len()) - self.running[next].block_table.len();
            match blocks.allocate(missing) {
                Some(fresh) => {
                    self.running[next].block_table.extend(fresh);
                    next += 1;
                }
                None => self.preempt_youngest(blocks),
            }
        }
    }

    fn preempt_youngest(&mut self, blocks: &mut BlockAllocator) {
        if let Some(mut seq) = self.running.pop() {
            blocks.release(seq.block_table.drain(..));
            seq.num_computed = 0;
            self.waiting.push_front(seq);
            self.preemptions += 1;
        }
    }

    /// Moves the front of the queue to the running sequences if the blocks for all its tokens are free.
    fn admit(&mut self, blocks: &mut BlockAllocator) -> bool {
        let Some(front) = self.waiting.front() else {
            return false;
        };
        let allocated = match &front.cache {
            Some(salt) => blocks.allocate_for(&front.tokens, salt),
            None => {
                let fresh = blocks.allocate(blocks_for(front.tokens.len()));
                fresh.map(Allocated::fresh)
            }
        };
        let Some(allocated) = allocated else {
            return false;
        };
        if let Some(mut seq) = self.waiting.pop_front() {
            if seq.cache.is_some() {
                self.prefix_queries += seq.tokens.len() as u64;
                self.prefix_hits += allocated.num_cached_tokens as u64;
            }
            seq.block_table = allocated.block_table;
            seq.num_computed = allocated.num_cached_tokens;
            self.running.push(seq);
        }
        true
    }

    /// Records that `plan` was computed; `sampled` holds the next token of each of [`StepPlan::sampled`].
    ///
    /// A sequence that was removed in the meantime is skipped.
    pub fn commit(
        &mut self,
        plan: &StepPlan,
        sampled: &[u32],
        blocks: &mut BlockAllocator,
    ) -> Vec<Committed> {
        let mut sampled = sampled.iter();
        let mut committed = Vec::new();
        for chunk in &plan.chunks {
            let token = if chunk.samples { sampled.next() } else { None };
            let Some(at) = self.running.iter().position(|seq| seq.id == chunk.seq) else {
                continue;
            };
            let seq = &mut self.running[at];
            seq.computed(chunk.start + chunk.tokens.len(), blocks);
            let Some(&token) = token else { continue };
            seq.tokens.push(token);
            let finish_reason = seq.finish_reason(self.config.max_model_len);
            committed.push(Committed {
                seq: seq.id,
                token,
                index: seq.num_generated() - 1,
                finish_reason,
            });
            if finish_reason.is_some() {
                let seq = self.running.remove(at);
                blocks.release(seq.block_table);
            }
        }
        committed
    }

    /// Removes every sequence of a step that failed: their keys and values are in doubt. Returns who must be told.
    pub fn fail(&mut self, plan: &StepPlan, blocks: &mut BlockAllocator) -> Vec<SeqId> {
        plan.chunks
            .iter()
            .map(|chunk| chunk.seq)
            .filter(|&seq| self.remove(seq, blocks))
            .collect()
    }

    /// Removes one sequence and releases its blocks; false if it is not here (any more).
    pub fn remove(&mut self, id: SeqId, blocks: &mut BlockAllocator) -> bool {
        if let Some(at) = self.running.iter().position(|seq| seq.id == id) {
            let seq = self.running.remove(at);
            blocks.release(seq.block_table);
            return true;
        }
        let before = self.waiting.len();
        self.waiting.retain(|seq| seq.id != id);
        self.waiting.len() < before
    }
}

/// Puts as many pending tokens of `seq` into the plan as the budget allows.
fn take_chunk(seq: &Sequence, budget: &mut usize, plan: &mut StepPlan) {
    let len = seq.num_pending().min(*budget);
    if len == 0 {
        return;
    }
    *budget -= len;
    plan.chunks.push(Chunk {
        seq: seq.id,
        start: seq.num_computed,
        tokens: seq.tokens[seq.num_computed..seq.num_computed + len].to_vec(),
        block_table: seq.block_table.clone(),
        samples: len == seq.num_pending(),
        prefill: !seq.is_decoding(),
    });
}

#[cfg(test)]
mod tests;
