//! RMSNorm.
use crate::{KernelError, Tensor};

/// `x[t, :] / sqrt(mean(x[t, :]²) + eps) * weight`.
///
/// # Errors
/// [`KernelError::Shape`]
pub fn rms_norm(_x: &Tensor, _weight: &Tensor, _eps: f32) -> Result<Tensor, KernelError> {
    unimplemented!()
}
/// `residual += x`, then the norm of the new residual.
///
/// # Errors
/// [`KernelError::Shape`], [`KernelError::Shared`]
pub fn add_rms_norm(_residual: &mut Tensor, _x: &Tensor, _weight: &Tensor, _eps: f32) -> Result<Tensor, KernelError> {
    unimplemented!()
}
/// `residual += x`.
///
/// # Errors
/// [`KernelError::Shape`], [`KernelError::Shared`]
pub fn add(_residual: &mut Tensor, _x: &Tensor) -> Result<(), KernelError> {
    unimplemented!()
}
