//! [`Simd`] with 128-bit vectors, two at a time: kernels keep as many vectors at work as hide the latency of a wide unit, and a core
//! with 128-bit vectors has several such units.

use std::arch::aarch64::*;

use half::{bf16, f16};

use super::{Kernel, Simd};
use crate::Neon;

/// Runs `kernel`. Every target this is compiled for has NEON enabled throughout, so there is nothing to enable here.
pub(super) fn run<K: Kernel>(cpu: Neon, kernel: K) -> K::Output {
    kernel.run(cpu)
}

/// Eight values, in order.
#[derive(Clone, Copy)]
pub(crate) struct Pair(float32x4_t, float32x4_t);

/// Methods that apply one intrinsic to each half.
macro_rules! halves {
    ($($name:ident($($arg:ident),*) = $intrinsic:expr;)*) => {$(
        #[inline(always)]
        fn $name(self, $($arg: Pair),*) -> Pair {
            #[inline(always)]
            fn half($($arg: float32x4_t),*) -> float32x4_t {
                // SAFETY: only called with a `Neon`, which proves the instructions. They touch no memory.
                unsafe { $intrinsic }
            }
            Pair(half($($arg.0),*), half($($arg.1),*))
        }
    )*};
}

impl Simd for Neon {
    type F32 = Pair;
    const LANES: usize = 8;

    halves! {
        add(a, b) = vaddq_f32(a, b);
        sub(a, b) = vsubq_f32(a, b);
        mul(a, b) = vmulq_f32(a, b);
        div(a, b) = vdivq_f32(a, b);
        mul_add(a, b, c) = vfmaq_f32(c, a, b);
        // Not `fmax` and `fmin`: those give NaN where either is.
        max(a, b) = vbslq_f32(vcgtq_f32(a, b), a, b);
        min(a, b) = vbslq_f32(vcltq_f32(a, b), a, b);
        max_magnitude(a, b) = {
            let magnitude = vdupq_n_u32(0x7fff_ffff);
            let a = vandq_u32(vreinterpretq_u32_f32(a), magnitude);
            let b = vandq_u32(vreinterpretq_u32_f32(b), magnitude);
            vreinterpretq_f32_u32(vmaxq_u32(a, b))
        };
        with_sign_of(magnitude, sign) = vbslq_f32(vdupq_n_u32(0x8000_0000), sign, magnitude);
        round(a) = vrndnq_f32(a);
        exp2_of_integer(a) = {
            let exponent = vaddq_s32(vcvtq_s32_f32(a), vdupq_n_s32(127));
            vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponent))
        };
        zero_where_less(a, b, value) = {
            let bits = vreinterpretq_u32_f32(value);
            vreinterpretq_f32_u32(vbicq_u32(bits, vcltq_f32(a, b)))
        };
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Pair {
        // SAFETY: the CPU has NEON (`self`).
        let half = unsafe { vdupq_n_f32(value) };
        Pair(half, half)
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> Pair {
        assert!(from.len() >= 8, "load of 8 from {}", from.len());
        let from = from.as_ptr();
        // SAFETY: 8 values are there (checked above); the CPU has NEON (`self`).
        unsafe { Pair(vld1q_f32(from), vld1q_f32(from.add(4))) }
    }

    #[inline(always)]
    fn load_f16(self, from: &[f16]) -> Pair {
        assert!(from.len() >= 8, "load of 8 from {}", from.len());
        // SAFETY: 8 values, 16 bytes, are there (checked above); the CPU has NEON (`self`), which includes this conversion.
        unsafe {
            let bits = vreinterpretq_f16_u16(vld1q_u16(from.as_ptr().cast()));
            Pair(vcvt_f32_f16(vget_low_f16(bits)), vcvt_high_f32_f16(bits))
        }
    }

    #[inline(always)]
    fn load_bf16(self, from: &[bf16]) -> Pair {
        assert!(from.len() >= 8, "load of 8 from {}", from.len());
        // SAFETY: 8 values, 16 bytes, are there (checked above); the CPU has NEON (`self`).
        unsafe {
            let bits = vld1q_u16(from.as_ptr().cast());
            Pair(
                vreinterpretq_f32_u32(vshll_n_u16::<16>(vget_low_u16(bits))),
                vreinterpretq_f32_u32(vshll_high_n_u16::<16>(bits)),
            )
        }
    }

    #[inline(always)]
    fn load_i8(self, from: &[i8]) -> Pair {
        assert!(from.len() >= 8, "load of 8 from {}", from.len());
        // SAFETY: 8 bytes are there (checked above); the CPU has NEON (`self`).
        unsafe {
            let wide = vmovl_s8(vld1_s8(from.as_ptr()));
            Pair(
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide))),
                vcvtq_f32_s32(vmovl_high_s16(wide)),
            )
        }
    }

    #[inline(always)]
    fn store(self, value: Pair, to: &mut [f32]) {
        assert!(to.len() >= 8, "store of 8 to {}", to.len());
        let to = to.as_mut_ptr();
        // SAFETY: there is room for 8 values (checked above); the CPU has NEON (`self`).
        unsafe {
            vst1q_f32(to, value.0);
            vst1q_f32(to.add(4), value.1);
        }
    }

    #[inline(always)]
    fn store_i8(self, value: Pair, to: &mut [i8]) {
        assert!(to.len() >= 8, "store of 8 to {}", to.len());
        // SAFETY: there is room for 8 bytes (checked above); the CPU has NEON (`self`).
        unsafe {
            let low = vmovn_s32(vcvtq_s32_f32(value.0));
            let high = vmovn_s32(vcvtq_s32_f32(value.1));
            vst1_s8(to.as_mut_ptr(), vmovn_s16(vcombine_s16(low, high)));
        }
    }

    #[inline(always)]
    fn load_partial(self, from: &[f32]) -> Pair {
        let len = from.len().min(8);
        let mut lanes = [0.0; 8];
        lanes[..len].copy_from_slice(&from[..len]);
        self.load(&lanes)
    }

    #[inline(always)]
    fn store_partial(self, value: Pair, to: &mut [f32]) {
        let len = to.len().min(8);
        let mut lanes = [0.0; 8];
        self.store(value, &mut lanes);
        to[..len].copy_from_slice(&lanes[..len]);
    }

    #[inline(always)]
    fn reduce_add(self, a: Pair) -> f32 {
        // SAFETY: the CPU has NEON (`self`); no memory is touched.
        unsafe { vaddvq_f32(vaddq_f32(a.0, a.1)) }
    }

    #[inline(always)]
    fn reduce_max(self, a: Pair) -> f32 {
        // SAFETY: the CPU has NEON (`self`); no memory is touched.
        unsafe { vmaxvq_f32(vmaxq_f32(a.0, a.1)) }
    }
}
