//! The engine's side of swapping: the memory that preempted sequences wait in, and the copies that a step begins with.

use glm_kernels::{KernelError, Work};

use super::Engine;
use crate::error::BuildError;
use crate::kv::swap::SwapStore;
use crate::scheduler::StepPlan;

impl Engine {
    /// Gives preempted sequences `bytes` of host memory. 0 is none.
    pub(super) fn with_swap_space(mut self, bytes: u64) -> Result<Self, BuildError> {
        let block_bytes = self.kv.block_bytes() as u64;
        let num_slots = u32::try_from(bytes / block_bytes).unwrap_or(u32::MAX);
        if num_slots == 0 && bytes > 0 {
            return Err(BuildError::Option {
                option: "swap_space",
                allowed: "0, or at least the bytes of a block of the KV cache",
                found: format!("{bytes} (a block has {block_bytes})"),
            });
        }
        if num_slots > 0 {
            let store = SwapStore::new(&self.device, &self.kv, num_slots as usize)?;
            self.swap_store = Some(store);
            self.scheduler = self.scheduler.with_swap_space(num_slots);
        }
        Ok(self)
    }

    /// Copies the blocks that a step takes out of the KV cache and back into it. If that fails, what was to be copied is in doubt,
    /// wherever it may be used: all of it is forgotten, and computed again.
    pub(super) fn copy_blocks(&mut self, plan: &StepPlan) -> Result<(), KernelError> {
        let Some(store) = &mut self.swap_store else {
            return Ok(());
        };
        if plan.copies.is_empty() {
            return Ok(());
        }
        let bytes = plan.copies.len() * self.kv.block_bytes();
        let _span = self.device.record(|| Work::moving("swap", bytes));
        store.copy(&plan.copies, &mut self.kv).inspect_err(|_| {
            self.scheduler.forget_swapped();
            self.blocks.forget_all();
        })
    }
}
