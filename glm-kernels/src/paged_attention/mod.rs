//! Paged attention.
use crate::{AttnDims, KernelError, KvLayer, Tensor};

/// Which queries belong to which sequence, and where its keys and values are.
#[derive(Debug, Clone, Copy)]
pub struct AttnBatch<'a> {
    /// `[S + 1]`: queries `query_start[s]..query_start[s + 1]` belong to sequence `s`.
    pub query_start: &'a [u32],
    /// `[S]`: the number of stored positions of each sequence, those of this step included.
    pub context_lens: &'a [u32],
    /// `[S, max_blocks_per_seq]`: block ids in order of position.
    pub block_tables: &'a [u32],
    /// The row length of `block_tables`.
    pub max_blocks_per_seq: usize,
}

/// Causal attention of this step's queries.
///
/// # Errors
/// [`KernelError::Shape`]
pub fn paged_attention(_q: &Tensor, _kv: &KvLayer, _batch: &AttnBatch<'_>, _dims: AttnDims, _scale: f32) -> Result<Tensor, KernelError> {
    unimplemented!()
}
