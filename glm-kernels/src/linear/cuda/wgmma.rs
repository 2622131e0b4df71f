//! Products of prompts on Hopper's tensor cores (`wgmma.cu`), where the kernel has proved itself.
//!
//! It is the one kernel that the emulated device cannot run. So before the first weight of a model is used, a device of compute capability 9.0
//! multiplies random numbers with it and with the general kernel; unless the two agree, three times over, it is not used.

use super::activations::Activations;
use super::launch::Rows;
use super::pack::CHUNK;
use super::trial;
use crate::KernelError;
use crate::cuda::{CudaDevice, LaunchConfig};

/// With fewer tokens there are fewer tiles than multiprocessors, and `gemm.cu` has smaller ones.
pub(super) const MIN_TOKENS: u32 = 256;
/// Set to `off`, the environment keeps this kernel from being used, and from being tried.
const SWITCH: &str = "GLM_WGMMA";

const TILE_TOKENS: u32 = 128;
const TILE_ROWS: u32 = 256;
const SHARED_BYTES: u32 = 4 * (TILE_TOKENS + TILE_ROWS) * CHUNK as u32 * 2 + 1024;

/// Whether [`check`] found the kernel good on this device.
pub(super) fn usable(cuda: &CudaDevice) -> bool {
    cuda.runs_wgmma.get().copied().unwrap_or(false)
}

/// Tries the kernel, unless that was done before.
pub(super) fn check(cuda: &CudaDevice) {
    cuda.runs_wgmma.get_or_init(|| {
        cuda.info().compute_capability == (9, 0)
            && std::env::var_os(SWITCH).is_none_or(|value| value != "off")
            && agrees(cuda).unwrap_or(false)
    });
}

impl Activations<'_> {
    /// Writes the products with `rows`, which are bf16.
    pub fn wgmma(&mut self, rows: &Rows) -> Result<(), KernelError> {
        let x = self.bf16()?;
        let kernel = self.kernel("linear_wgmma", "linear_wgmma_bf16")?;
        let tiles = (rows.rows.div_ceil(TILE_ROWS))
            .checked_mul(self.tokens.div_ceil(TILE_TOKENS))
            .ok_or_else(|| KernelError::ShapeOverflow(vec![rows.rows as usize]))?;
        let args = [
            rows.out.into(),
            rows.weights.into(),
            x.into(),
            rows.bias.into(),
            rows.rows.into(),
            self.tokens.into(),
            self.chunks.into(),
            rows.stride.into(),
        ];
        let config = LaunchConfig::linear(tiles, 256).shared(SHARED_BYTES);
        // SAFETY: the kernel writes `rows` values of each token, `stride` apart, and reads as many rows of the weight and of the bias.
        unsafe { self.launch(kernel, config, &args) }
    }
}

/// Whether it gives the products of the general kernel: more tiles than one in each direction, the last ones in part.
fn agrees(cuda: &CudaDevice) -> Result<bool, KernelError> {
    cuda.kernel("linear_wgmma", "linear_wgmma_bf16")?; // emulated devices do not have it
    trial::agrees(cuda, [300, 600, 9 * CHUNK], true, |activations, rows| {
        activations.wgmma(rows).map(|()| true)
    })
}
