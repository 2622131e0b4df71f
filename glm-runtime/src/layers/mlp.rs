use glm_kernels::{KernelError, Tensor, gated_mlp, swiglu};

use super::AdaptedLinear;
use crate::forward::ForwardBatch;

/// SwiGLU (Shazeer 2020, arXiv:2002.05202): `down(silu(gate(x)) * up(x))`.
#[derive(Debug)]
pub struct Mlp {
    /// `[2F, C]`, gate rows first; no bias.
    pub gate_up_proj: AdaptedLinear,
    /// `[C, F]`; no bias.
    pub down_proj: AdaptedLinear,
}

impl Mlp {
    /// `[T, C]` to `[T, C]`.
    pub fn forward(&self, x: &Tensor, batch: &ForwardBatch) -> Result<Tensor, KernelError> {
        if batch.adapters.is_empty() {
            // The same three steps, to the bit, as one operation.
            let (gate_up, down) = (&self.gate_up_proj.base, &self.down_proj.base);
            return gated_mlp(x, &gate_up.weight, &down.weight);
        }
        let hidden = swiglu(&self.gate_up_proj.forward(x, batch)?)?; // [T, F]
        self.down_proj.forward(&hidden, batch) // [T, C]
    }
}
