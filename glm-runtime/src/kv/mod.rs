//! The paged KV cache (Kwon et al. 2023, arXiv:2309.06180): [`BlockAllocator`] decides over ids, [`KvPool`] owns the bytes. Blocks that
//! lose their place go to host memory ([`swap`]), and those that may be of use after a restart to a file ([`file`]).

mod blocks;
pub(crate) mod file;
mod free_queue;
mod pool;
mod prefix;
pub(crate) mod swap;

pub use blocks::{Allocated, BLOCK_SIZE, BlockAllocator, BlockId, KnownBlock, Origin, blocks_for};
pub use pool::KvPool;
pub(crate) use pool::{auto_kv_dtype, auto_kv_dtype_on_cpu};
pub use prefix::{CacheSalt, Prefix};
