use glm_kernels::{KernelError, Tensor, Weight, gated_mlp};

/// SwiGLU (Shazeer 2020, arXiv:2002.05202): `down(silu(gate(x)) * up(x))`.
#[derive(Debug)]
pub struct Mlp {
    /// `[2F, C]`, gate rows first.
    pub gate_up_proj: Weight,
    /// `[C, F]`.
    pub down_proj: Weight,
}

impl Mlp {
    /// `[T, C]` to `[T, C]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, KernelError> {
        gated_mlp(x, &self.gate_up_proj, &self.down_proj)
    }
}
