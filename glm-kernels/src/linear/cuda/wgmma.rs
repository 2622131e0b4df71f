//! Products of prompts on Hopper's tensor cores (`wgmma.cu`), where the kernel has proved itself.
//!
//! It is the one kernel that the emulated device cannot run. So before the first weight of a model is used, a device of compute capability 9.0
//! multiplies random numbers with it and with the general kernel; unless the two agree, three times over, it is not used.

use super::activations::Activations;
use super::launch::Rows;
use super::pack::CHUNK;
use crate::cuda::{CudaDevice, DeviceBuffer, LaunchConfig};
use crate::{KernelError, WeightFormat};

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
pub(in crate::linear) fn check(cuda: &CudaDevice) {
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

/// Whether both kernels give the same products, up to rounding: more tiles than one in each direction, the last ones in part.
fn agrees(cuda: &CudaDevice) -> Result<bool, KernelError> {
    cuda.kernel("linear_wgmma", "linear_wgmma_bf16")?; // emulated devices do not have it
    let (tokens, rows, columns) = (300, 600, 9 * CHUNK);
    let mut state = 1u32;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let weights: Vec<u8> = (0..rows * columns)
        .flat_map(|_| half::bf16::from_f32(random()).to_le_bytes())
        .collect();
    let x: Vec<u8> = (0..tokens * columns)
        .flat_map(|_| random().to_le_bytes())
        .collect();
    let bias: Vec<u8> = (0..rows).flat_map(|_| random().to_le_bytes()).collect();
    let (weights, x, bias) = (
        upload(cuda, &weights)?,
        upload(cuda, &x)?,
        upload(cuda, &bias)?,
    );
    let mut activations = Activations::new(cuda, x.ptr(), tokens, columns)?;
    let mut product = |wgmma: bool| {
        let mut out = cuda.allocate(tokens * rows * size_of::<f32>())?;
        out.fill(0xff)?; // not a number, where nothing is written
        let rows = Rows {
            format: WeightFormat::BF16,
            weights: weights.ptr(),
            rows: rows as u32,
            bias: bias.ptr(),
            out: out.ptr(),
            stride: rows as u32,
        };
        match wgmma {
            true => activations.wgmma(&rows)?,
            false => activations.gemm(&rows, 128)?,
        }
        let mut bytes = vec![0; out.len()];
        out.copy_out(0, &mut bytes)?;
        let values = bytes.as_chunks().0.iter();
        Ok::<_, KernelError>(
            values
                .map(|word| f32::from_le_bytes(*word))
                .collect::<Vec<_>>(),
        )
    };
    let want = product(false)?;
    for _ in 0..3 {
        let got = product(true)?;
        // Sums of 576 products below 1, in two orders; written so that NaN fails.
        let same = got
            .iter()
            .zip(&want)
            .all(|(got, want)| (got - want).abs() <= 1e-3);
        if !same {
            return Ok(false);
        }
    }
    Ok(true)
}

fn upload(cuda: &CudaDevice, bytes: &[u8]) -> Result<DeviceBuffer, KernelError> {
    let mut buffer = cuda.allocate(bytes.len())?;
    buffer.copy_in(0, bytes)?;
    Ok(buffer)
}
