//! Elementary functions over [`Simd`].

use super::Simd;

/// Below this the result would not be a normal number; it is 0.
const EXP_MIN: f32 = -87.336_54;
/// Above this the result stays at `exp(88)`, about 1.65e38.
const EXP_MAX: f32 = 88.0;

/// `e^x`, within 2 units in the last place for `x` in -87.33..=88; 0 below, saturated above, NaN
/// for NaN.
///
/// `x = n·ln 2 + r` with integer `n` and `|r| <= ln 2 / 2`, so `e^x = 2^n · e^r`; `ln 2` is split
/// in two so that `r` is exact, and `e^r` is the polynomial of Cephes' `expf` (S. Moshier,
/// netlib.org/cephes).
#[inline(always)]
pub(crate) fn exp<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    const POLYNOMIAL: [f32; 6] = [
        1.987_569_1e-4,
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ];

    let clamped = simd.min(simd.splat(EXP_MAX), simd.max(simd.splat(EXP_MIN), x));
    let n = simd.round(simd.mul(clamped, simd.splat(std::f32::consts::LOG2_E)));
    let r = simd.mul_add(n, simd.splat(-LN_2_HIGH), clamped);
    let r = simd.mul_add(n, simd.splat(-LN_2_LOW), r);
    let mut p = simd.splat(POLYNOMIAL[0]);
    for coefficient in &POLYNOMIAL[1..] {
        p = simd.mul_add(p, r, simd.splat(*coefficient));
    }
    let p = simd.mul_add(simd.mul(p, r), r, simd.add(r, simd.splat(1.0)));
    let value = simd.mul(p, simd.exp2_of_integer(n));
    simd.zero_where_less(x, simd.splat(EXP_MIN), value)
}

/// `x · sigmoid(x) = x / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn silu<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    let e = exp(simd, simd.sub(simd.splat(0.0), x));
    simd.div(x, simd.add(simd.splat(1.0), e))
}

/// `2^x`, within 2 units in the last place for `x` in -126..=127; 0 below, saturated above, NaN for NaN.
///
/// `x = n + r` with integer `n` and `|r| <= 1/2`, so `2^x = 2^n · 2^r`, and `2^r` is the polynomial of Cephes' `exp2f`.
#[inline(always)]
pub(crate) fn exp2<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    const MIN: f32 = -126.0;
    const MAX: f32 = 127.0;
    const POLYNOMIAL: [f32; 6] = [
        1.535_336_2e-4,
        1.339_887_4e-3,
        9.618_437e-3,
        5.550_332_5e-2,
        2.402_264_8e-1,
        6.931_472e-1,
    ];

    let clamped = simd.min(simd.splat(MAX), simd.max(simd.splat(MIN), x));
    let n = simd.round(clamped);
    let r = simd.sub(clamped, n);
    let mut p = simd.splat(POLYNOMIAL[0]);
    for coefficient in &POLYNOMIAL[1..] {
        p = simd.mul_add(p, r, simd.splat(*coefficient));
    }
    let p = simd.mul_add(p, r, simd.splat(1.0));
    let value = simd.mul(p, simd.exp2_of_integer(n));
    simd.zero_where_less(x, simd.splat(MIN), value)
}
