//! Products of prompts by NVIDIA's library (cuBLASLt), where it is installed and has proved itself.
//!
//! It multiplies what the own kernels do: rows of weights as they lie in the device's memory, filled up to whole chunks, and activations rounded to bf16,
//! with sums in f32 and the bias added to them before they are written. As it cannot be tried on the CPU, a device multiplies random numbers with it before the
//! first weight of a model is used; if it gives others than the general kernel, it is not used.

use super::activations::Activations;
use super::launch::Rows;
use super::pack::CHUNK;
use super::trial;
use crate::KernelError;
use crate::cuda::cublaslt::CublasLt;
use crate::cuda::{CudaDevice, Product, ProductShape};

/// With fewer tokens it has nothing to gain. To read a weight of bf16 takes a H200 2 bytes / 4.3 TB/s = 0.47 ps, and to multiply it `2 T` operations: for
/// `gemm.cu`, which comes to 62 % of 790 TFLOP/s at best, as long when `T` is 115. So with fewer tokens memory is the limit of both, and the library
/// could not run beside the kernels before and after it. With more it may be faster by a half.
pub(super) const MIN_TOKENS: u32 = 128;

/// Tries the library, if there is one, unless that was done before.
pub(super) fn check(cuda: &CudaDevice) {
    let library = cuda.untried_cublaslt();
    library.try_once(|| {
        // A number of tokens that is not the one that is planned for, and tiles that are not full.
        let agrees = |biased| {
            trial::agrees(cuda, [150, 200, 3 * CHUNK], biased, |activations, rows| {
                activations.cublaslt(library, rows)
            })
        };
        Ok(agrees(false)? && agrees(true)?)
    });
}

impl Activations<'_> {
    /// Writes the products with `rows`, which are bf16, if `library` does it.
    pub fn cublaslt(&mut self, library: &CublasLt, rows: &Rows) -> Result<bool, KernelError> {
        let product = Product {
            shape: ProductShape {
                rows: rows.rows,
                columns: self.padded_columns(),
                tokens: self.tokens,
                stride: rows.stride,
                biased: rows.bias.0 != 0,
            },
            weights: rows.weights,
            x: self.bf16()?,
            bias: rows.bias,
            out: rows.out,
        };
        // SAFETY: rows of weights and of rounded activations are filled up to as many columns; the result has room for `rows` values of each token,
        // `stride` apart, and the bias has as many.
        unsafe { library.multiply(&product) }
    }
}
