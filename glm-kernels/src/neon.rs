//! Products of bytes on 64-bit Arm. The intrinsics `vdotq_s32` and `vmmlaq_s32` are not stable, so their instructions are written out.
//!
//! # Safety
//! Each function may be called only where the CPU has the extension it names, from a function that enables it (`#[target_feature]`), into which
//! it is inlined.

use std::arch::aarch64::*;
use std::arch::asm;

/// Adds to each lane of `sum` the dot product of the four bytes there; FEAT_DotProd.
#[inline(always)]
pub(crate) unsafe fn dot(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: the caller's contract; no memory is touched.
    unsafe {
        asm!("sdot {0:v}.4s, {1:v}.16b, {2:v}.16b", inout(vreg) sum, in(vreg) a, in(vreg) b,
            options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

/// As [`dot`] with the four bytes of lane `LANE` of `b` everywhere.
#[inline(always)]
pub(crate) unsafe fn dot_lane<const LANE: usize>(
    mut sum: int32x4_t,
    a: int8x16_t,
    b: int8x16_t,
) -> int32x4_t {
    // SAFETY: the caller's contract; no memory is touched.
    unsafe {
        asm!("sdot {0:v}.4s, {1:v}.16b, {2:v}.4b[{3}]", inout(vreg) sum, in(vreg) a, in(vreg) b, const LANE,
            options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

/// Adds `a * bᵀ` to the 2 by 2 matrix `sum`, where `a` and `b` have two rows of eight bytes, all row-major; FEAT_I8MM.
#[inline(always)]
pub(crate) unsafe fn matmul(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: the caller's contract; no memory is touched.
    unsafe {
        asm!("smmla {0:v}.4s, {1:v}.16b, {2:v}.16b", inout(vreg) sum, in(vreg) a, in(vreg) b,
            options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

/// As [`dot`] with NEON alone, for bytes of `b` that are not -128: two products then fit in 16 bits.
#[inline(always)]
pub(crate) unsafe fn dot_widening(sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: the caller's contract; no memory is touched.
    unsafe {
        let low = vmull_s8(vget_low_s8(a), vget_low_s8(b));
        let high = vmull_high_s8(a, b);
        vpadalq_s16(sum, vpaddq_s16(low, high))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Neon;
    use crate::testing::Random;

    type Bytes = [i8; 16];
    type Product = unsafe fn([i32; 4], Bytes, Bytes) -> [i32; 4];

    /// An instruction as a function of arrays, compiled for the features named.
    macro_rules! on_arrays {
        ($name:ident, $features:literal, $product:ident) => {
            #[target_feature(enable = $features)]
            fn $name(sum: [i32; 4], a: Bytes, b: Bytes) -> [i32; 4] {
                // SAFETY: arrays are as long as the vectors; the features are enabled.
                unsafe {
                    let (a, b) = (vld1q_s8(a.as_ptr()), vld1q_s8(b.as_ptr()));
                    let sum = $product(vld1q_s32(sum.as_ptr()), a, b);
                    let mut out = [0; 4];
                    vst1q_s32(out.as_mut_ptr(), sum);
                    out
                }
            }
        };
    }
    on_arrays!(dot_of, "neon,dotprod", dot);
    on_arrays!(dot_widening_of, "neon", dot_widening);
    on_arrays!(dot_lane_of, "neon,dotprod", dot_every_lane);
    on_arrays!(matmul_of, "neon,i8mm", matmul);

    /// [`dot`] put together from [`dot_lane`].
    #[inline(always)]
    unsafe fn dot_every_lane(sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
        // SAFETY: the caller's contract.
        unsafe {
            let (first, second) = (dot_lane::<0>(sum, a, b), dot_lane::<1>(sum, a, b));
            let (third, fourth) = (dot_lane::<2>(sum, a, b), dot_lane::<3>(sum, a, b));
            let low = vcopyq_laneq_s32::<1, 1>(first, second);
            vcopyq_laneq_s32::<3, 3>(vcopyq_laneq_s32::<2, 2>(low, third), fourth)
        }
    }

    fn products(a: &[i8], b: &[i8]) -> i32 {
        a.iter()
            .zip(b)
            .map(|(a, b)| i32::from(*a) * i32::from(*b))
            .sum()
    }

    /// Random bytes and, at times, only extreme ones; `least` is the smallest.
    fn bytes(random: &mut Random, least: i8) -> Bytes {
        let extreme = random.below(4) == 0;
        std::array::from_fn(|_| match (extreme, random.below(256) as u8 as i8) {
            (true, byte) if byte < 0 => least,
            (true, _) => 127,
            (false, byte) => byte.max(least),
        })
    }

    #[test]
    fn products_of_bytes_are_exact() {
        let Some(cpu) = Neon::detect() else {
            println!("skipped: no NEON");
            return;
        };
        let mut dots: Vec<(&str, Product, i8)> = vec![("dot_widening", dot_widening_of, -127)];
        if cpu.has_dotprod() {
            dots.push(("dot", dot_of, -128));
            dots.push(("dot_lane", dot_lane_of, -128));
        }
        let mut random = Random::new(1);
        for _ in 0..1000 {
            let sum = [7, -1 << 20, 0, 1 << 20];
            for (name, dot, least) in &dots {
                let (a, b) = (bytes(&mut random, -128), bytes(&mut random, *least));
                // SAFETY: only products of extensions that were detected are in the list.
                let got = unsafe { dot(sum, a, b) };
                let want: [i32; 4] =
                    std::array::from_fn(|i| sum[i] + products(&a[4 * i..][..4], &b[4 * i..][..4]));
                assert_eq!(got, want, "{name} of {a:?} and {b:?}");
            }
            if cpu.has_i8mm() {
                let (a, b) = (bytes(&mut random, -128), bytes(&mut random, -128));
                // SAFETY: FEAT_I8MM was detected.
                let got = unsafe { matmul_of(sum, a, b) };
                let want: [i32; 4] = std::array::from_fn(|i| {
                    sum[i] + products(&a[i / 2 * 8..][..8], &b[i % 2 * 8..][..8])
                });
                assert_eq!(got, want, "matmul of {a:?} and {b:?}");
            }
        }
    }
}
