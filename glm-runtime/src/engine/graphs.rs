//! Steps that a graphics processor repeats as it has recorded them: those that decode one token of each sequence.
//!
//! Launches depend on the number of sequences and on the length of their block tables. So both are rounded up, and with that a
//! step is one of few shapes; everything else is numbers, which are copied to where the recorded launches look for them. What
//! comes after the logits is not recorded: tokens are drawn by other rules in every step.

use super::Engine;
use crate::forward::DecodeShape;
use crate::kv::BLOCK_SIZE;
use crate::scheduler::{Chunk, StepPlan};

/// Numbers of sequences that a recorded step has.
const SEQUENCES: [usize; 13] = [1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256];

/// The shortest block tables hold so many positions; longer ones a power of two.
const MIN_POSITIONS: usize = 128;

impl DecodeShape {
    /// The least shape for `sequences` sequences, the longest of which has `positions` positions; `None` if they are too many.
    fn new(sequences: usize, positions: usize) -> Option<Self> {
        let sequences = SEQUENCES.into_iter().find(|most| *most >= sequences)?;
        let positions = positions.max(MIN_POSITIONS).checked_next_power_of_two()?;
        let blocks = positions.div_ceil(BLOCK_SIZE);
        Some(Self { sequences, blocks })
    }

    /// The name of its recording.
    pub(super) fn key(self) -> [usize; 2] {
        [self.sequences, self.blocks]
    }
}

impl Engine {
    /// The shape to which a step is brought, if it is of the kind that is recorded. What adapters add depends on who has which, and
    /// a step whose operations somebody looks at is to do them.
    pub(super) fn recorded_shape(&self, plan: &StepPlan) -> Option<DecodeShape> {
        if !self.graphs.is_on() || self.device.recorder().is_on() {
            return None;
        }
        let plain = |chunk: &Chunk| {
            let active = self.requests.get(&chunk.seq);
            chunk.len == 1 && chunk.samples && active.is_some_and(|a| a.adapter.is_none())
        };
        let count = plan.chunks.len();
        let guesses = plan.num_tokens() != count;
        if guesses || !plan.chunks.iter().all(plain) {
            return None;
        }
        let longest = plan.chunks.iter().map(Chunk::end).max()?;
        DecodeShape::new(count, longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_few_and_hold_what_they_are_for() {
        let shape =
            |sequences, positions| DecodeShape::new(sequences, positions).map(DecodeShape::key);
        assert_eq!(shape(1, 1), Some([1, 8]));
        assert_eq!(shape(3, 128), Some([4, 8]));
        assert_eq!(shape(9, 129), Some([16, 16]));
        assert_eq!(shape(256, 131_072), Some([256, 8192]));
        assert_eq!(shape(257, 1), None);
    }
}
