//! The searches behind the K-quants: scales that make the weighted squared error of a sub-block small.
//!
//! Everything is written as loops over arrays of fixed length, which the compiler turns into vector code: these few lines run for each of some
//! twenty candidates per sub-block of a model.
//!
//! Source: `make_qkx2_quants` and `make_qx_quants` in llama.cpp's `ggml-quants.c`.

/// Sums run in this many lanes, so that they vectorise.
const LANES: usize = 8;

/// A scale below this is a sub-block of zeros (`GROUP_MAX_EPS` in ggml).
pub(super) const TINY: f32 = 1e-15;

/// The nearest integer, ties to even, of a number below `2^22` in magnitude. Adding `1.5 * 2^23` leaves no bits for a fraction.
#[inline(always)]
pub(super) fn nearest(value: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0;
    (value + SHIFT) - SHIFT
}

/// The sum of `term(i)` over `0..N`, in lanes; `N` is a multiple of 8.
#[inline(always)]
fn sum<const N: usize>(term: impl Fn(usize) -> f32) -> f32 {
    let mut terms = [0.0f32; N];
    for (i, out) in terms.iter_mut().enumerate() {
        *out = term(i);
    }
    let mut lanes = [0.0f32; LANES];
    for terms in terms.as_chunks::<LANES>().0 {
        for (lane, term) in lanes.iter_mut().zip(terms) {
            *lane += term;
        }
    }
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

/// How [`affine`] searches.
pub(super) struct AffineSearch {
    /// The largest code.
    pub max_code: f32,
    /// The first inverse scale tried is `(max_code + first) / (max - min)`.
    pub first: f32,
    /// How many more are tried, in steps of 0.1.
    pub steps: usize,
}

/// The scale and the minimum (as a number `>= 0` to subtract) for which `scale * code - minimum` approximates `values` best.
///
/// - `N`: the values of a sub-block, a multiple of 8;
/// - `weights`: how much the error of each counts.
#[inline(always)]
pub(super) fn affine<const N: usize>(
    values: &[f32; N],
    weights: &[f32; N],
    search: &AffineSearch,
) -> (f32, f32) {
    let max = values.iter().copied().fold(values[0], f32::max);
    let mut min = values.iter().copied().fold(0.0, f32::min);
    if max <= min {
        return (0.0, -min);
    }
    let max_code = search.max_code;
    let sum_w = sum::<N>(|i| weights[i]);
    let sum_x = sum::<N>(|i| weights[i] * values[i]);

    let mut scale = (max - min) / max_code;
    let codes = affine_codes(values, max_code / (max - min), min, max_code);
    let mut best = error(values, weights, &codes, scale, min);
    for step in 0..=search.steps {
        // The range starts at the best minimum so far.
        let inverse = (search.first + 0.1 * step as f32 + max_code) / (max - min);
        let codes = affine_codes(values, inverse, min, max_code);
        let sum_l = sum::<N>(|i| weights[i] * codes[i]);
        let sum_l2 = sum::<N>(|i| weights[i] * codes[i] * codes[i]);
        let sum_xl = sum::<N>(|i| weights[i] * codes[i] * values[i]);
        // Least squares for these codes: two equations, unknown scale and minimum.
        let determinant = sum_w * sum_l2 - sum_l * sum_l;
        if determinant <= 0.0 {
            continue;
        }
        let mut this_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
        let mut this_min = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
        if this_min > 0.0 {
            this_min = 0.0;
            this_scale = sum_xl / sum_l2;
        }
        let this = error(values, weights, &codes, this_scale, this_min);
        if this < best {
            (best, scale, min) = (this, this_scale, this_min);
        }
    }
    (scale, -min)
}

#[inline(always)]
fn affine_codes<const N: usize>(
    values: &[f32; N],
    inverse: f32,
    min: f32,
    max_code: f32,
) -> [f32; N] {
    let mut codes = [0.0; N];
    for (code, value) in codes.iter_mut().zip(values) {
        *code = nearest(inverse * (value - min)).clamp(0.0, max_code);
    }
    codes
}

#[inline(always)]
fn error<const N: usize>(
    values: &[f32; N],
    weights: &[f32; N],
    codes: &[f32; N],
    scale: f32,
    min: f32,
) -> f32 {
    sum::<N>(|i| {
        let difference = scale * codes[i] + min - values[i];
        weights[i] * difference * difference
    })
}

/// The scale for which `scale * code`, with codes from `-limit` to `limit - 1`, approximates `values` best. The error of a value counts by
/// its square. Zero if all values are.
#[inline(always)]
pub(super) fn symmetric<const N: usize>(values: &[f32; N], limit: f32) -> f32 {
    let extreme = extreme(values);
    if extreme.abs() < TINY {
        return 0.0;
    }
    let (xl, l2) = symmetric_fit(values, -limit / extreme, limit);
    // For given codes the best scale is `xl / l2`, and it lowers the error by `xl^2 / l2`.
    let mut scale = if l2 > 0.0 { xl / l2 } else { 0.0 };
    let mut best = scale * xl;
    for step in (-9..=9).filter(|step| *step != 0) {
        let (xl, l2) = symmetric_fit(values, -(limit + 0.1 * step as f32) / extreme, limit);
        if l2 > 0.0 && xl * xl > best * l2 {
            scale = xl / l2;
            best = scale * xl;
        }
    }
    scale
}

/// The weighted sums of value times code and of code times code, for the codes that `inverse` gives.
#[inline(always)]
fn symmetric_fit<const N: usize>(values: &[f32; N], inverse: f32, limit: f32) -> (f32, f32) {
    let mut codes = [0.0; N];
    for (code, value) in codes.iter_mut().zip(values) {
        *code = nearest(inverse * value).clamp(-limit, limit - 1.0);
    }
    let xl = sum::<N>(|i| values[i] * values[i] * codes[i] * values[i]);
    let l2 = sum::<N>(|i| values[i] * values[i] * codes[i] * codes[i]);
    (xl, l2)
}

/// The value farthest from zero, the first of them; zero if there is none.
#[inline(always)]
pub(super) fn extreme(values: &[f32]) -> f32 {
    values.iter().copied().fold(0.0f32, |best, value| {
        if value.abs() > best.abs() {
            value
        } else {
            best
        }
    })
}
