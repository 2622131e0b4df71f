use std::sync::Arc;

use glm_kernels::{KernelError, Tensor, Weight, linear};

/// `x Wᵀ + b`.
#[derive(Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Arc<Weight>,
    /// `[out]`.
    pub bias: Option<Tensor>,
}

impl Linear {
    /// `[T, in]` to `[T, out]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, KernelError> {
        linear(x, &self.weight, self.bias.as_ref())
    }
}
