//! 512-bit vectors: a whole panel at a time.

#![allow(unsafe_op_in_unsafe_fn)] // each method is one or two intrinsics under the contract of `Lanes`

use std::arch::x86_64::*;
use std::ops::Range;

use super::activations::MANY;
use super::avx2;
use super::codec::{Codec, Float, with_float, with_quantized};
use super::gemm::{self, NextChunk, PANELS, PanelChunk, Sums, TileChunk, Unit};
use super::job::Job;
use super::lanes::Lanes;
use super::{direct, float};
use crate::Avx512;
use crate::quant::IQ4_LEVELS;

/// Sixteen lanes with byte dot products (AVX512-VNNI).
pub(super) struct Zmm;

/// Computes `panels` for all tokens. A CPU without VNNI takes the AVX2 path for integer codes.
pub(super) fn run(cpu: Avx512, job: &Job, panels: Range<usize>) {
    if !job.format.is_quantized() {
        // SAFETY: an `Avx512` value exists only where F, BW, DQ and VL were detected.
        with_float!(job.format, E => unsafe { float::<E>(job, panels) });
    } else if !cpu.has_vnni() {
        avx2::run(cpu.avx2(), job, panels);
    } else if job.x.tokens < MANY {
        // SAFETY: as above, and VNNI was detected.
        with_quantized!(job.format, C => unsafe { one::<C>(job, panels) });
    } else {
        // SAFETY: as above.
        with_quantized!(job.format, C => unsafe { many::<C>(job, panels) });
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn one<C: Codec>(job: &Job, panels: Range<usize>) {
    direct::quantized::<Zmm, C>(job, panels);
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn many<C: Codec>(job: &Job, panels: Range<usize>) {
    gemm::quantized::<Zmm, C>(job, panels);
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn float<E: Float>(job: &Job, panels: Range<usize>) {
    float::float::<Zmm, E>(job, panels);
}

impl Unit for Zmm {
    type Lanes = Self;
    const BYTE_BIAS: u8 = 128;

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn multiply<const HALVES: bool, const MINIMA: bool>(
        panels: &[PanelChunk; PANELS],
        x: TileChunk,
        next: NextChunk,
        sums: &mut [Sums; PANELS],
    ) {
        gemm::multiply_vectors::<Self, HALVES, MINIMA>(panels, x, next, sums);
    }
}

impl Lanes for Zmm {
    const ROWS: usize = 16;
    const CODE_TOKENS: usize = 8;
    const FLOAT_TOKENS: usize = 12;
    const SIGNED_BYTES: bool = false;
    type I = __m512i;
    type F = __m512;

    #[inline(always)]
    unsafe fn load(bytes: *const u8) -> Self::I {
        _mm512_loadu_si512(bytes.cast())
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
        _mm512_storeu_si512(to.cast(), a);
    }
    #[inline(always)]
    unsafe fn zero() -> Self::I {
        _mm512_setzero_si512()
    }
    #[inline(always)]
    unsafe fn splat_byte(byte: u8) -> Self::I {
        _mm512_set1_epi8(byte as i8)
    }
    #[inline(always)]
    unsafe fn and(a: Self::I, b: Self::I) -> Self::I {
        _mm512_and_si512(a, b)
    }
    #[inline(always)]
    unsafe fn or(a: Self::I, b: Self::I) -> Self::I {
        _mm512_or_si512(a, b)
    }
    #[inline(always)]
    unsafe fn shift_right(a: Self::I, by: i32) -> Self::I {
        // `by` is a constant once inlined: one arm is left.
        match by {
            -4 => _mm512_slli_epi32::<4>(a),
            -3 => _mm512_slli_epi32::<3>(a),
            -2 => _mm512_slli_epi32::<2>(a),
            -1 => _mm512_slli_epi32::<1>(a),
            0 => a,
            1 => _mm512_srli_epi32::<1>(a),
            2 => _mm512_srli_epi32::<2>(a),
            3 => _mm512_srli_epi32::<3>(a),
            4 => _mm512_srli_epi32::<4>(a),
            5 => _mm512_srli_epi32::<5>(a),
            6 => _mm512_srli_epi32::<6>(a),
            _ => _mm512_srli_epi32::<7>(a),
        }
    }
    #[inline(always)]
    unsafe fn iq4_levels(codes: Self::I) -> Self::I {
        let levels = _mm_xor_si128(
            _mm_loadu_si128(IQ4_LEVELS.as_ptr().cast()),
            _mm_set1_epi8(-128),
        );
        _mm512_shuffle_epi8(_mm512_broadcast_i32x4(levels), codes)
    }
    #[inline(always)]
    unsafe fn dot(sum: Self::I, codes: Self::I, x: *const i8) -> Self::I {
        _mm512_dpbusd_epi32(
            sum,
            codes,
            _mm512_set1_epi32(x.cast::<i32>().read_unaligned()),
        )
    }
    #[inline(always)]
    unsafe fn dot_bytes(sum: Self::I, codes: Self::I, x: *const i8) -> Self::I {
        Self::dot(sum, codes, x)
    }
    #[inline(always)]
    unsafe fn splat_shifted(number: *const i32, by: u32) -> Self::I {
        _mm512_set1_epi32(number.read() >> by)
    }
    #[inline(always)]
    unsafe fn add_bytes(a: Self::I, b: Self::I) -> Self::I {
        _mm512_add_epi8(a, b)
    }
    #[inline(always)]
    unsafe fn to_f32(a: Self::I) -> Self::F {
        _mm512_cvtepi32_ps(a)
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self::F {
        _mm512_set1_ps(value)
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        _mm512_mul_ps(a, b)
    }
    #[inline(always)]
    unsafe fn add_f32(a: Self::F, b: Self::F) -> Self::F {
        _mm512_add_ps(a, b)
    }
    #[inline(always)]
    unsafe fn mul_add(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        _mm512_fmadd_ps(a, b, c)
    }
    #[inline(always)]
    unsafe fn neg_mul_add(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        _mm512_fnmadd_ps(a, b, c)
    }
    #[inline(always)]
    unsafe fn load_f32(bytes: *const u8) -> Self::F {
        _mm512_loadu_ps(bytes.cast())
    }
    #[inline(always)]
    unsafe fn load_f16(bytes: *const u8) -> Self::F {
        _mm512_cvtph_ps(_mm256_loadu_si256(bytes.cast()))
    }
    #[inline(always)]
    unsafe fn load_bf16_pairs(bytes: *const u8) -> [Self::F; 2] {
        let pairs = Self::load(bytes);
        let second = _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000_u32 as i32));
        [_mm512_slli_epi32::<16>(pairs), second].map(|bits| _mm512_castsi512_ps(bits))
    }
    #[inline(always)]
    unsafe fn load_i8(bytes: *const u8) -> Self::F {
        _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(bytes.cast())))
    }
    #[inline(always)]
    unsafe fn load_u8(bytes: *const u8) -> Self::F {
        _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(bytes.cast())))
    }
    #[inline(always)]
    unsafe fn store(a: Self::F, to: *mut f32) {
        _mm512_storeu_ps(to, a);
    }
}
