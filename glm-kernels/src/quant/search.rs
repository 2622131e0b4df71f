//! The searches behind the K-quants: scales that make the weighted squared error of a sub-block small.
//!
//! Source: `make_qkx2_quants` and `make_qx_quants` in llama.cpp's `ggml-quants.c`.

/// Sums run in this many lanes, so that they vectorise.
const LANES: usize = 8;

/// A scale below this is a sub-block of zeros (`GROUP_MAX_EPS` in ggml).
pub(super) const TINY: f32 = 1e-15;

/// The nearest integer, ties to even, of a number below `2^22` in magnitude. Adding `1.5 * 2^23` leaves no bits for a fraction.
#[inline]
pub(super) fn nearest(value: f32) -> i32 {
    const SHIFT: f32 = 12_582_912.0;
    ((value + SHIFT) - SHIFT) as i32
}

/// Sums `N` terms per element over all elements, in lanes. `f` is given the index of the element.
#[inline(always)]
fn sums<const N: usize>(len: usize, f: impl Fn(usize) -> [f32; N]) -> [f32; N] {
    let mut lanes = [[0.0f32; LANES]; N];
    for start in (0..len).step_by(LANES) {
        for lane in 0..LANES {
            let terms = f(start + lane);
            for (sum, term) in lanes.iter_mut().zip(terms) {
                sum[lane] += term;
            }
        }
    }
    lanes.map(|lane| lane.iter().sum())
}

/// How [`affine`] searches.
pub(super) struct AffineSearch {
    /// The largest code.
    pub max_code: i32,
    /// The first inverse scale tried is `(max_code + first) / (max - min)`.
    pub first: f32,
    /// How many more are tried, in steps of 0.1.
    pub steps: usize,
}

/// The scale and the minimum (as a number `>= 0` to subtract) for which `scale * code - minimum` approximates `values` best.
///
/// - `N`: the values of a sub-block, a multiple of 8;
/// - `weights`: how much the error of each counts.
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
    let max_code = search.max_code as f32;
    let code = |inverse: f32, min: f32, i: usize| {
        nearest(inverse * (values[i] - min)).clamp(0, search.max_code) as f32
    };
    let [sum_w, sum_x] = sums(N, |i| [weights[i], weights[i] * values[i]]);

    let mut scale = (max - min) / max_code;
    let mut best = error(values, weights, scale, min, |i| {
        code(max_code / (max - min), min, i)
    });
    for step in 0..=search.steps {
        // The range starts at the best minimum so far.
        let inverse = (search.first + 0.1 * step as f32 + max_code) / (max - min);
        let mut codes = [0.0; N];
        codes
            .iter_mut()
            .enumerate()
            .for_each(|(i, out)| *out = code(inverse, min, i));
        let [sum_l, sum_l2, sum_xl] = sums(N, |i| {
            let weighted = weights[i] * codes[i];
            [weighted, weighted * codes[i], weighted * values[i]]
        });
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
        let this = error(values, weights, this_scale, this_min, |i| codes[i]);
        if this < best {
            (best, scale, min) = (this, this_scale, this_min);
        }
    }
    (scale, -min)
}

#[inline(always)]
fn error<const N: usize>(
    values: &[f32; N],
    weights: &[f32; N],
    scale: f32,
    min: f32,
    code: impl Fn(usize) -> f32,
) -> f32 {
    let [sum] = sums(N, |i| {
        let difference = scale * code(i) + min - values[i];
        [weights[i] * difference * difference]
    });
    sum
}

/// The scale for which `scale * code`, with codes from `-limit` to `limit - 1`, approximates `values` best. The error of a value counts by
/// its square. Zero if all values are.
pub(super) fn symmetric(values: &[f32; 16], limit: i32) -> f32 {
    let extreme = values.iter().copied().fold(0.0f32, |best, value| {
        if value.abs() > best.abs() {
            value
        } else {
            best
        }
    });
    if extreme.abs() < TINY {
        return 0.0;
    }
    // For given codes the best scale is `xl / l2`, and it lowers the error by `xl^2 / l2`.
    let fit = |inverse: f32| {
        sums(16, |i| {
            let code = nearest(inverse * values[i]).clamp(-limit, limit - 1) as f32;
            let weighted = values[i] * values[i] * code;
            [weighted * values[i], weighted * code]
        })
    };
    let scale_of = |[xl, l2]: [f32; 2]| if l2 > 0.0 { xl / l2 } else { 0.0 };
    let first = fit(-(limit as f32) / extreme);
    let mut scale = scale_of(first);
    let mut best = scale * first[0];
    for step in (-9..=9).filter(|step| *step != 0) {
        let [xl, l2] = fit(-(limit as f32 + 0.1 * step as f32) / extreme);
        if l2 > 0.0 && xl * xl > best * l2 {
            scale = xl / l2;
            best = scale * xl;
        }
    }
    scale
}
