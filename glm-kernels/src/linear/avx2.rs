//! 256-bit vectors: half a panel at a time, with the byte dot products of AVX-VNNI where the CPU has them.

#![allow(unsafe_op_in_unsafe_fn)] // each method is a few intrinsics under the contract of `Lanes`

use std::arch::x86_64::*;
use std::ops::Range;

use super::activations::MANY;
use super::codec::{Codec, Float, with_float, with_quantized};
use super::gemm::{self, NextChunk, PANELS, PanelChunk, Sums, TileChunk, Unit};
use super::job::Job;
use super::lanes::Lanes;
use super::{direct, float};
use crate::Avx2;
use crate::quant::IQ4_LEVELS;

/// Eight lanes; `VNNI` says whether byte dot products are one instruction or three.
pub(super) struct Ymm<const VNNI: bool>;

/// Computes `panels` for all tokens.
pub(super) fn run(cpu: Avx2, job: &Job, panels: Range<usize>) {
    if !job.format.is_quantized() {
        // SAFETY: an `Avx2` value exists only where AVX2, FMA and F16C were detected.
        with_float!(job.format, E => unsafe { float::<E>(job, panels) });
    } else if is_x86_feature_detected!("avxvnni") {
        if job.x.tokens < MANY {
            // SAFETY: as above, and AVX-VNNI was detected.
            with_quantized!(job.format, C => unsafe { one_vnni::<C>(job, panels) });
        } else {
            // SAFETY: as above.
            with_quantized!(job.format, C => unsafe { many_vnni::<C>(job, panels) });
        }
    } else {
        run_without_vnni(cpu, job, panels);
    }
}

/// Computes `panels` of a quantised format with AVX2 alone; apart, so that tests can run it on a CPU that has more.
pub(super) fn run_without_vnni(_cpu: Avx2, job: &Job, panels: Range<usize>) {
    if job.x.tokens < MANY {
        // SAFETY: an `Avx2` value exists only where AVX2, FMA and F16C were detected.
        with_quantized!(job.format, C => unsafe { one::<C>(job, panels) });
    } else {
        // SAFETY: as above.
        with_quantized!(job.format, C => unsafe { many::<C>(job, panels) });
    }
}

#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
unsafe fn one_vnni<C: Codec>(job: &Job, panels: Range<usize>) {
    direct::quantized::<Ymm<true>, C>(job, panels);
}

#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
unsafe fn many_vnni<C: Codec>(job: &Job, panels: Range<usize>) {
    gemm::quantized::<Ymm<true>, C>(job, panels);
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn one<C: Codec>(job: &Job, panels: Range<usize>) {
    direct::quantized::<Ymm<false>, C>(job, panels);
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn many<C: Codec>(job: &Job, panels: Range<usize>) {
    gemm::quantized::<Ymm<false>, C>(job, panels);
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn float<E: Float>(job: &Job, panels: Range<usize>) {
    float::float::<Ymm<false>, E>(job, panels);
}

impl Unit for Ymm<false> {
    type Lanes = Self;
    const BYTE_BIAS: u8 = 128;

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn multiply<const HALVES: bool, const MINIMA: bool>(
        panels: &[PanelChunk; PANELS],
        x: TileChunk,
        next: NextChunk,
        sums: &mut [Sums; PANELS],
    ) {
        gemm::multiply_vectors::<Self, HALVES, MINIMA>(panels, x, next, sums);
    }
}

impl Unit for Ymm<true> {
    type Lanes = Self;
    const BYTE_BIAS: u8 = 128;

    #[target_feature(enable = "avx2,fma,f16c,avxvnni")]
    unsafe fn multiply<const HALVES: bool, const MINIMA: bool>(
        panels: &[PanelChunk; PANELS],
        x: TileChunk,
        next: NextChunk,
        sums: &mut [Sums; PANELS],
    ) {
        gemm::multiply_vectors::<Self, HALVES, MINIMA>(panels, x, next, sums);
    }
}

/// Adds pairs of i16 products to i32 sums.
#[inline(always)]
unsafe fn add_pairs(sum: __m256i, products: __m256i) -> __m256i {
    _mm256_add_epi32(sum, _mm256_madd_epi16(products, _mm256_set1_epi16(1)))
}

#[inline(always)]
unsafe fn four(x: *const i8) -> __m256i {
    _mm256_set1_epi32(x.cast::<i32>().read_unaligned())
}

impl<const VNNI: bool> Lanes for Ymm<VNNI> {
    const ROWS: usize = 8;
    const CODE_TOKENS: usize = 4;
    const FLOAT_TOKENS: usize = 4;
    const SIGNED_BYTES: bool = !VNNI;
    type I = __m256i;
    type F = __m256;

    #[inline(always)]
    unsafe fn load(bytes: *const u8) -> Self::I {
        _mm256_loadu_si256(bytes.cast())
    }
    #[inline(always)]
    unsafe fn prefetch(bytes: *const u8) {
        _mm_prefetch::<_MM_HINT_T0>(bytes.cast());
    }
    #[inline(always)]
    unsafe fn prefetch_far(bytes: *const u8) {
        _mm_prefetch::<_MM_HINT_T1>(bytes.cast());
    }
    #[inline(always)]
    unsafe fn prefetch_write(bytes: *const u8) {
        _mm_prefetch::<_MM_HINT_ET0>(bytes.cast());
    }
    #[inline(always)]
    unsafe fn store_bytes(a: Self::I, to: *mut u8) {
        _mm256_storeu_si256(to.cast(), a);
    }
    #[inline(always)]
    unsafe fn zero() -> Self::I {
        _mm256_setzero_si256()
    }
    #[inline(always)]
    unsafe fn splat_byte(byte: u8) -> Self::I {
        _mm256_set1_epi8(byte as i8)
    }
    #[inline(always)]
    unsafe fn and(a: Self::I, b: Self::I) -> Self::I {
        _mm256_and_si256(a, b)
    }
    #[inline(always)]
    unsafe fn or(a: Self::I, b: Self::I) -> Self::I {
        _mm256_or_si256(a, b)
    }
    #[inline(always)]
    unsafe fn shift_right(a: Self::I, by: i32) -> Self::I {
        // `by` is a constant once inlined: one arm is left.
        match by {
            -4 => _mm256_slli_epi32::<4>(a),
            -3 => _mm256_slli_epi32::<3>(a),
            -2 => _mm256_slli_epi32::<2>(a),
            -1 => _mm256_slli_epi32::<1>(a),
            0 => a,
            1 => _mm256_srli_epi32::<1>(a),
            2 => _mm256_srli_epi32::<2>(a),
            3 => _mm256_srli_epi32::<3>(a),
            4 => _mm256_srli_epi32::<4>(a),
            5 => _mm256_srli_epi32::<5>(a),
            6 => _mm256_srli_epi32::<6>(a),
            _ => _mm256_srli_epi32::<7>(a),
        }
    }
    #[inline(always)]
    unsafe fn iq4_levels(codes: Self::I) -> Self::I {
        let levels = _mm_xor_si128(
            _mm_loadu_si128(IQ4_LEVELS.as_ptr().cast()),
            _mm_set1_epi8(-128),
        );
        _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(levels), codes)
    }
    #[inline(always)]
    unsafe fn dot(sum: Self::I, codes: Self::I, x: *const i8) -> Self::I {
        if VNNI {
            return _mm256_dpbusd_avx_epi32(sum, codes, four(x));
        }
        // Two products of a code below 64 with |x| <= 127 fit in an i16.
        add_pairs(sum, _mm256_maddubs_epi16(codes, four(x)))
    }
    #[inline(always)]
    unsafe fn dot_bytes(sum: Self::I, codes: Self::I, x: *const i8) -> Self::I {
        if VNNI {
            return _mm256_dpbusd_avx_epi32(sum, codes, four(x));
        }
        // Codes up to 255 would overflow the i16. So make them signed, and move the sign over to the activations: |code| <= 128 and |x| <= 127 fit.
        let codes = _mm256_xor_si256(codes, _mm256_set1_epi8(-128));
        add_pairs(
            sum,
            _mm256_maddubs_epi16(_mm256_abs_epi8(codes), _mm256_sign_epi8(four(x), codes)),
        )
    }
    #[inline(always)]
    unsafe fn splat_shifted(number: *const i32, by: u32) -> Self::I {
        _mm256_set1_epi32(number.read() >> by)
    }
    #[inline(always)]
    unsafe fn add_bytes(a: Self::I, b: Self::I) -> Self::I {
        _mm256_add_epi8(a, b)
    }
    #[inline(always)]
    unsafe fn to_f32(a: Self::I) -> Self::F {
        _mm256_cvtepi32_ps(a)
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self::F {
        _mm256_set1_ps(value)
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        _mm256_mul_ps(a, b)
    }
    #[inline(always)]
    unsafe fn add_f32(a: Self::F, b: Self::F) -> Self::F {
        _mm256_add_ps(a, b)
    }
    #[inline(always)]
    unsafe fn mul_add(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        _mm256_fmadd_ps(a, b, c)
    }
    #[inline(always)]
    unsafe fn neg_mul_add(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        _mm256_fnmadd_ps(a, b, c)
    }
    #[inline(always)]
    unsafe fn load_f32(bytes: *const u8) -> Self::F {
        _mm256_loadu_ps(bytes.cast())
    }
    #[inline(always)]
    unsafe fn load_f16(bytes: *const u8) -> Self::F {
        _mm256_cvtph_ps(_mm_loadu_si128(bytes.cast()))
    }
    #[inline(always)]
    unsafe fn load_bf16_pairs(bytes: *const u8) -> [Self::F; 2] {
        let pairs = Self::load(bytes);
        let second = _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff_0000_u32 as i32));
        [_mm256_slli_epi32::<16>(pairs), second].map(|bits| _mm256_castsi256_ps(bits))
    }
    #[inline(always)]
    unsafe fn load_i8(bytes: *const u8) -> Self::F {
        _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(bytes.cast())))
    }
    #[inline(always)]
    unsafe fn load_u8(bytes: *const u8) -> Self::F {
        _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(bytes.cast())))
    }
    #[inline(always)]
    unsafe fn store(a: Self::F, to: *mut f32) {
        _mm256_storeu_ps(to, a);
    }
}
