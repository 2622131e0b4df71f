//! SwiGLU.
use crate::{KernelError, Tensor};

/// `silu(gate) * up`; `gate_up`: `[T, 2F]`, gate first. Result `[T, F]`.
///
/// # Errors
/// [`KernelError::Shape`]
pub fn swiglu(_gate_up: &Tensor) -> Result<Tensor, KernelError> {
    unimplemented!()
}
