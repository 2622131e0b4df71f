//! `out[t, i] = x[t, i] / sqrt(mean_i(x[t, i]²) + eps) * weight[i]` (arXiv:1910.07467, eq. 4),
//! alone or after a residual addition.

mod cuda;
mod reference;
mod simd;

use crate::parallel::SharedMut;
use crate::simd::run;
use crate::{DType, Isa, KernelError, Tensor, Work};

/// Normalises every row of `x` (`[T, C]`): `[T, C]`. Sums are f32, in an order that depends on `C`
/// alone.
///
/// - `weight`: `[C]`.
/// - `eps`: `rms_norm_eps` of the model.
///
/// # Errors
/// [`KernelError::Shape`] unless `x` is a matrix with rows as long as `weight`,
/// [`KernelError::DType`] unless both are f32.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor, KernelError> {
    const OP: &str = "rms_norm";
    let (rows, columns) = x.dims2(OP, "x")?;
    weight.expect_shape(OP, "weight", &[columns])?;
    if let Some(cuda) = x.device().as_cuda() {
        x.expect_dtype(OP, DType::F32)?;
        weight.expect_dtype(OP, DType::F32)?;
        return cuda::rms_norm(cuda, x, weight, eps);
    }
    let (values, weight, isa) = (x.as_f32()?, weight.as_f32()?, x.device().isa());
    let bytes = 2 * rows * columns * size_of::<f32>();
    let _span = x.device().record(|| Work::moving(OP, bytes));
    let mut out = Tensor::empty(x.device(), DType::F32, x.shape())?;
    x.device()
        .pool()
        .for_each_rows(out.as_f32_mut()?, columns, |rows, out| {
            let values = &values[rows.start * columns..rows.end * columns];
            for (x, out) in values
                .chunks_exact(columns)
                .zip(out.chunks_exact_mut(columns))
            {
                norm_row(isa, x, weight, eps, out);
            }
        });
    Ok(out)
}

/// `residual += x` in place, then the norm of the new residual: `[T, C]`. The residual is read once
/// for both.
///
/// # Errors
/// As [`rms_norm`], and [`KernelError::Shape`] unless `x` has the shape of `residual`,
/// [`KernelError::Shared`] while a clone of `residual` lives.
pub fn add_rms_norm(
    residual: &mut Tensor,
    x: &Tensor,
    weight: &Tensor,
    eps: f32,
) -> Result<Tensor, KernelError> {
    const OP: &str = "add_rms_norm";
    let (rows, columns) = residual.dims2(OP, "residual")?;
    x.expect_shape(OP, "x", residual.shape())?;
    weight.expect_shape(OP, "weight", &[columns])?;
    if let Some(cuda) = residual.device().clone().as_cuda() {
        for tensor in [&*residual, x, weight] {
            tensor.expect_dtype(OP, DType::F32)?;
        }
        return cuda::add_rms_norm(cuda, residual, x, weight, eps);
    }
    let (values, weight) = (x.as_f32()?, weight.as_f32()?);
    let device = residual.device().clone();
    let bytes = 4 * rows * columns * size_of::<f32>();
    let _span = device.record(|| Work::moving(OP, bytes));
    let mut out = Tensor::empty(&device, DType::F32, &[rows, columns])?;
    let residual = SharedMut::new(residual.as_f32_mut()?);
    device
        .pool()
        .for_each_rows(out.as_f32_mut()?, columns, |rows, out| {
            // SAFETY: `for_each_rows` hands out disjoint rows, and these are the same rows of the
            // residual.
            let residual = unsafe { residual.slice(rows.start * columns, rows.len() * columns) };
            let values = values[rows.start * columns..].chunks_exact(columns);
            for ((residual, x), out) in residual
                .chunks_exact_mut(columns)
                .zip(values)
                .zip(out.chunks_exact_mut(columns))
            {
                add_row(device.isa(), residual, x);
                norm_row(device.isa(), residual, weight, eps, out);
            }
        });
    Ok(out)
}

/// `residual += x` in place, for the addition that no norm follows.
///
/// # Errors
/// [`KernelError::Shape`] unless `x` has the shape of `residual` (a matrix), [`KernelError::DType`]
/// unless both are f32, [`KernelError::Shared`] while a clone of `residual` lives.
pub fn add(residual: &mut Tensor, x: &Tensor) -> Result<(), KernelError> {
    const OP: &str = "add";
    let (rows, columns) = residual.dims2(OP, "residual")?;
    x.expect_shape(OP, "x", residual.shape())?;
    if let Some(cuda) = residual.device().clone().as_cuda() {
        x.expect_dtype(OP, DType::F32)?;
        residual.expect_dtype(OP, DType::F32)?;
        return cuda::add(cuda, residual, x);
    }
    let values = x.as_f32()?;
    let device = residual.device().clone();
    let bytes = 3 * rows * columns * size_of::<f32>();
    let _span = device.record(|| Work::moving(OP, bytes));
    device
        .pool()
        .for_each_rows(residual.as_f32_mut()?, columns, |rows, residual| {
            add_row(
                device.isa(),
                residual,
                &values[rows.start * columns..rows.end * columns],
            );
        });
    Ok(())
}

/// A normalisation: what [`rms_norm`] takes beside the values.
#[derive(Debug, Clone, Copy)]
pub struct Norm<'a> {
    /// `[C]`.
    pub weight: &'a Tensor,
    /// `rms_norm_eps` of the model.
    pub eps: f32,
}

/// `residual += norm(x)` in place: [`rms_norm`] and [`add`], in one launch on a graphics processor.
///
/// # Errors
/// As [`rms_norm`] and [`add`].
pub fn add_normed(residual: &mut Tensor, x: &Tensor, norm: Norm<'_>) -> Result<(), KernelError> {
    const OP: &str = "add_normed";
    let (_, columns) = residual.dims2(OP, "residual")?;
    x.expect_shape(OP, "x", residual.shape())?;
    norm.weight.expect_shape(OP, "weight", &[columns])?;
    if let Some(cuda) = residual.device().clone().as_cuda() {
        for tensor in [&*residual, x, norm.weight] {
            tensor.expect_dtype(OP, DType::F32)?;
        }
        return cuda::add_normed(cuda, residual, x, norm);
    }
    add(residual, &rms_norm(x, norm.weight, norm.eps)?)
}

/// `residual += norm(x)` in place, then the norm `next` of the new residual: [`rms_norm`] and
/// [`add_rms_norm`], in one launch on a graphics processor.
///
/// # Errors
/// As [`rms_norm`] and [`add_rms_norm`].
pub fn add_normed_rms_norm(
    residual: &mut Tensor,
    x: &Tensor,
    norm: Norm<'_>,
    next: Norm<'_>,
) -> Result<Tensor, KernelError> {
    const OP: &str = "add_normed_rms_norm";
    let (_, columns) = residual.dims2(OP, "residual")?;
    x.expect_shape(OP, "x", residual.shape())?;
    norm.weight.expect_shape(OP, "weight", &[columns])?;
    next.weight.expect_shape(OP, "next weight", &[columns])?;
    if let Some(cuda) = residual.device().clone().as_cuda() {
        for tensor in [&*residual, x, norm.weight, next.weight] {
            tensor.expect_dtype(OP, DType::F32)?;
        }
        return cuda::add_normed_rms_norm(cuda, residual, x, norm, next);
    }
    let x = rms_norm(x, norm.weight, norm.eps)?;
    add_rms_norm(residual, &x, next.weight, next.eps)
}

fn norm_row(isa: Isa, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    if let Err(kernel) = run(
        isa,
        simd::NormRow {
            x,
            weight,
            eps,
            out,
        },
    ) {
        reference::norm_row(x, weight, eps, kernel.out);
    }
}

fn add_row(isa: Isa, residual: &mut [f32], x: &[f32]) {
    if let Err(kernel) = run(isa, simd::Add { residual, x }) {
        reference::add(kernel.residual, x);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Random, assert_close, devices, every_device};

    const SIZES: [(usize, usize); 7] = [
        (0, 8),
        (1, 1),
        (1, 7),
        (3, 8),
        (2, 129),
        (4, 4096),
        (70, 333),
    ]; // empty, tails, a real width, several tasks

    #[test]
    fn every_isa_matches_the_reference() {
        for device in every_device(2) {
            for (rows, columns) in SIZES {
                let mut random = Random::new((rows * columns) as u64);
                let (values, weight) = (random.values(rows * columns), random.values(columns));
                let mut want = vec![f32::NAN; rows * columns];
                for (x, out) in values
                    .chunks_exact(columns)
                    .zip(want.chunks_exact_mut(columns))
                {
                    reference::norm_row(x, &weight, 1e-5, out);
                }
                let x = Tensor::from_f32(&device, &values, &[rows, columns]).unwrap();
                let weight = Tensor::from_f32(&device, &weight, &[columns]).unwrap();
                let got = rms_norm(&x, &weight, 1e-5).unwrap(); // starts as NaN: an element never written cannot pass
                assert_close(
                    &got.to_f32_vec().unwrap(),
                    &want,
                    1e-6,
                    &format!("{device:?} [{rows}, {columns}]"),
                );
            }
        }
    }

    #[test]
    fn the_fused_form_is_the_sum_and_its_norm() {
        for device in every_device(2) {
            for (rows, columns) in SIZES {
                let mut random = Random::new(columns as u64);
                let tensor =
                    |values: &[f32]| Tensor::from_f32(&device, values, &[rows, columns]).unwrap();
                let (a, b) = (random.values(rows * columns), random.values(rows * columns));
                let weight =
                    Tensor::from_f32(&device, &random.values(columns), &[columns]).unwrap();
                let sum: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();

                let mut residual = tensor(&a);
                let normed = add_rms_norm(&mut residual, &tensor(&b), &weight, 1e-6).unwrap();
                assert_eq!(residual.to_f32_vec().unwrap(), sum);
                let norm = rms_norm(&residual, &weight, 1e-6).unwrap();
                assert_eq!(normed.to_f32_vec().unwrap(), norm.to_f32_vec().unwrap());

                let mut residual = tensor(&a);
                add(&mut residual, &tensor(&b)).unwrap();
                assert_eq!(residual.to_f32_vec().unwrap(), sum);
            }
        }
    }

    #[test]
    fn the_fused_forms_with_two_norms_are_those_in_a_row() {
        for device in every_device(2) {
            for (rows, columns) in SIZES {
                let mut random = Random::new(columns as u64);
                let mut tensor = |shape: &[usize]| {
                    let values = random.values(shape.iter().product());
                    Tensor::from_f32(&device, &values, shape).unwrap()
                };
                let (before, x) = (tensor(&[rows, columns]), tensor(&[rows, columns]));
                let (weight, next) = (tensor(&[columns]), tensor(&[columns]));
                let [norm, next] =
                    [(&weight, 1e-5), (&next, 1e-6)].map(|(weight, eps)| Norm { weight, eps });
                let copy =
                    || Tensor::from_f32(&device, &before.to_f32_vec().unwrap(), before.shape());
                let same = |got: &Tensor, want: &Tensor| {
                    let [got, want] = [got, want].map(|x| x.to_f32_vec().unwrap());
                    assert_close(
                        &got,
                        &want,
                        1e-6,
                        &format!("{device:?} [{rows}, {columns}]"),
                    );
                };

                let mut want = copy().unwrap();
                add(&mut want, &rms_norm(&x, norm.weight, norm.eps).unwrap()).unwrap();
                let mut got = copy().unwrap();
                add_normed(&mut got, &x, norm).unwrap();
                same(&got, &want);

                let mut got = copy().unwrap();
                let normed = add_normed_rms_norm(&mut got, &x, norm, next).unwrap();
                same(&got, &want);
                same(&normed, &rms_norm(&want, next.weight, next.eps).unwrap());
            }
        }
    }

    #[test]
    fn a_row_of_zeros_stays_finite() {
        for device in every_device(1) {
            let x = Tensor::zeros(&device, DType::F32, &[1, 20]).unwrap();
            let weight = Tensor::from_f32(&device, &[1.0; 20], &[20]).unwrap();
            assert_eq!(
                rms_norm(&x, &weight, 1e-5).unwrap().to_f32_vec().unwrap(),
                [0.0; 20]
            );
        }
    }

    #[test]
    fn wrong_shapes_and_shared_memory_are_errors() {
        let device = devices(1).remove(0);
        let zeros = |shape: &[usize]| Tensor::zeros(&device, DType::F32, shape).unwrap();
        let mut x = zeros(&[2, 4]);
        assert!(matches!(
            rms_norm(&x, &zeros(&[5]), 1e-5),
            Err(KernelError::Shape { name: "weight", .. })
        ));
        assert!(matches!(
            rms_norm(&zeros(&[4]), &zeros(&[4]), 1e-5),
            Err(KernelError::Shape { name: "x", .. })
        ));
        assert!(matches!(
            add(&mut x, &zeros(&[4, 2])),
            Err(KernelError::Shape { name: "x", .. })
        ));
        let half = Tensor::zeros(&device, DType::F16, &[2, 4]).unwrap();
        assert!(matches!(
            rms_norm(&half, &zeros(&[4]), 1e-5),
            Err(KernelError::DType { .. })
        ));
        let clone = x.clone();
        assert!(matches!(
            add_rms_norm(&mut x, &zeros(&[2, 4]), &zeros(&[4]), 1e-5),
            Err(KernelError::Shared { .. })
        ));
        drop(clone);
        add_rms_norm(&mut x, &zeros(&[2, 4]), &zeros(&[4]), 1e-5).unwrap();
    }
}
