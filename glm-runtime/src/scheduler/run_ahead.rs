//! The step after one whose tokens are not known yet: on a device that draws them itself it can be asked for before they are read,
//! so that the device need not wait for the host between two steps.
//!
//! It decodes the next token of each sequence, and takes for granted that none ends but those whose last token is drawn. What it computes
//! for one that ends all the same is thrown away: it stands behind the text, where no shared block reaches.

use super::{Chunk, Scheduler, StepPlan};
use crate::kv::{BlockAllocator, blocks_for};

impl Scheduler {
    /// The step after `plan`, which is not committed, and is to be committed first; if both decode a token of each sequence, there are
    /// blocks for that, and nobody who waits could start or has a higher priority. What it computes is asked for by
    /// [`Scheduler::tokens`]; [`StepPlan::follows`] says whose the ids are that are not known.
    pub fn run_ahead(&mut self, plan: &StepPlan, blocks: &mut BlockAllocator) -> Option<StepPlan> {
        let decodes = |chunk: &Chunk| !chunk.prefill && chunk.samples && chunk.draft.1 == 0;
        if !plan.chunks.iter().all(decodes) || self.somebody_could_start() {
            return None;
        }
        let mut ahead = StepPlan::default();
        let (mut found, mut missing) = (0, 0);
        for (row, chunk) in (0..).zip(&plan.chunks) {
            // Otherwise it was removed, or has ended.
            let Some(at) = self.find(chunk) else { continue };
            let seq = &self.running[at];
            debug_assert_eq!(seq.tokens.len(), chunk.end(), "a plan of another step");
            found += 1;
            if seq.room(self.config.max_model_len) > 1 {
                ahead.chunks.push(Chunk {
                    at,
                    start: chunk.start + 1,
                    ..*chunk
                });
                ahead.follows.push(row);
                missing += blocks_for(seq.tokens.len() + 1) - seq.block_table.len();
            }
        }
        // Others read their prompts.
        let all = found == self.running.len();
        if !all || ahead.chunks.is_empty() || missing > blocks.num_free() {
            return None;
        }
        for chunk in &ahead.chunks {
            let seq = &mut self.running[chunk.at];
            let missing = blocks_for(seq.tokens.len() + 1) - seq.block_table.len();
            seq.block_table.extend(blocks.allocate(missing)?);
        }
        Some(ahead)
    }

    /// Whether the queue has somebody for whom there is a seat, or who would be given one.
    fn somebody_could_start(&self) -> bool {
        let Some(first) = self.waiting.first().filter(|_| self.admitting) else {
            return false;
        };
        let comes_first = self.running.iter().any(|seq| seq.priority < first.priority);
        self.can_admit() || comes_first
    }
}
