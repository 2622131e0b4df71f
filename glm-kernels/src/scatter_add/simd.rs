//! The vector form.

use crate::simd::{Kernel, Simd};

/// As [`super::reference::add_scaled`].
pub(super) struct AddScaled<'a> {
    pub out: &'a mut [f32],
    pub x: &'a [f32],
    pub scale: f32,
}

impl Kernel for AddScaled<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let scale = simd.splat(self.scale);
        let vectors = self.out.chunks_mut(S::LANES).zip(self.x.chunks(S::LANES));
        for (out, x) in vectors {
            if x.len() == S::LANES {
                let sum = simd.mul_add(scale, simd.load(x), simd.load(out));
                simd.store(sum, out);
            } else {
                let sum = simd.mul_add(scale, simd.load_partial(x), simd.load_partial(out));
                simd.store_partial(sum, out);
            }
        }
    }
}
