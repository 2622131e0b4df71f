//! `out[i, :] = x[rows[i], :]`: the rows whose logits are wanted. A copy, so there is nothing for
//! vector code to do better than `memcpy`.

mod cuda;

use crate::{DType, Indices, KernelError, Tensor, Work};

const OP: &str = "gather_rows";

/// Rows `rows` of `x` (`[T, C]`, f32), in that order and as often as they are named: `[rows.len(),
/// C]`.
///
/// # Errors
/// [`KernelError::Shape`] unless `x` is a matrix, [`KernelError::DType`] unless it is f32,
/// [`KernelError::Index`] for a row that it does not have.
pub fn gather_rows(x: &Tensor, rows: &Indices) -> Result<Tensor, KernelError> {
    let (len, columns) = x.dims2(OP, "x")?;
    rows.check_below(OP, "row", len)?;
    if let Some(cuda) = x.device().as_cuda() {
        x.expect_dtype(OP, DType::F32)?;
        return cuda::gather_rows(cuda, x, rows, columns);
    }
    let values = x.as_f32()?;
    let bytes = 2 * rows.len() * columns * size_of::<f32>();
    let _span = x.device().record(|| Work::moving(OP, bytes));
    let mut out = Tensor::empty(x.device(), DType::F32, &[rows.len(), columns])?;
    x.device()
        .pool()
        .for_each_rows(out.as_f32_mut()?, columns, |range, out| {
            for (row, out) in rows[range].iter().zip(out.chunks_exact_mut(columns)) {
                let start = *row as usize * columns;
                out.copy_from_slice(&values[start..start + columns]);
            }
        });
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Random, devices, every_device};

    #[test]
    fn rows_arrive_in_the_order_asked_for() {
        for device in every_device(2) {
            for (len, columns) in [(1, 1), (7, 3), (5, 129), (400, 256)] {
                let values = Random::new(1).values(len * columns);
                let x = Tensor::from_f32(&device, &values, &[len, columns]).unwrap();
                let rows: Vec<u32> = (0..len as u32).rev().chain([0, 0]).collect();
                let got = gather_rows(&x, &rows.clone().into()).unwrap();
                assert_eq!(got.shape(), [len + 2, columns]);
                let want: Vec<f32> = rows
                    .iter()
                    .flat_map(|row| &values[*row as usize * columns..][..columns])
                    .copied()
                    .collect();
                assert_eq!(got.to_f32_vec().unwrap(), want);
            }
        }
    }

    #[test]
    fn a_row_that_is_not_there_is_an_error() {
        let device = devices(1).remove(0);
        let x = Tensor::zeros(&device, DType::F32, &[2, 3]).unwrap();
        assert_eq!(
            gather_rows(&x, &[0, 2].into()).unwrap_err(),
            KernelError::Index {
                op: OP,
                name: "row",
                index: 2,
                len: 2
            }
        );
        assert_eq!(
            gather_rows(&x, &Indices::default()).unwrap().shape(),
            [0, 3]
        );
        assert!(matches!(
            gather_rows(&x.reshape(&[6]).unwrap(), &[0].into()),
            Err(KernelError::Shape { .. })
        ));
    }
}
