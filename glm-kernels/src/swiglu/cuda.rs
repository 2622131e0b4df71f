//! The launch: four columns a thread. Bytes: 12 for each result; a few dozen instructions hide behind them.

use super::OP;
use crate::cuda::{CudaDevice, LaunchConfig, size_arg};
use crate::{DType, KernelError, Tensor};

const THREADS: usize = 256;

pub(super) fn swiglu(
    cuda: &CudaDevice,
    gate_up: &Tensor,
    rows: usize,
    width: usize,
) -> Result<Tensor, KernelError> {
    let mut out = Tensor::empty(gate_up.device(), DType::F32, &[rows, width])?;
    let config = LaunchConfig::new(
        [
            size_arg(OP, "rows", rows)?,
            size_arg(OP, "columns", width.div_ceil(4 * THREADS))?,
            1,
        ],
        [THREADS as u32, 1, 1],
    );
    let args = [
        gate_up.cuda_ptr(OP, "gate_up", cuda)?.into(),
        out.cuda_ptr_mut(OP, "out", cuda)?.into(),
        size_arg(OP, "columns", width)?.into(),
    ];
    let kernel = cuda.kernel("swiglu", "swiglu")?;
    // SAFETY: the shape of `gate_up` was checked, and `out` is new and as large as the kernel writes.
    unsafe { cuda.launch(kernel, &config.overlapping(), &args)? };
    Ok(out)
}
