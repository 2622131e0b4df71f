//! The vector form.

use crate::simd::{Kernel, Simd};

/// One row, as [`super::reference::norm_row`]. Four sums side by side hide the latency of the
/// multiply-add, and keep each of them short.
pub(super) struct NormRow<'a> {
    pub x: &'a [f32],
    pub weight: &'a [f32],
    pub eps: f32,
    pub out: &'a mut [f32],
}

impl Kernel for NormRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let mut sums = [simd.splat(0.0); 4];
        let groups = self.x.chunks_exact(4 * S::LANES);
        for x in groups.remainder().chunks(S::LANES) {
            let x = simd.load_partial(x);
            sums[0] = simd.mul_add(x, x, sums[0]);
        }
        for group in groups {
            for (i, sum) in sums.iter_mut().enumerate() {
                let x = simd.load(&group[i * S::LANES..]);
                *sum = simd.mul_add(x, x, *sum);
            }
        }
        let sum = simd.reduce_add(simd.add(simd.add(sums[0], sums[1]), simd.add(sums[2], sums[3])));
        let inverse = simd.splat(1.0 / (sum / self.x.len() as f32 + self.eps).sqrt());

        let rows = self
            .x
            .chunks(S::LANES)
            .zip(self.weight.chunks(S::LANES))
            .zip(self.out.chunks_mut(S::LANES));
        for ((x, weight), out) in rows {
            if x.len() == S::LANES {
                let normed = simd.mul(simd.load(x), inverse);
                simd.store(simd.mul(normed, simd.load(weight)), out);
            } else {
                let normed = simd.mul(simd.load_partial(x), inverse);
                simd.store_partial(simd.mul(normed, simd.load_partial(weight)), out);
            }
        }
    }
}

/// `residual += x`, as [`super::reference::add`].
pub(super) struct Add<'a> {
    pub residual: &'a mut [f32],
    pub x: &'a [f32],
}

impl Kernel for Add<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for (residual, x) in self
            .residual
            .chunks_mut(S::LANES)
            .zip(self.x.chunks(S::LANES))
        {
            if x.len() == S::LANES {
                simd.store(simd.add(simd.load(residual), simd.load(x)), residual);
            } else {
                simd.store_partial(
                    simd.add(simd.load_partial(residual), simd.load_partial(x)),
                    residual,
                );
            }
        }
    }
}
