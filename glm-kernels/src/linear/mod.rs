//! `out[t, r] = Σ_c x[t, c] * weight[r, c] + bias[r]`: the linear layer, for every weight format.
//!
//! # Weights
//! A [`Weight`] is packed when it is built, in panels of 16 rows (see `layout`): a 512-bit vector holds four codes, or one float, of each row, two
//! 256-bit vectors the same. There are no horizontal sums, and scales of 16 rows are applied at once.
//!
//! # Arithmetic
//! - Float weights: widened to f32, fused multiply-add, exact products with f32 activations. (bf16 weights on a matrix unit: activations as two bf16
//!   each, which lose `2^-17` of a value.)
//! - Quantised weights: activations are rounded to 8 bits in blocks of 32 columns once per call, and a block's dot product is exact in integers, on
//!   whatever unit; scales and minima are applied in f32, per block. The formats of GGML differ only in how codes and scales are unpacked, so all of
//!   them take this path.
//! - The result for a token does not depend on the other tokens of the call, nor on the number of threads, to the bit.
//!
//! # Cost
//! One token (`direct`): every weight is read once, `byte_len()` bytes against two operations per value, so memory bandwidth is the limit. Two panels
//! are read at a time, because a core fetches two streams faster than one.
//!
//! Several tokens (`gemm`): a chunk of two panels is unpacked into bytes in the nearest cache and meets tile after tile of sixteen tokens. Of the
//! operations on a block of 32 columns, eight of eleven are products on a vector unit (`vpdpbusd`), so 73 % of its peak is the limit. The matrix unit
//! is limited by storing and scaling products, see `amx`.
//!
//! Two to sixteen tokens on a matrix unit: each weight is read once as well, and what overlaps is memory, unpacking and products, see `amx`. Elsewhere
//! they are a single tile of the above.
//!
//! Measured in CPU time on one core of a Xeon (2026-11-21, commit a2422d6; other work on the machine): 512 tokens, 12288 x 2048 values, billion
//! multiply-adds per second: AMX Q8_0 335, Q4_K 268, Q6_K 200; AVX-512 Q8_0 212, Q4_K 198, F16 71.
//!
//! In GLM-Edge-1.5B, two threads, of 37 GB/s (`glm-cli bench --profile`, the same day): one token, `gate_up_proj`, Q8_0 33, Q4_K_M 31 GB/s; sixteen
//! tokens (`--batch 16`, commit 548344b), Q8_0, 19 to 24 GB/s.
//!
//! The bench `linear` prints the share of a machine's limits.

mod activations;
#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod amx_bf16;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod bf16_rows;
mod codec;
mod cuda;
mod direct;
mod float;
mod gemm;
mod job;
mod lanes;
mod layout;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(test)]
mod reference;
mod scalar;
mod weight;

use std::ops::Range;

pub use crate::quant::WeightFormat;
pub(crate) use cuda::rows as cuda_rows;
pub use weight::{Weight, WeightBuilder};

use crate::parallel::SharedMut;
use crate::{DType, Device, Isa, KernelError, Tensor, Work, swiglu};
use activations::QuantizedRows;
#[cfg(target_arch = "x86_64")]
use bf16_rows::Bf16Rows;
use job::{Activations, Job, Output};

/// Panels of a task are at least this many bytes times tokens, some microseconds of work.
const MIN_TASK_BYTES: usize = 64 << 10;

/// The linear layer `x @ weight^T + bias`.
///
/// - `x`: `[T, in_features]`, f32; `bias`: `[out_features]`, f32; result: `[T, out_features]`, f32.
/// - With float weights the result is that of f32 arithmetic; with quantised weights `x` is rounded to 8 bits per block of 32. On a graphics processor
///   `x` of more than a few tokens is rounded to 16 bits, see `cuda`.
///
/// # Errors
/// [`KernelError::Shape`] or [`KernelError::DType`] if `x` or `bias` does not fit the weight, [`KernelError::OtherDevice`] if they are elsewhere;
/// [`KernelError::OutOfMemory`], and the device's own.
pub fn linear(x: &Tensor, weight: &Weight, bias: Option<&Tensor>) -> Result<Tensor, KernelError> {
    const OP: &str = "linear";
    let (tokens, cols) = x.dims2(OP, "x")?;
    if cols != weight.in_features() {
        return Err(shape_error(OP, "x", &[tokens, weight.in_features()], x));
    }
    if let Some(bias) = bias.filter(|bias| bias.shape() != [weight.out_features()]) {
        return Err(shape_error(OP, "bias", &[weight.out_features()], bias));
    }
    let device = x.device();
    device.check_same(OP, "weight", weight.device())?;
    if let Some(cuda) = device.as_cuda() {
        return cuda::linear(cuda, x, weight, bias);
    }
    let _span = device.record(|| {
        let shape = [weight.out_features(), cols];
        let products = tokens as u64 * shape[0] as u64 * shape[1] as u64;
        Work::computing(OP, shape, weight.byte_len(), 2 * products)
    });
    let mut out = Tensor::empty(device, DType::F32, &[tokens, weight.out_features()])?;
    let (values, bias) = (x.as_f32()?, bias.map(Tensor::as_f32).transpose()?);
    let x = activations(device, values, cols, weight)?;

    let shared = SharedMut::new(out.as_f32_mut()?);
    let mut jobs = Vec::with_capacity(weight.row_segments().len());
    for segment in weight.row_segments() {
        let out = Output {
            values: &shared,
            stride: weight.out_features(),
            start: segment.rows.start,
            bias,
        };
        jobs.push((Job::new(segment, &x, out), segment.panels()));
    }
    let panels: usize = jobs.iter().map(|(_, panels)| panels).sum();
    let panel_work = (weight.byte_len() / panels).max(1) * tokens.max(1);
    let grain = MIN_TASK_BYTES.div_ceil(panel_work);
    device
        .pool()
        .for_each_range(panels, grain, |range| run(device.isa(), &jobs, range));
    drop(jobs);
    Ok(out)
}

/// The gated feed-forward block `down(silu(gate) * up)`, where one weight holds the rows of `gate`, then those of `up`.
///
/// - `x`: `[T, in_features]`; `gate_up`: `[2F, in_features]`; `down`: `[out_features, F]`; result: `[T, out_features]`.
///
/// # Errors
/// As [`linear`]; [`KernelError::Shape`] unless `gate_up` has twice as many rows as `down` has columns.
pub fn gated_mlp(x: &Tensor, gate_up: &Weight, down: &Weight) -> Result<Tensor, KernelError> {
    if gate_up.out_features() != 2 * down.in_features() {
        return Err(KernelError::Shape {
            op: "gated_mlp",
            name: "gate_up",
            expected: vec![2 * down.in_features(), gate_up.in_features()],
            found: vec![gate_up.out_features(), gate_up.in_features()],
        });
    }
    let hidden = swiglu(&linear(x, gate_up, None)?)?;
    linear(&hidden, down, None)
}

fn shape_error(
    op: &'static str,
    name: &'static str,
    expected: &[usize],
    found: &Tensor,
) -> KernelError {
    KernelError::Shape {
        op,
        name,
        expected: expected.to_vec(),
        found: found.shape().to_vec(),
    }
}

/// `values`, `[T, cols]`, in the forms that the formats of `weight` take.
fn activations<'a>(
    device: &Device,
    values: &'a [f32],
    cols: usize,
    weight: &Weight,
) -> Result<Activations<'a>, KernelError> {
    let any = |holds: fn(WeightFormat) -> bool| {
        let mut segments = weight.row_segments().iter();
        segments.any(|segment| holds(segment.format))
    };
    Ok(Activations {
        values,
        tokens: values.len() / cols,
        cols,
        codes: any(WeightFormat::is_quantized)
            .then(|| QuantizedRows::new(device, values, cols))
            .transpose()?,
        #[cfg(target_arch = "x86_64")]
        bf16: (matches!(device.isa(), Isa::Amx(_)) && any(|format| format == WeightFormat::BF16))
            .then(|| Bf16Rows::new(device, values, cols))
            .transpose()?,
    })
}

/// Computes `range` of the panels of all segments, counted through.
fn run(isa: Isa, jobs: &[(Job, usize)], range: Range<usize>) {
    let mut first = 0;
    for (job, panels) in jobs {
        let part = range.start.max(first)..range.end.min(first + panels);
        if !part.is_empty() {
            run_segment(isa, job, part.start - first..part.end - first);
        }
        first += panels;
    }
}

fn run_segment(isa: Isa, job: &Job, panels: Range<usize>) {
    match isa {
        Isa::Scalar => scalar::run(job, panels),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2(cpu) => avx2::run(cpu, job, panels),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512(cpu) => avx512::run(cpu, job, panels),
        #[cfg(target_arch = "x86_64")]
        Isa::Amx(cpu) => amx::run(cpu, job, panels),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon(cpu) => neon::run(cpu, job, panels),
    }
}

#[cfg(test)]
mod tests;
