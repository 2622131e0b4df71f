//! The scalar reference.

/// One row: `out = x / sqrt(mean(x²) + eps) * weight`. The mean is summed in f64, so it is the most
/// exact of the paths.
pub(super) fn norm_row(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let sum: f64 = x.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    let inverse = 1.0 / ((sum / x.len() as f64) as f32 + eps).sqrt();
    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = x * inverse * weight;
    }
}

/// `residual += x`.
pub(super) fn add(residual: &mut [f32], x: &[f32]) {
    for (residual, x) in residual.iter_mut().zip(x) {
        *residual += x;
    }
}
