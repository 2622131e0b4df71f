use std::sync::Arc;

use glm_kernels::{KernelError, Tensor, Weight, linear};

use crate::forward::ForwardBatch;
use crate::lora::{Site, add_updates};

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

/// A linear layer that adapters can change: `x Wᵀ + b`, and for the tokens of an adapter what it adds.
#[derive(Debug)]
pub struct AdaptedLinear {
    /// The model's own.
    pub base: Linear,
    /// Where adapters find it.
    pub site: Site,
}

impl AdaptedLinear {
    /// `[T, in]` to `[T, out]`.
    pub fn forward(&self, x: &Tensor, batch: &ForwardBatch) -> Result<Tensor, KernelError> {
        let mut y = self.base.forward(x)?;
        add_updates(&batch.adapters, self.site, x, &mut y)?;
        Ok(y)
    }
}
