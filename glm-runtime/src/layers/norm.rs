use glm_kernels::{
    KernelError, Norm, Tensor, add_normed, add_normed_rms_norm, add_rms_norm, rms_norm,
};

/// RMSNorm (Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4).
#[derive(Debug)]
pub struct RmsNorm {
    /// Gains, `[C]`.
    pub weight: Tensor,
    /// Added to the mean square.
    pub eps: f32,
}

impl RmsNorm {
    /// `[T, C]` to `[T, C]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, KernelError> {
        rms_norm(x, &self.weight, self.eps)
    }

    /// `residual += x`, then the norm of `residual`: one pass over both.
    pub fn add_forward(&self, residual: &mut Tensor, x: &Tensor) -> Result<Tensor, KernelError> {
        add_rms_norm(residual, x, &self.weight, self.eps)
    }

    /// `residual += norm(x)`.
    pub fn add_to(&self, residual: &mut Tensor, x: &Tensor) -> Result<(), KernelError> {
        add_normed(residual, x, self.norm())
    }

    /// `residual += first(x)`, then the norm of `residual`.
    pub fn add_forward_after(
        &self,
        first: &Self,
        residual: &mut Tensor,
        x: &Tensor,
    ) -> Result<Tensor, KernelError> {
        add_normed_rms_norm(residual, x, first.norm(), self.norm())
    }

    fn norm(&self) -> Norm<'_> {
        Norm {
            weight: &self.weight,
            eps: self.eps,
        }
    }
}
