//! The softmax of a row of scores, up to division by the sum.

use std::arch::x86_64::*;

use super::pack::split;
use super::tiles::{COLUMNS, STEP};

/// Turns the scores of a row into weights, `2^(score - max)` for the first `visible` and exactly 0 for others, as pairs: those of 32 scores take
/// their place, 16 pairs of `hi`, then 16 of `lo`. Returns the maximum and the sum of the weights.
///
/// `scales`, if keys and values have any: what to multiply scores by before, and weights by after they are summed.
///
/// # Panics
/// If `scores` are not whole steps or more than there are scales.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn weigh(
    scores: &mut [f32],
    visible: usize,
    scales: Option<(&[f32], &[f32])>,
) -> (f32, f32) {
    if visible == 0 {
        scores.fill(0.0);
        return (f32::NEG_INFINITY, 0.0);
    }
    assert!(scores.len().is_multiple_of(STEP));
    if let Some((key_scales, _)) = scales {
        for (score, scale) in scores.iter_mut().zip(&key_scales[..visible]) {
            *score *= scale;
        }
    }
    scores[visible..].fill(f32::NEG_INFINITY);
    // Finite, so that a row of nothing but NaN does not pass for one that sees no keys.
    let mut max = _mm512_set1_ps(f32::MIN);
    for scores in scores.chunks_exact(COLUMNS) {
        max = _mm512_max_ps(load(scores), max);
    }
    let max = _mm512_reduce_max_ps(max);
    let mut sums = [_mm512_setzero_ps(); 2];
    for (step, scores) in scores.chunks_exact_mut(STEP).enumerate() {
        let weights = [0, COLUMNS].map(|at| {
            let score = load(&scores[at..]);
            exp2(_mm512_sub_ps(score, _mm512_set1_ps(max)))
        });
        sums = [0, 1].map(|i| _mm512_add_ps(sums[i], weights[i]));
        let weights = match scales {
            Some((_, value_scales)) => [0, 1].map(|i| {
                let scales = load(&value_scales[step * STEP + i * COLUMNS..]);
                _mm512_mul_ps(weights[i], scales)
            }),
            None => weights,
        };
        let (hi, lo) = split(weights[0], weights[1]);
        // SAFETY: a step is 32 values of four bytes.
        unsafe {
            _mm512_storeu_si512(scores.as_mut_ptr().cast(), hi);
            _mm512_storeu_si512(scores.as_mut_ptr().add(COLUMNS).cast(), lo);
        }
    }
    (max, _mm512_reduce_add_ps(_mm512_add_ps(sums[0], sums[1])))
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load(from: &[f32]) -> __m512 {
    assert!(from.len() >= COLUMNS);
    // SAFETY: 16 values are there.
    unsafe { _mm512_loadu_ps(from.as_ptr()) }
}

/// `2^x`, for `x` of at most 0: within 1.5e-7 of itself where that is a normal number, 0 far below, NaN for NaN.
///
/// `x = n + r` with integer `n` and `r` in 0..1; `2^r` is a polynomial fitted for the least relative error, 1 at 0.
#[target_feature(enable = "avx512f,avx512dq")]
#[inline]
fn exp2(x: __m512) -> __m512 {
    const POLYNOMIAL: [f32; 6] = [
        1.867_130_5e-3,
        9.017_029e-3,
        5.579_991_3e-2,
        2.401_644_4e-1,
        6.931_513e-1,
        1.0,
    ];
    const FRACTION: i32 = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
    let r = _mm512_reduce_ps::<FRACTION>(x);
    let mut p = _mm512_set1_ps(POLYNOMIAL[0]);
    for coefficient in &POLYNOMIAL[1..] {
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(*coefficient));
    }
    _mm512_scalef_ps(p, x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Avx512;

    fn exp2_of(x: [f32; COLUMNS]) -> [f32; COLUMNS] {
        let mut out = [f32::NAN; COLUMNS];
        // SAFETY: only called where AVX-512 was detected; `out` is one vector.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), exp2(load(&x))) };
        out
    }

    #[test]
    fn exp2_is_as_near_as_it_says() {
        if Avx512::detect().is_none() {
            println!("skipped: no AVX-512 here");
            return;
        }
        let (mut worst, mut at) = (0.0, 0.0);
        for first in (0..126 * 4096).step_by(COLUMNS) {
            let x = std::array::from_fn(|lane| -((first + lane) as f32) / 4096.0);
            for (x, got) in x.into_iter().zip(exp2_of(x)) {
                let want = f64::from(x).exp2();
                let error = (f64::from(got) - want).abs() / want;
                if error > worst {
                    (worst, at) = (error, x);
                }
            }
        }
        assert!(worst <= 1.5e-7, "{worst:e} at {at}");
        let extremes = [0.0, -1.0, -200.0, f32::MIN, f32::NEG_INFINITY, f32::NAN];
        let mut x = [0.0; COLUMNS];
        x[..extremes.len()].copy_from_slice(&extremes);
        let got = exp2_of(x);
        assert_eq!(got[..5], [1.0, 0.5, 0.0, 0.0, 0.0]);
        assert!(got[5].is_nan());
    }
}
