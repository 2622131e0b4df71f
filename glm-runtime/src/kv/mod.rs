//! The paged KV cache (Kwon et al. 2023, arXiv:2309.06180): [`BlockAllocator`] decides over ids, [`KvPool`] owns the bytes.

mod blocks;
mod free_queue;
mod pool;
mod prefix;

pub use blocks::{Allocated, BLOCK_SIZE, BlockAllocator, BlockId, blocks_for};
pub use pool::KvPool;
pub(crate) use pool::auto_kv_dtype;
pub use prefix::{CacheSalt, Prefix};
