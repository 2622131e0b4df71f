//! The scalar reference, and with it every path: `simd` compiles these very loops for each
//! instruction set.

use super::Pairing;

/// Rotates the pairs of the first `2 * cos.len()` elements of a head; the rest stays.
#[inline(always)]
pub(super) fn rotate(pairing: Pairing, head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let rotary = &mut head[..2 * cos.len()];
    match pairing {
        Pairing::Interleaved => {
            for ((pair, cos), sin) in rotary.chunks_exact_mut(2).zip(cos).zip(sin) {
                (pair[0], pair[1]) = rotate_pair(pair[0], pair[1], *cos, *sin);
            }
        }
        Pairing::HalfSplit => {
            let (first, second) = rotary.split_at_mut(cos.len());
            for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                (*a, *b) = rotate_pair(*a, *b, *cos, *sin);
            }
        }
    }
}

#[inline(always)]
fn rotate_pair(a: f32, b: f32, cos: f32, sin: f32) -> (f32, f32) {
    (a * cos - b * sin, b * cos + a * sin)
}
