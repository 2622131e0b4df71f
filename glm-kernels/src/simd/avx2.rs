//! [`Simd`] with 256-bit vectors.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{Kernel, Simd};
use crate::Avx2;

/// Runs `kernel` compiled for AVX2, FMA and F16C.
pub(super) fn run<K: Kernel>(cpu: Avx2, kernel: K) -> K::Output {
    #[target_feature(enable = "avx2,fma,f16c")]
    fn compiled<K: Kernel>(cpu: Avx2, kernel: K) -> K::Output {
        kernel.run(cpu)
    }
    // SAFETY: an `Avx2` value exists only where these features were detected (`Avx2::detect`).
    unsafe { compiled(cpu, kernel) }
}

/// For `_mm256_maskload_ps`: 8 lanes of a window that starts at `8 - n` have their first `n` set.
const LANE_MASKS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

/// The mask of the first `lanes` lanes.
#[inline(always)]
fn mask(_cpu: Avx2, lanes: usize) -> __m256i {
    let window = &LANE_MASKS[8 - lanes.min(8)..][..8];
    // SAFETY: `window` is 8 values long; the CPU has AVX (`Avx2`).
    unsafe { _mm256_loadu_si256(window.as_ptr().cast()) }
}

/// Methods that are one intrinsic on values.
macro_rules! intrinsics {
    ($($name:ident($($arg:ident),*) = $intrinsic:expr;)*) => {$(
        #[inline(always)]
        fn $name(self, $($arg: __m256),*) -> __m256 {
            // SAFETY: the CPU has AVX2 and FMA: `self` proves it. The intrinsic touches no memory.
            unsafe { $intrinsic }
        }
    )*};
}

impl Simd for Avx2 {
    type F32 = __m256;
    const LANES: usize = 8;

    intrinsics! {
        add(a, b) = _mm256_add_ps(a, b);
        sub(a, b) = _mm256_sub_ps(a, b);
        mul(a, b) = _mm256_mul_ps(a, b);
        div(a, b) = _mm256_div_ps(a, b);
        mul_add(a, b, c) = _mm256_fmadd_ps(a, b, c);
        max(a, b) = _mm256_max_ps(a, b);
        min(a, b) = _mm256_min_ps(a, b);
        max_magnitude(a, b) = {
            let magnitude = _mm256_set1_epi32(i32::MAX);
            let a = _mm256_and_si256(_mm256_castps_si256(a), magnitude);
            let b = _mm256_and_si256(_mm256_castps_si256(b), magnitude);
            _mm256_castsi256_ps(_mm256_max_epi32(a, b))
        };
        with_sign_of(magnitude, sign) = _mm256_or_ps(magnitude, _mm256_and_ps(sign, _mm256_set1_ps(-0.0)));
        round(a) = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a);
        exp2_of_integer(a) = {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(a), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
        };
        zero_where_less(a, b, value) = _mm256_andnot_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(a, b), value);
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m256 {
        // SAFETY: the CPU has AVX (`self`).
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> __m256 {
        assert!(from.len() >= 8, "load of 8 from {}", from.len());
        // SAFETY: 8 values are there (checked above); the CPU has AVX (`self`).
        unsafe { _mm256_loadu_ps(from.as_ptr()) }
    }

    #[inline(always)]
    fn load_f16(self, from: &[f16]) -> __m256 {
        assert!(from.len() >= 8, "load of 8 from {}", from.len());
        // SAFETY: 8 values, 16 bytes, are there (checked above); the CPU has F16C (`self`).
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast())) }
    }

    #[inline(always)]
    fn load_bf16(self, from: &[bf16]) -> __m256 {
        assert!(from.len() >= 8, "load of 8 from {}", from.len());
        // SAFETY: 8 values, 16 bytes, are there (checked above); the CPU has AVX2 (`self`).
        unsafe {
            let bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.as_ptr().cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
        }
    }

    #[inline(always)]
    fn load_i8(self, from: &[i8]) -> __m256 {
        assert!(from.len() >= 8, "load of 8 from {}", from.len());
        // SAFETY: 8 bytes are there (checked above); the CPU has AVX2 (`self`).
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.as_ptr().cast()))) }
    }

    #[inline(always)]
    fn store(self, value: __m256, to: &mut [f32]) {
        assert!(to.len() >= 8, "store of 8 to {}", to.len());
        // SAFETY: there is room for 8 values (checked above); the CPU has AVX (`self`).
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), value) }
    }

    #[inline(always)]
    fn store_i8(self, value: __m256, to: &mut [i8]) {
        assert!(to.len() >= 8, "store of 8 to {}", to.len());
        // SAFETY: there is room for 8 bytes (checked above); the CPU has AVX2 (`self`).
        unsafe {
            // The low byte of each integer: four in front of each half, then both side by side.
            let low = _mm256_set1_epi32(0x0c08_0400);
            let bytes = _mm256_shuffle_epi8(_mm256_cvttps_epi32(value), low);
            let halves = _mm256_setr_epi32(0, 4, 0, 4, 0, 4, 0, 4);
            let bytes = _mm256_permutevar8x32_epi32(bytes, halves);
            _mm_storel_epi64(to.as_mut_ptr().cast(), _mm256_castsi256_si128(bytes));
        }
    }

    #[inline(always)]
    fn load_partial(self, from: &[f32]) -> __m256 {
        // SAFETY: only lanes that the mask sets are read, and it sets no more than there are
        // values; the CPU has AVX (`self`).
        unsafe { _mm256_maskload_ps(from.as_ptr(), mask(self, from.len())) }
    }

    #[inline(always)]
    fn store_partial(self, value: __m256, to: &mut [f32]) {
        // SAFETY: only lanes that the mask sets are written, and it sets no more than there is room
        // for; the CPU has AVX (`self`).
        unsafe { _mm256_maskstore_ps(to.as_mut_ptr(), mask(self, to.len()), value) }
    }

    #[inline(always)]
    fn reduce_add(self, a: __m256) -> f32 {
        // SAFETY: the CPU has AVX (`self`); no memory is touched.
        unsafe {
            let a = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let a = _mm_add_ps(a, _mm_movehl_ps(a, a));
            _mm_cvtss_f32(_mm_add_ss(a, _mm_shuffle_ps::<1>(a, a)))
        }
    }

    #[inline(always)]
    fn reduce_max(self, a: __m256) -> f32 {
        // SAFETY: the CPU has AVX (`self`); no memory is touched.
        unsafe {
            let a = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let a = _mm_max_ps(a, _mm_movehl_ps(a, a));
            _mm_cvtss_f32(_mm_max_ss(a, _mm_shuffle_ps::<1>(a, a)))
        }
    }
}
