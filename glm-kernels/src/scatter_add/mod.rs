//! `out[rows[t], start + i] += scale * x[t, i]`: what a low-rank adapter adds to the outputs of the
//! tokens that use it (arXiv:2106.09685, section 4.1).

mod cuda;
mod reference;
mod simd;

use crate::parallel::SharedMut;
use crate::simd::run;
use crate::{DType, Indices, Isa, KernelError, Tensor, Work};

const OP: &str = "scatter_add";

/// Elements of one task: less takes no longer than handing it to another thread.
const ELEMENTS_PER_TASK: usize = 16 * 1024;

/// Adds the rows of `x` (`[R, M]`), times `scale`, to rows `rows` of `out` (`[T, N]`), from column
/// `start` on. Each product and its sum are rounded once, so a row of `out` depends on its own row
/// of `x` alone.
///
/// - `rows`: R row numbers, ascending.
///
/// # Errors
/// [`KernelError::Shape`] unless both are matrices and `x` has R rows, [`KernelError::Index`] for a
/// row or a column that `out` does not have, [`KernelError::Value`] unless `rows` ascend,
/// [`KernelError::DType`] unless both are f32, [`KernelError::Shared`] while a clone of `out`
/// lives. `out` is unchanged then.
pub fn scatter_add(
    out: &mut Tensor,
    rows: &Indices,
    start: usize,
    x: &Tensor,
    scale: f32,
) -> Result<(), KernelError> {
    let (len, width) = out.dims2(OP, "out")?;
    let (_, columns) = x.dims2(OP, "x")?;
    x.expect_shape(OP, "x", &[rows.len(), columns])?;
    check_rows(rows, len)?;
    if start.checked_add(columns).is_none_or(|end| end > width) {
        return Err(KernelError::Index {
            op: OP,
            name: "column",
            index: start.saturating_add(columns).saturating_sub(1),
            len: width,
        });
    }
    if let Some(cuda) = out.device().clone().as_cuda() {
        x.expect_dtype(OP, DType::F32)?;
        out.expect_dtype(OP, DType::F32)?;
        return cuda::scatter_add(cuda, out, rows, start, x, scale);
    }
    let values = x.as_f32()?;
    let device = out.device().clone();
    let _span = device.record(|| Work::moving(OP, 3 * size_of_val(values)));
    let out = SharedMut::new(out.as_f32_mut()?);
    let grain = ELEMENTS_PER_TASK / columns.max(1);
    device.pool().for_each_range(rows.len(), grain, |range| {
        let values = values[range.start * columns..range.end * columns].chunks(columns.max(1));
        for (row, x) in rows[range].iter().zip(values) {
            // SAFETY: the columns lie within the row, the row within the matrix, and no row is
            // named twice: all was checked above.
            let out = unsafe { out.slice(*row as usize * width + start, columns) };
            add_scaled(device.isa(), out, x, scale);
        }
    });
    Ok(())
}

fn check_rows(rows: &[u32], len: usize) -> Result<(), KernelError> {
    if let Some(pair) = rows.array_windows().find(|[a, b]| a >= b) {
        return Err(KernelError::Value {
            op: OP,
            name: "a row number",
            found: pair[1] as usize,
            rule: "larger than the one before it",
        });
    }
    match rows.last() {
        Some(&row) if row as usize >= len => Err(KernelError::Index {
            op: OP,
            name: "row",
            index: row as usize,
            len,
        }),
        _ => Ok(()),
    }
}

fn add_scaled(isa: Isa, out: &mut [f32], x: &[f32], scale: f32) {
    if let Err(kernel) = run(isa, simd::AddScaled { out, x, scale }) {
        reference::add_scaled(kernel.out, x, scale);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;
    use crate::testing::{Random, devices, every_device};

    #[test]
    fn every_isa_matches_the_reference_and_leaves_the_rest_alone() {
        for device in every_device(2) {
            for (len, width, start, columns, count) in [
                (1, 1, 0, 1, 1),
                (7, 40, 3, 37, 4),
                (5, 129, 0, 129, 5),
                (9, 4096, 100, 3001, 8),
                (64, 300, 17, 256, 63),
                (3, 8, 8, 0, 2),
                (3, 8, 0, 8, 0),
            ] {
                let mut random = Random::new(width as u64);
                let before = random.values(len * width);
                let values = random.values(count * columns);
                let mut rows = random.permutation(len);
                rows.truncate(count);
                rows.sort_unstable();
                let mut want = before.clone();
                for (i, row) in rows.iter().enumerate() {
                    let at = *row as usize * width + start;
                    let x = &values[i * columns..][..columns];
                    reference::add_scaled(&mut want[at..at + columns], x, 0.7);
                }
                let mut out = Tensor::from_f32(&device, &before, &[len, width]).unwrap();
                let x = Tensor::from_f32(&device, &values, &[count, columns]).unwrap();
                scatter_add(&mut out, &rows.clone().into(), start, &x, 0.7).unwrap();
                // Rounded once on every path, so equal to the bit.
                assert_eq!(
                    out.to_f32_vec().unwrap(),
                    want,
                    "{device:?} [{len}, {width}]"
                );
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error_and_changes_nothing() {
        let device = devices(1).remove(0);
        let mut out = Tensor::zeros(&device, DType::F32, &[3, 4]).unwrap();
        let x = Tensor::from_f32(&device, &[1.0; 4], &[2, 2]).unwrap();
        let mut add = |rows: &[u32], start| scatter_add(&mut out, &rows.into(), start, &x, 1.0);
        assert!(matches!(add(&[0], 0), Err(KernelError::Shape { .. })));
        for rows in [[1, 1], [2, 0]] {
            assert!(matches!(add(&rows, 0), Err(KernelError::Value { .. })));
        }
        assert!(matches!(
            add(&[0, 3], 0),
            Err(KernelError::Index { name: "row", .. })
        ));
        for start in [3, usize::MAX] {
            assert!(matches!(
                add(&[0, 1], start),
                Err(KernelError::Index { name: "column", .. })
            ));
        }
        assert_eq!(out.to_f32_vec().unwrap(), [0.0; 12]);
        let clone = out.clone();
        assert!(matches!(
            scatter_add(&mut out, &[0, 1].into(), 0, &x, 1.0),
            Err(KernelError::Shared { .. })
        ));
        drop(clone);
    }
}
