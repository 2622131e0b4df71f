//! Token embedding.
use crate::{KernelError, Tensor, Weight};

/// Rows `ids` of `table` (`[V, C]`, any format), as f32: `[T, C]`.
///
/// # Errors
/// [`KernelError::Index`] for an id outside the table.
pub fn embed(_table: &Weight, _ids: &[u32]) -> Result<Tensor, KernelError> {
    unimplemented!()
}
