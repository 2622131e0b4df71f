//! `out[t, i] = silu(gate[t, i]) * up[t, i]` with `silu(x) = x / (1 + e^-x)` (arXiv:2002.05202,
//! section 2).

mod cuda;
mod reference;
mod simd;

use crate::parallel::SharedMut;
use crate::simd::run;
use crate::{DType, Isa, KernelError, Tensor, Work};

const OP: &str = "swiglu";

/// Columns of one task: a row of one token is wide enough to be split, since each element costs an
/// exponential.
const COLUMNS_PER_TASK: usize = 4096;

/// The gated activation of `gate_up` (`[T, 2F]`, the gate in the first `F` columns): `[T, F]`.
///
/// # Errors
/// [`KernelError::Shape`] unless `gate_up` is a matrix, [`KernelError::Value`] unless it has an
/// even number of columns, [`KernelError::DType`] unless it is f32.
pub fn swiglu(gate_up: &Tensor) -> Result<Tensor, KernelError> {
    let (rows, columns) = gate_up.dims2(OP, "gate_up")?;
    if !columns.is_multiple_of(2) {
        return Err(KernelError::Value {
            op: OP,
            name: "columns of gate_up",
            found: columns,
            rule: "even",
        });
    }
    if let Some(cuda) = gate_up.device().as_cuda() {
        gate_up.expect_dtype(OP, DType::F32)?;
        return cuda::swiglu(cuda, gate_up, rows, columns / 2);
    }
    let (values, width, device) = (gate_up.as_f32()?, columns / 2, gate_up.device());
    let _span = device.record(|| Work::moving(OP, 3 * rows * width * size_of::<f32>()));
    let mut out = Tensor::empty(device, DType::F32, &[rows, width])?;
    let shared = SharedMut::new(out.as_f32_mut()?);
    let pieces = width.div_ceil(COLUMNS_PER_TASK);
    device.pool().for_each(rows * pieces, |task| {
        let (row, start) = (task / pieces, task % pieces * COLUMNS_PER_TASK);
        let len = COLUMNS_PER_TASK.min(width - start);
        let gate = &values[row * columns + start..][..len];
        let up = &values[row * columns + width + start..][..len];
        // SAFETY: each task has its own row or its own columns of a row.
        let out = unsafe { shared.slice(row * width + start, len) };
        swiglu_slice(device.isa(), gate, up, out);
    });
    Ok(out)
}

/// `out = silu(gate) * up`; the three are of one length. For kernels that fuse the activation with
/// what comes before it.
pub(crate) fn swiglu_slice(isa: Isa, gate: &[f32], up: &[f32], out: &mut [f32]) {
    if let Err(kernel) = run(isa, simd::SwiGlu { gate, up, out }) {
        reference::swiglu(gate, up, kernel.out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Random, assert_close, devices, every_device};

    #[test]
    fn every_isa_matches_the_reference() {
        for device in every_device(2) {
            for (rows, width) in [
                (0, 8),
                (1, 1),
                (1, 7),
                (3, 129),
                (2, 4096),
                (1, 13_696),
                (40, 500),
            ] {
                let values: Vec<f32> = Random::new(width as u64)
                    .values(rows * 2 * width)
                    .iter()
                    .map(|x| x * 20.0)
                    .collect();
                let mut want = vec![f32::NAN; rows * width];
                for (row, out) in values
                    .chunks_exact(2 * width)
                    .zip(want.chunks_exact_mut(width))
                {
                    reference::swiglu(&row[..width], &row[width..], out);
                }
                let gate_up = Tensor::from_f32(&device, &values, &[rows, 2 * width]).unwrap();
                let got = swiglu(&gate_up).unwrap(); // starts as NaN
                assert_eq!(got.shape(), [rows, width]);
                assert_close(
                    &got.to_f32_vec().unwrap(),
                    &want,
                    1e-6,
                    &format!("{device:?} [{rows}, {width}]"),
                );
            }
        }
    }

    #[test]
    fn known_values() {
        for device in every_device(1) {
            let gate_up =
                Tensor::from_f32(&device, &[0.0, 1.0, -1.0, 3.0, 2.0, 2.0], &[1, 6]).unwrap();
            // silu(1) = 1 / (1 + 1/e)
            assert_close(
                &swiglu(&gate_up).unwrap().to_f32_vec().unwrap(),
                &[0.0, 1.462_117_2, -0.537_882_84],
                1e-6,
                "known",
            );
        }
    }

    #[test]
    fn an_odd_width_is_an_error() {
        let device = devices(1).remove(0);
        let x = Tensor::zeros(&device, DType::F32, &[2, 5]).unwrap();
        assert!(matches!(
            swiglu(&x),
            Err(KernelError::Value { found: 5, .. })
        ));
    }
}
