//! The vector form: the loops of the reference with the instruction set enabled, which the compiler
//! turns into shuffles and multiplications. Nothing is contracted to fused operations, so all paths
//! agree to the bit.

use super::{Pairing, reference};
use crate::simd::{Kernel, Simd};

/// Rotates each head of a row, as [`reference::rotate`].
pub(super) struct RotateHeads<'a> {
    pub pairing: Pairing,
    pub heads: &'a mut [f32],
    pub head_dim: usize,
    pub cos: &'a [f32],
    pub sin: &'a [f32],
}

impl Kernel for RotateHeads<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) {
        for head in self.heads.chunks_exact_mut(self.head_dim) {
            reference::rotate(self.pairing, head, self.cos, self.sin);
        }
    }
}
