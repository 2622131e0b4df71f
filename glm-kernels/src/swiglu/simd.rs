//! The vector form.

use crate::simd::{Kernel, Simd, silu};

/// As [`super::reference::swiglu`].
pub(super) struct SwiGlu<'a> {
    pub gate: &'a [f32],
    pub up: &'a [f32],
    pub out: &'a mut [f32],
}

impl Kernel for SwiGlu<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let vectors = self
            .gate
            .chunks(S::LANES)
            .zip(self.up.chunks(S::LANES))
            .zip(self.out.chunks_mut(S::LANES));
        for ((gate, up), out) in vectors {
            if out.len() == S::LANES {
                simd.store(simd.mul(silu(simd, simd.load(gate)), simd.load(up)), out);
            } else {
                simd.store_partial(
                    simd.mul(silu(simd, simd.load_partial(gate)), simd.load_partial(up)),
                    out,
                );
            }
        }
    }
}
