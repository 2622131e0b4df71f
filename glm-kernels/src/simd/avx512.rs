//! [`Simd`] with 512-bit vectors.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{Kernel, Simd};
use crate::Avx512;

/// Runs `kernel` compiled for AVX-512 F, BW, DQ and VL.
pub(super) fn run<K: Kernel>(cpu: Avx512, kernel: K) -> K::Output {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    fn compiled<K: Kernel>(cpu: Avx512, kernel: K) -> K::Output {
        kernel.run(cpu)
    }
    // SAFETY: an `Avx512` value exists only where these features were detected (`Avx512::detect`).
    unsafe { compiled(cpu, kernel) }
}

/// The mask of the first `lanes` lanes.
#[inline(always)]
fn mask(lanes: usize) -> __mmask16 {
    ((1u32 << lanes.min(16)) - 1) as __mmask16
}

/// Methods that are one intrinsic on values.
macro_rules! intrinsics {
    ($($name:ident($($arg:ident),*) = $intrinsic:expr;)*) => {$(
        #[inline(always)]
        fn $name(self, $($arg: __m512),*) -> __m512 {
            // SAFETY: the CPU has AVX-512 F and DQ: `self` proves it. The intrinsic touches no
            // memory.
            unsafe { $intrinsic }
        }
    )*};
}

impl Simd for Avx512 {
    type F32 = __m512;
    const LANES: usize = 16;

    intrinsics! {
        add(a, b) = _mm512_add_ps(a, b);
        sub(a, b) = _mm512_sub_ps(a, b);
        mul(a, b) = _mm512_mul_ps(a, b);
        div(a, b) = _mm512_div_ps(a, b);
        mul_add(a, b, c) = _mm512_fmadd_ps(a, b, c);
        max(a, b) = _mm512_max_ps(a, b);
        min(a, b) = _mm512_min_ps(a, b);
        max_magnitude(a, b) = {
            let magnitude = _mm512_set1_epi32(i32::MAX);
            let a = _mm512_and_si512(_mm512_castps_si512(a), magnitude);
            let b = _mm512_and_si512(_mm512_castps_si512(b), magnitude);
            _mm512_castsi512_ps(_mm512_max_epi32(a, b))
        };
        with_sign_of(magnitude, sign) = _mm512_or_ps(magnitude, _mm512_and_ps(sign, _mm512_set1_ps(-0.0)));
        round(a) = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a);
        exp2_of_integer(a) = {
            let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(a), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent))
        };
        zero_where_less(a, b, value) = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_NLT_UQ>(a, b), value);
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        // SAFETY: the CPU has AVX-512 F (`self`).
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> __m512 {
        assert!(from.len() >= 16, "load of 16 from {}", from.len());
        // SAFETY: 16 values are there (checked above); the CPU has AVX-512 F (`self`).
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }

    #[inline(always)]
    fn load_f16(self, from: &[f16]) -> __m512 {
        assert!(from.len() >= 16, "load of 16 from {}", from.len());
        // SAFETY: 16 values, 32 bytes, are there (checked above); the CPU has AVX-512 F (`self`).
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast())) }
    }

    #[inline(always)]
    fn load_bf16(self, from: &[bf16]) -> __m512 {
        assert!(from.len() >= 16, "load of 16 from {}", from.len());
        // SAFETY: 16 values, 32 bytes, are there (checked above); the CPU has AVX-512 F (`self`).
        unsafe {
            let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
        }
    }

    #[inline(always)]
    fn load_i8(self, from: &[i8]) -> __m512 {
        assert!(from.len() >= 16, "load of 16 from {}", from.len());
        // SAFETY: 16 bytes are there (checked above); the CPU has AVX-512 F (`self`).
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.as_ptr().cast()))) }
    }

    #[inline(always)]
    fn store(self, value: __m512, to: &mut [f32]) {
        assert!(to.len() >= 16, "store of 16 to {}", to.len());
        // SAFETY: there is room for 16 values (checked above); the CPU has AVX-512 F (`self`).
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), value) }
    }

    #[inline(always)]
    fn store_i8(self, value: __m512, to: &mut [i8]) {
        assert!(to.len() >= 16, "store of 16 to {}", to.len());
        // SAFETY: there is room for 16 bytes (checked above); the CPU has AVX-512 F (`self`).
        unsafe {
            let bytes = _mm512_cvtepi32_epi8(_mm512_cvttps_epi32(value));
            _mm_storeu_si128(to.as_mut_ptr().cast(), bytes);
        }
    }

    #[inline(always)]
    fn load_partial(self, from: &[f32]) -> __m512 {
        // SAFETY: only lanes that the mask sets are read, and it sets no more than there are
        // values; the CPU has AVX-512 F (`self`).
        unsafe { _mm512_maskz_loadu_ps(mask(from.len()), from.as_ptr()) }
    }

    #[inline(always)]
    fn store_partial(self, value: __m512, to: &mut [f32]) {
        // SAFETY: only lanes that the mask sets are written, and it sets no more than there is room
        // for; the CPU has AVX-512 F (`self`).
        unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr(), mask(to.len()), value) }
    }

    #[inline(always)]
    fn reduce_add(self, a: __m512) -> f32 {
        // SAFETY: the CPU has AVX-512 F (`self`); no memory is touched.
        unsafe { _mm512_reduce_add_ps(a) }
    }

    #[inline(always)]
    fn reduce_max(self, a: __m512) -> f32 {
        // SAFETY: the CPU has AVX-512 F (`self`); no memory is touched.
        unsafe { _mm512_reduce_max_ps(a) }
    }
}
