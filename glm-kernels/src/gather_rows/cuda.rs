//! The launch: four columns a thread. Bytes: each value read once and written once.

use super::OP;
use crate::cuda::{CudaDevice, LaunchConfig, size_arg};
use crate::{DType, Indices, KernelError, Tensor};

const THREADS: usize = 256;

pub(super) fn gather_rows(
    cuda: &CudaDevice,
    x: &Tensor,
    rows: &Indices,
    columns: usize,
) -> Result<Tensor, KernelError> {
    let from = x.cuda_ptr(OP, "x", cuda)?;
    let mut out = Tensor::empty(x.device(), DType::F32, &[rows.len(), columns])?;
    let config = LaunchConfig::new(
        [
            size_arg(OP, "rows", rows.len())?,
            size_arg(OP, "columns", columns.div_ceil(4 * THREADS))?,
            1,
        ],
        [THREADS as u32, 1, 1],
    );
    let args = [
        from.into(),
        rows.cuda_ptr(cuda)?.into(),
        out.cuda_ptr_mut(OP, "out", cuda)?.into(),
        size_arg(OP, "columns", columns)?.into(),
    ];
    let kernel = cuda.kernel("gather_rows", "gather_rows")?;
    // SAFETY: the rows were checked to be of `x`, and `out` is new and has a row for each of them.
    unsafe { cuda.launch(kernel, &config.overlapping(), &args)? };
    Ok(out)
}
