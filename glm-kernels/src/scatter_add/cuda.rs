//! The launch: a column a thread. Bytes: what is added and what it is added to are read once, the sum is
//! written once.

use super::OP;
use crate::cuda::{CudaDevice, LaunchConfig, size_arg};
use crate::{Indices, KernelError, Tensor};

const THREADS: usize = 256;

pub(super) fn scatter_add(
    cuda: &CudaDevice,
    out: &mut Tensor,
    rows: &Indices,
    start: usize,
    x: &Tensor,
    scale: f32,
) -> Result<(), KernelError> {
    let (_, width) = out.dims2(OP, "out")?;
    let (_, columns) = x.dims2(OP, "x")?;
    let config = LaunchConfig::new(
        [
            size_arg(OP, "rows", rows.len())?,
            size_arg(OP, "columns", columns.div_ceil(THREADS))?,
            1,
        ],
        [THREADS as u32, 1, 1],
    );
    let args = [
        out.cuda_ptr_mut(OP, "out", cuda)?.into(),
        rows.cuda_ptr(cuda)?.into(),
        x.cuda_ptr(OP, "x", cuda)?.into(),
        scale.into(),
        size_arg(OP, "columns", width)?.into(),
        size_arg(OP, "start", start)?.into(),
        size_arg(OP, "columns", columns)?.into(),
    ];
    let kernel = cuda.kernel("scatter_add", "scatter_add")?;
    // SAFETY: rows and columns were checked to be of `out`, and no row is named twice.
    unsafe { cuda.launch(kernel, &config.overlapping(), &args) }
}
