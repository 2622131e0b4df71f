//! Guesses at what follows: a step can compute some of them behind the last token of a sequence that decodes, and whoever samples
//! then sees which were right ([`speculate`](crate::speculate)).
//!
//! A guess is only worth what would otherwise lie idle. It takes the room that a step has left when everybody else is planned, and
//! free blocks; nobody waits or is preempted for it, and the blocks of wrong ones are free again after the step. It is no token
//! of its sequence before it is committed, so no shared block holds one that is wrong.

use super::{Scheduler, SeqId, StepPlan};
use crate::kv::{BLOCK_SIZE, BlockAllocator, CacheSalt, blocks_for};

/// A sequence that decodes one token in a step.
#[derive(Debug, Clone, Copy)]
pub struct Decoding<'a> {
    /// Its chunk in the plan.
    pub chunk: usize,
    /// Which one.
    pub seq: SeqId,
    /// Prompt and answer so far.
    pub tokens: &'a [u32],
    /// With whom it shares blocks of equal tokens.
    pub cache: Option<&'a CacheSalt>,
    /// Most guesses of use: one token less than it may still generate.
    pub max_draft: usize,
}

impl Scheduler {
    /// The sequences that decode one token in the latest plan, in its order.
    pub fn decoding<'a>(&'a self, plan: &'a StepPlan) -> impl Iterator<Item = Decoding<'a>> {
        let chunks = plan.chunks.iter().enumerate();
        let decoding = chunks.filter(|(_, chunk)| !chunk.prefill);
        decoding.map(|(at, chunk)| {
            let seq = &self.running[chunk.at];
            debug_assert_eq!(seq.id, chunk.seq, "a plan of another step");
            Decoding {
                chunk: at,
                seq: seq.id,
                tokens: &seq.tokens,
                cache: seq.cache.as_ref(),
                max_draft: seq.room(self.config.max_model_len) - 1,
            }
        })
    }

    /// Has the step compute `draft` behind the last token of the decoding sequence whose chunk is the `at`-th: as much of it as
    /// could count, and as the step and the free blocks have room for. Returns how many guesses that is.
    ///
    /// # Panics
    /// If the plan has no such chunk.
    pub fn look_ahead(
        &mut self,
        plan: &mut StepPlan,
        at: usize,
        draft: &[u32],
        blocks: &mut BlockAllocator,
    ) -> usize {
        let budget = self.config.max_num_batched_tokens - plan.num_tokens();
        let chunk = &mut plan.chunks[at];
        let seq = &mut self.running[chunk.at];
        debug_assert!(chunk.seq == seq.id && !chunk.prefill && chunk.draft.1 == 0);
        // A token that ends the sequence need not be guessed: nothing is computed after it.
        let goes_on = draft.iter().take_while(|&&id| !seq.ends_at(id)).count();
        let held = (seq.block_table.len() + blocks.num_free()) * BLOCK_SIZE;
        let len = goes_on
            .min(seq.room(self.config.max_model_len) - 1)
            .min(budget)
            .min(held - seq.tokens.len());
        let missing = blocks_for(seq.tokens.len() + len) - seq.block_table.len();
        let Some(fresh) = blocks.allocate(missing) else {
            return 0;
        };
        seq.block_table.extend(fresh);
        chunk.draft = (plan.drafts.len(), len);
        plan.drafts.extend(&draft[..len]);
        len
    }
}
