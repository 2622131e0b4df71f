//! The linear layer on graphics processors.
//!
//! # Kernels
//! | tokens | weights | kernel | arithmetic |
//! |---|---|---|---|
//! | 1 to 4 | bf16, f16; f32 with any number | `float.cu`: a warp has rows | f32 |
//! | 1 to 8 | codes | `gemv.cu`: a block has a panel of 16 rows, eight warps share its columns | activations in 8 bits, as on the CPU, `dp4a` |
//! | 1 to 4 | fp8 | the same | f32 |
//! | 128 and more | bf16, where it is installed | NVIDIA's library (`cublaslt.rs`); not in recorded steps | bf16 |
//! | 256 and more | bf16, on Hopper | `wgmma.cu`: tiles of 256 rows x 128 tokens | bf16 |
//! | more | all but f32 | `gemm.cu`: tiles of 64 x 16, 128 x 64, 256 x 128 | bf16 with bf16, anything else as f16 |
//!
//! But for `wgmma.cu`, weights go from memory to registers and are unpacked there, once; only activations of many tokens pass through shared memory.
//! What a kernel reads, how it is shared out and why is in front of each source, how weights lie in memory in `formats.cu`. Kernels overlap with the one
//! before (programmatic dependent launch): they ask for weights, which nobody writes, before they wait for activations.
//!
//! `GLM_WGMMA=off` in the environment keeps `wgmma.cu` out, `GLM_CUBLASLT=off` the library: what cannot be tried on the CPU.
//!
//! # What results depend on
//! Unlike on the CPU, a token's result depends on how many tokens there are, because they choose the kernel, and on the number of multiprocessors,
//! which chooses how many parts a sum has. It does not depend on scheduling: sums are added in a fixed order.
//!
//! # Cost
//! Bytes of the weight against two operations per value and token. One multiprocessor of an H200 moves 19 bytes a clock from memory (4.3 TB/s of 132 at
//! 1.7 GHz) and issues 128 lanes a clock. Per weight, `gemv` issues for one token about 1.3 lanes (int4: unpacking 3/8, products 2/8, scaling 5/8), so
//! int4 needs 38 x 1.3 of the 128 a clock; eight tokens need 7 a weight, twice what there is, so that int4 comes to half of the memory's speed there.
//! A row of tiles reads its activations once from the level 2 cache (some 45 bytes a clock): 64 tokens of 64 columns are 8 KiB against 4 KiB of int4 or
//! 16 KiB of bf16 in a tile of 128 rows, so memory stays the limit for bf16, the cache for int4. `gemm_*_128` is limited by `mma.sync`, 62 % of the
//! peak of `wgmma` on Hopper.
//!
//! Expected: of the memory's speed, one token 85 % (bf16), 75 % (8 bits), 60 % (4 bits); 16 tokens 80, 70, 60 %; 64 tokens 80, 60, 45 %. **Not yet
//! verified on a GPU.**

mod activations;
mod cublaslt;
mod launch;
mod names;
pub(super) mod pack;
#[cfg(test)]
mod tests;
mod trial;
mod wgmma;

use super::Weight;
use crate::cuda::{CudaDevice, DevicePtr, LaunchConfig};
use crate::{DType, Indices, KernelError, Tensor};
use activations::Activations;

/// Tries what cannot be tried but on this device, unless that was done before.
pub(super) fn prepare(cuda: &CudaDevice) {
    wgmma::check(cuda);
    cublaslt::check(cuda);
}

/// `x @ weight^T + bias`; arguments fit.
pub(super) fn linear(
    cuda: &CudaDevice,
    x: &Tensor,
    weight: &Weight,
    bias: Option<&Tensor>,
) -> Result<Tensor, KernelError> {
    const OP: &str = "linear";
    for tensor in std::iter::once(x).chain(bias) {
        tensor.expect_dtype(OP, DType::F32)?;
    }
    let tokens = x.shape()[0];
    let out = Tensor::empty(x.device(), DType::F32, &[tokens, weight.out_features()])?;
    if tokens == 0 {
        return Ok(out);
    }
    let start = out.cuda_ptr(OP, "out", cuda)?;
    let bias = bias
        .map(|bias| bias.cuda_ptr(OP, "bias", cuda))
        .transpose()?;
    let stride = size(weight.out_features())?;
    let mut x = Activations::new(
        cuda,
        x.cuda_ptr(OP, "x", cuda)?,
        tokens,
        weight.in_features(),
    )?;
    for segment in weight.row_segments() {
        let skipped = segment.rows.start * size_of::<f32>();
        x.multiply(&launch::Rows {
            format: segment.format,
            weights: segment.cuda().ptr(),
            rows: size(segment.rows.len())?,
            bias: bias.map_or(DevicePtr(0), |bias| bias.offset(skipped)),
            out: start.offset(skipped),
            stride,
        })?;
    }
    Ok(out)
}

/// Rows `ids` of `table`, all of which it has, as f32: `[T, in_features]`.
pub(crate) fn rows(
    cuda: &CudaDevice,
    table: &Weight,
    ids: &Indices,
) -> Result<Tensor, KernelError> {
    const OP: &str = "embed";
    let columns = table.in_features();
    let out = Tensor::empty(table.device(), DType::F32, &[ids.len(), columns])?;
    let to = out.cuda_ptr(OP, "out", cuda)?;
    let grid = [size(ids.len())?, size(columns.div_ceil(2048))?, 1];
    for segment in table.row_segments() {
        let kernel = cuda.kernel("linear_rows", names::rows(segment.format))?;
        let args = [
            to.into(),
            segment.cuda().ptr().into(),
            ids.cuda_ptr(cuda)?.into(),
            size(segment.rows.start)?.into(),
            size(segment.rows.len())?.into(),
            size(columns)?.into(),
            size(padded(columns)?)?.into(),
        ];
        let config = LaunchConfig::new(grid, [256, 1, 1]).overlapping();
        // SAFETY: the kernel writes rows of `out` for those of `ids` that the segment has.
        unsafe { cuda.launch(kernel, &config, &args) }?;
    }
    Ok(out)
}

/// Columns that rows of a weight, and of rounded activations, take.
fn padded(columns: usize) -> Result<usize, KernelError> {
    pack::padded(columns).ok_or_else(|| KernelError::ShapeOverflow(vec![columns]))
}

/// A size as kernels take it.
fn size(value: usize) -> Result<u32, KernelError> {
    u32::try_from(value).map_err(|_| KernelError::ShapeOverflow(vec![value]))
}
