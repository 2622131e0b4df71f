//! Row selection.
use crate::{KernelError, Tensor};

/// Rows `rows` of `x` (`[T, C]`), in that order: `[rows.len(), C]`.
///
/// # Errors
/// [`KernelError::Index`] for a row that `x` does not have.
pub fn gather_rows(_x: &Tensor, _rows: &[u32]) -> Result<Tensor, KernelError> {
    unimplemented!()
}
