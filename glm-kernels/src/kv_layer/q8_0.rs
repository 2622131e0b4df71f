//! Keys and values as bytes: `x / scale` to the nearest integer, halves away from zero, where `scale`
//! maps the largest magnitude of a head of one token to 127.

use crate::Isa;
use crate::simd::{Kernel, Simd, run};

/// The scale of one head, `[D]`; not 0, so that zeros can be divided by it, and NaN if there is one.
pub(super) fn scale(isa: Isa, x: &[f32]) -> f32 {
    let largest =
        run(isa, LargestMagnitude(x)).unwrap_or_else(|kernel| reference_largest(kernel.0));
    let scale = f32::from_bits(largest) / 127.0;
    // Not `max`, which would lose a NaN.
    if scale < f32::MIN_POSITIVE {
        f32::MIN_POSITIVE
    } else {
        scale
    }
}

/// The bytes of a head or a part of it, under the scale of the whole; NaN becomes 0, since the scale
/// keeps it.
pub(super) fn to_bytes(isa: Isa, x: &[f32], scale: f32, out: &mut [i8]) {
    if let Err(ToBytes { x, scale, out }) = run(isa, ToBytes { x, scale, out }) {
        reference_to_bytes(x, scale, out);
    }
}

/// The largest number below 0.5. Adding 0.5 itself would carry what is just below a half to the next
/// integer.
const BELOW_HALF: f32 = 0.499_999_97;

fn reference_to_bytes(x: &[f32], scale: f32, out: &mut [i8]) {
    for (out, x) in out.iter_mut().zip(x) {
        let x = x / scale;
        *out = (x + BELOW_HALF.copysign(x)) as i32 as i8;
    }
}

/// The bits of the largest magnitude. Magnitudes compare as integers, and NaN is the largest: it
/// reaches the scale, and so what is read back, instead of vanishing.
fn reference_largest(x: &[f32]) -> u32 {
    let bits = x.iter().map(|x| x.to_bits() & 0x7fff_ffff);
    bits.max().unwrap_or(0)
}

/// The vector form of [`reference_largest`].
struct LargestMagnitude<'a>(&'a [f32]);

impl Kernel for LargestMagnitude<'_> {
    type Output = u32;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> u32 {
        let mut largest = simd.splat(0.0);
        let vectors = self.0.chunks_exact(S::LANES);
        let rest = simd.load_partial(vectors.remainder());
        for x in vectors {
            largest = simd.max_magnitude(largest, simd.load(x));
        }
        let mut lanes = [0.0; MAX_LANES];
        simd.store(simd.max_magnitude(largest, rest), &mut lanes);
        reference_largest(&lanes)
    }
}

/// Lanes of the widest vectors.
const MAX_LANES: usize = 16;

/// The vector form of [`reference_to_bytes`].
struct ToBytes<'a> {
    x: &'a [f32],
    scale: f32,
    out: &'a mut [i8],
}

impl Kernel for ToBytes<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (scale, half) = (simd.splat(self.scale), simd.splat(BELOW_HALF));
        let mut vectors = self.x.chunks_exact(S::LANES);
        let mut bytes = self.out.chunks_exact_mut(S::LANES);
        for (x, out) in vectors.by_ref().zip(bytes.by_ref()) {
            let x = simd.div(simd.load(x), scale);
            simd.store_i8(simd.add(x, simd.with_sign_of(half, x)), out);
        }
        reference_to_bytes(vectors.remainder(), self.scale, bytes.into_remainder());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    fn bytes(isa: Isa, x: &[f32], scale: f32) -> Vec<i8> {
        let mut out = vec![i8::MAX; x.len()];
        to_bytes(isa, x, scale, &mut out);
        out
    }

    #[test]
    fn every_isa_gives_the_bits_of_the_reference() {
        let special = [f32::NAN, f32::INFINITY, -0.0, 1e-40, f32::MAX, -1e-45];
        let mut random = Random::new(11);
        for isa in Isa::available() {
            println!("q8_0: {isa}");
            for len in (0..40).chain([64, 128, 129]) {
                for hot in 0..special.len() + 1 {
                    let mut x = random.values(len);
                    if let (Some(&special), false) = (special.get(hot), x.is_empty()) {
                        let at = random.below(len);
                        x[at] = special;
                    }
                    let (got, want) = (scale(isa, &x), scale(Isa::Scalar, &x));
                    assert_eq!(got.to_bits(), want.to_bits(), "{isa}: {x:?}");
                    assert_eq!(
                        bytes(isa, &x, got),
                        bytes(Isa::Scalar, &x, want),
                        "{isa}: {x:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn bytes_are_rounded_to_the_nearest_and_halves_away_from_zero() {
        let just_below = |half: f32| f32::from_bits(half.to_bits() - 1);
        let mut x: Vec<f32> = (-2540..=2540).map(|i| i as f32 * 0.05).collect();
        for whole in -127..127 {
            let half = whole as f32 + 0.5;
            x.extend([half, just_below(half), -just_below(half)]);
        }
        let rounded: Vec<i8> = x.iter().map(|x| x.round() as i8).collect();
        for isa in Isa::available() {
            assert_eq!(bytes(isa, &x, 1.0), rounded, "{isa}");
            assert_eq!(bytes(isa, &[f32::NAN; 17], 1.0), [0; 17], "{isa}");
        }
    }
}
