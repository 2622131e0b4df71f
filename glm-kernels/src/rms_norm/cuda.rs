//! The launches: a block per row, whose values stay in registers between the sum and the scaling. Bytes:
//! each operand once. For one token that is 32 KiB at `C` = 4096, so the launch is what takes time.

use super::Norm;
use crate::cuda::{CudaDevice, KernelArg, LaunchConfig, size_arg};
use crate::{DType, KernelError, Tensor};

/// Threads of a block of element by element work.
const THREADS: usize = 256;

const MODULE: &str = "rms_norm";

pub(super) fn rms_norm(
    cuda: &CudaDevice,
    x: &Tensor,
    weight: &Tensor,
    eps: f32,
) -> Result<Tensor, KernelError> {
    const OP: &str = "rms_norm";
    let (rows, columns) = x.dims2(OP, "x")?;
    let mut out = Tensor::empty(x.device(), DType::F32, &[rows, columns])?;
    let args = [
        x.cuda_ptr(OP, "x", cuda)?.into(),
        weight.cuda_ptr(OP, "weight", cuda)?.into(),
        eps.into(),
        out.cuda_ptr_mut(OP, "out", cuda)?.into(),
        size_arg(OP, "columns", columns)?.into(),
    ];
    let kernels = ["rms_norm_vectors", "rms_norm_any"];
    // SAFETY: the shapes were checked, and `out` is new and has the shape of `x`.
    unsafe { launch_rows(cuda, OP, kernels, [rows, columns], &args)? };
    Ok(out)
}

pub(super) fn add_rms_norm(
    cuda: &CudaDevice,
    residual: &mut Tensor,
    x: &Tensor,
    weight: &Tensor,
    eps: f32,
) -> Result<Tensor, KernelError> {
    const OP: &str = "add_rms_norm";
    let (rows, columns) = residual.dims2(OP, "residual")?;
    let mut out = Tensor::empty(x.device(), DType::F32, &[rows, columns])?;
    let args = [
        residual.cuda_ptr_mut(OP, "residual", cuda)?.into(),
        x.cuda_ptr(OP, "x", cuda)?.into(),
        weight.cuda_ptr(OP, "weight", cuda)?.into(),
        eps.into(),
        out.cuda_ptr_mut(OP, "out", cuda)?.into(),
        size_arg(OP, "columns", columns)?.into(),
    ];
    let kernels = ["rms_norm_add_vectors", "rms_norm_add_any"];
    // SAFETY: the shapes were checked; `residual` is nobody else's, and `out` is new and has its shape.
    unsafe { launch_rows(cuda, OP, kernels, [rows, columns], &args)? };
    Ok(out)
}

pub(super) fn add_normed(
    cuda: &CudaDevice,
    residual: &mut Tensor,
    x: &Tensor,
    norm: Norm<'_>,
) -> Result<(), KernelError> {
    const OP: &str = "add_normed";
    let (rows, columns) = residual.dims2(OP, "residual")?;
    let out = residual.cuda_ptr_mut(OP, "residual", cuda)?;
    let weight = norm.weight.cuda_ptr(OP, "weight", cuda)?;
    let args = [
        out.into(),
        x.cuda_ptr(OP, "x", cuda)?.into(),
        weight.into(),
        norm.eps.into(),
        weight.into(), // neither this
        norm.eps.into(),
        out.into(), // nor this is used
        size_arg(OP, "columns", columns)?.into(),
    ];
    let kernels = ["rms_norm_add_normed_vectors", "rms_norm_add_normed_any"];
    // SAFETY: the shapes were checked, and `residual` is nobody else's.
    unsafe { launch_rows(cuda, OP, kernels, [rows, columns], &args) }
}

pub(super) fn add_normed_rms_norm(
    cuda: &CudaDevice,
    residual: &mut Tensor,
    x: &Tensor,
    norm: Norm<'_>,
    next: Norm<'_>,
) -> Result<Tensor, KernelError> {
    const OP: &str = "add_normed_rms_norm";
    let (rows, columns) = residual.dims2(OP, "residual")?;
    let mut out = Tensor::empty(x.device(), DType::F32, &[rows, columns])?;
    let args = [
        residual.cuda_ptr_mut(OP, "residual", cuda)?.into(),
        x.cuda_ptr(OP, "x", cuda)?.into(),
        norm.weight.cuda_ptr(OP, "weight", cuda)?.into(),
        norm.eps.into(),
        next.weight.cuda_ptr(OP, "next weight", cuda)?.into(),
        next.eps.into(),
        out.cuda_ptr_mut(OP, "out", cuda)?.into(),
        size_arg(OP, "columns", columns)?.into(),
    ];
    let kernels = [
        "rms_norm_add_normed_norm_vectors",
        "rms_norm_add_normed_norm_any",
    ];
    // SAFETY: the shapes were checked; `residual` is nobody else's, and `out` is new and has its shape.
    unsafe { launch_rows(cuda, OP, kernels, [rows, columns], &args)? };
    Ok(out)
}

pub(super) fn add(cuda: &CudaDevice, residual: &mut Tensor, x: &Tensor) -> Result<(), KernelError> {
    const OP: &str = "add";
    let len = residual.len();
    let blocks = size_arg(OP, "blocks", len.div_ceil(4 * THREADS))?;
    let args = [
        residual.cuda_ptr_mut(OP, "residual", cuda)?.into(),
        x.cuda_ptr(OP, "x", cuda)?.into(),
        (len as u64).into(),
    ];
    let kernel = cuda.kernel(MODULE, "rms_norm_residual_add")?;
    let config = LaunchConfig::linear(blocks, THREADS as u32).overlapping();
    // SAFETY: both have `len` elements, and `residual` is nobody else's.
    unsafe { cuda.launch(kernel, &config, &args) }
}

/// Queues a kernel over rows: the first, which takes four columns at a time, if rows start at multiples of
/// 16 bytes, else the other, which takes any.
///
/// Two vectors a thread: enough loads under way, and few warps to wait for at the barriers. Their number
/// depends on `columns` alone, so a row's sum has the same order in every batch.
///
/// # Safety
/// As [`CudaDevice::launch`], for each of the two and a block for each of `rows`.
unsafe fn launch_rows(
    cuda: &CudaDevice,
    op: &'static str,
    [in_vectors, any]: [&'static str; 2],
    [rows, columns]: [usize; 2],
    args: &[KernelArg],
) -> Result<(), KernelError> {
    let (name, vectors) = match columns.is_multiple_of(4) {
        true => (in_vectors, columns / 4),
        false => (any, columns),
    };
    let threads = vectors.div_ceil(2).next_multiple_of(32).clamp(32, 1024);
    let config = LaunchConfig::linear(size_arg(op, "rows", rows)?, threads as u32);
    let kernel = cuda.kernel(MODULE, name)?;
    // SAFETY: the caller's promise.
    unsafe { cuda.launch(kernel, &config.overlapping(), args) }
}
