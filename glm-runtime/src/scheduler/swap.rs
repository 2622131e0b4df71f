//! Preemption by swapping: what a sequence has computed is copied to host memory, and back when there is room again.

use super::sequence::Sequence;
use super::{Scheduler, StepPlan};
use crate::kv::swap::{SwapSlot, SwapSpace};
use crate::kv::{BLOCK_SIZE, BlockAllocator, blocks_for};

/// The part of a preempted sequence that is in host memory.
#[derive(Debug, Clone)]
pub(super) struct Swapped {
    /// The first block that was copied. Those before it are held by somebody else, and likely to be there still.
    first: usize,
    /// Where this block is and those after it.
    slots: Vec<SwapSlot>,
    /// Tokens with keys and values, those before the first block included.
    num_computed: usize,
}

impl Scheduler {
    /// With so many slots for blocks in host memory.
    #[must_use]
    pub fn with_swap_space(mut self, num_slots: u32) -> Self {
        self.swap_space = SwapSpace::new(num_slots);
        self
    }

    /// Slots for blocks in host memory, and who has them.
    pub fn swap_space(&self) -> &SwapSpace {
        &self.swap_space
    }

    /// Plans to copy out what a sequence is about to lose, if there is room for all of it.
    pub(super) fn swap_out(
        &mut self,
        seq: &mut Sequence,
        plan: &mut StepPlan,
        blocks: &BlockAllocator,
    ) {
        let computed = &seq.block_table[..blocks_for(seq.num_computed)];
        let first = blocks.num_held_by_others(computed);
        let lost = &computed[first..];
        if lost.is_empty() {
            return;
        }
        let Some(slots) = self.swap_space.take(lost.len()) else {
            return;
        };
        let copies = lost.iter().copied().zip(slots.iter().copied());
        plan.copies.out.extend(copies);
        self.counters.swapped_out += 1;
        seq.swapped = Some(Swapped {
            first,
            slots,
            num_computed: seq.num_computed,
        });
    }

    /// Plans to copy back what of a sequence is in host memory and not in its blocks, which it has just been given. It is of no
    /// use if the prefix cache has lost what comes before it.
    pub(super) fn swap_in(
        &mut self,
        seq: &mut Sequence,
        plan: &mut StepPlan,
        blocks: &mut BlockAllocator,
    ) {
        let Some(swapped) = seq.swapped.take() else {
            return;
        };
        let cached = seq.num_computed / BLOCK_SIZE;
        if cached >= swapped.first && swapped.num_computed > seq.num_computed {
            let missing = &seq.block_table[cached..blocks_for(swapped.num_computed)];
            let slots = &swapped.slots[cached - swapped.first..];
            let copies = slots.iter().copied().zip(missing.iter().copied());
            plan.copies.back.extend(copies);
            self.counters.swapped_tokens += (swapped.num_computed - seq.num_computed) as u64;
            // The copies are made before anybody reads, so others may share these blocks in this very step.
            seq.computed(swapped.num_computed, blocks);
        }
        self.swap_space.give_back(swapped.slots);
    }

    /// Gives the slots back of a sequence that does not wait any more.
    pub(super) fn drop_swapped(&mut self, seq: &mut Sequence) {
        if let Some(swapped) = seq.swapped.take() {
            self.swap_space.give_back(swapped.slots);
        }
    }

    /// Whether every slot is free or some waiting sequence's.
    #[cfg(test)]
    pub(super) fn no_slot_is_lost(&mut self) -> bool {
        let waiting = self.waiting.iter_mut();
        let taken = waiting.filter_map(|seq| Some(seq.swapped.as_ref()?.slots.len()));
        taken.sum::<usize>() + self.swap_space.num_free() == self.swap_space.num_slots()
            && self.running.iter().all(|seq| seq.swapped.is_none())
    }

    /// Drops what is in host memory, because a copy failed: it is computed again.
    pub fn forget_swapped(&mut self) {
        for seq in self.waiting.iter_mut() {
            if let Some(swapped) = seq.swapped.take() {
                self.swap_space.give_back(swapped.slots);
            }
        }
    }
}
