//! For the benchmarks of this workspace; no part of the public interface, and no promise.

pub use crate::forward::ForwardBatch;
pub use crate::kv::{BLOCK_SIZE, BlockAllocator, CacheSalt};
pub use crate::scheduler::{
    EndConditions, NewSequence, Scheduler, SchedulerConfig, SeqId, StepPlan,
};
