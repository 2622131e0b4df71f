//! 128-bit vectors, in pairs: half a panel at a time. Many tokens meet a whole panel in fours, with the best products of bytes that the CPU has.

#![allow(unsafe_op_in_unsafe_fn)] // each method is a few intrinsics under the contract of `Lanes`, `Unit` or `Product`
#![allow(clippy::needless_range_loop)] // indices of fixed arrays, which become registers; closures of iterators would not be inlined

use std::arch::aarch64::*;
use std::arch::asm;
use std::ops::Range;

use super::activations::{MANY, Part};
use super::codec::{Codec, Float, with_float, with_quantized};
use super::gemm::{self, NextChunk, PANELS, PanelBlock, PanelChunk, Sums, TileChunk, Unit};
use super::job::Job;
use super::lanes::Lanes;
use super::layout::{BLOCK_COLS, PANEL_ROWS};
use super::{direct, float};
use crate::quant::IQ4_LEVELS;
use crate::{Neon, neon};

/// Computes `panels` for all tokens.
pub(super) fn run(cpu: Neon, job: &Job, panels: Range<usize>) {
    let many = job.x.tokens >= MANY;
    // SAFETY: a `Neon` value exists only where NEON was detected and, if it says so, FEAT_DotProd and FEAT_I8MM. No function enables more.
    unsafe {
        if !job.format.is_quantized() {
            with_float!(job.format, E => float::<E>(job, panels));
        } else if !many && !cpu.has_dotprod() {
            with_quantized!(job.format, C => few_widening::<C>(job, panels));
        } else if !many {
            with_quantized!(job.format, C => few_dot::<C>(job, panels));
        } else if cpu.has_i8mm() {
            with_quantized!(job.format, C => many_matmul::<C>(job, panels));
        } else if cpu.has_dotprod() {
            with_quantized!(job.format, C => many_dot::<C>(job, panels));
        } else {
            with_quantized!(job.format, C => many_widening::<C>(job, panels));
        }
    }
}

#[target_feature(enable = "neon")]
unsafe fn float<E: Float>(job: &Job, panels: Range<usize>) {
    float::float::<Pair<false>, E>(job, panels);
}

#[target_feature(enable = "neon")]
unsafe fn few_widening<C: Codec>(job: &Job, panels: Range<usize>) {
    direct::quantized::<Pair<false>, C>(job, panels);
}

#[target_feature(enable = "neon,dotprod")]
unsafe fn few_dot<C: Codec>(job: &Job, panels: Range<usize>) {
    direct::quantized::<Pair<true>, C>(job, panels);
}

#[target_feature(enable = "neon")]
unsafe fn many_widening<C: Codec>(job: &Job, panels: Range<usize>) {
    gemm::quantized::<Pair<false>, C>(job, panels);
}

#[target_feature(enable = "neon,dotprod")]
unsafe fn many_dot<C: Codec>(job: &Job, panels: Range<usize>) {
    gemm::quantized::<Dot, C>(job, panels);
}

#[target_feature(enable = "neon,dotprod,i8mm")]
unsafe fn many_matmul<C: Codec>(job: &Job, panels: Range<usize>) {
    gemm::quantized::<Matmul, C>(job, panels);
}

/// Tokens that meet a panel together: sixteen vectors of dot products, which leaves half of the registers for operands.
const TOKENS: usize = 4;
/// Vectors of a panel's rows.
const VECTORS: usize = PANEL_ROWS / 4;
/// Bytes of a panel's codes for a block.
const BLOCK_BYTES: usize = PANEL_ROWS * BLOCK_COLS;

/// Codes of a block in the order that a [`Product`] takes them.
#[repr(C, align(64))]
struct Arranged([u8; BLOCK_BYTES]);

/// Dot products, `[token][row]`.
type Dots = [[int32x4_t; VECTORS]; TOKENS];

/// A way to multiply the signed codes of a panel with those of tokens that has an instruction for it. (NEON alone takes
/// [`gemm::multiply_vectors`].)
///
/// # Safety
/// As [`Lanes`].
trait Product {
    /// The codes of a block, `[quad][row][4]`, in the order of [`dots`](Product::dots): themselves, or copied into `room`. The bytes of the first 16
    /// columns come first.
    unsafe fn arrange(codes: &[u8; BLOCK_BYTES], room: &mut Arranged) -> *const i8;
    /// The dot products over `4 * QUADS` columns of arranged codes with those of the tokens at `x`, `BLOCK_COLS` apart.
    unsafe fn dots<const QUADS: usize>(codes: *const i8, x: *const i8) -> Dots;
}

/// Dot products of four bytes: FEAT_DotProd.
struct Dot;

impl Product for Dot {
    #[inline(always)]
    unsafe fn arrange(codes: &[u8; BLOCK_BYTES], _room: &mut Arranged) -> *const i8 {
        codes.as_ptr().cast()
    }

    #[inline(always)]
    unsafe fn dots<const QUADS: usize>(codes: *const i8, x: *const i8) -> Dots {
        let mut dots = [[vdupq_n_s32(0); VECTORS]; TOKENS];
        for g in (0..QUADS).step_by(4) {
            let mut columns = [vdupq_n_s8(0); TOKENS];
            for j in 0..TOKENS {
                columns[j] = vld1q_s8(x.add(BLOCK_COLS * j + 4 * g));
            }
            add_quad::<0>(&mut dots, panel_quad(codes, g), &columns);
            add_quad::<1>(&mut dots, panel_quad(codes, g + 1), &columns);
            add_quad::<2>(&mut dots, panel_quad(codes, g + 2), &columns);
            add_quad::<3>(&mut dots, panel_quad(codes, g + 3), &columns);
        }
        dots
    }
}

/// Adds the products of a quad with quad `LANE` of each token's 16 columns.
#[inline(always)]
unsafe fn add_quad<const LANE: usize>(
    dots: &mut Dots,
    w: [int8x16_t; VECTORS],
    x: &[int8x16_t; TOKENS],
) {
    for j in 0..TOKENS {
        for v in 0..VECTORS {
            dots[j][v] = neon::dot_lane::<LANE>(dots[j][v], w[v], x[j]);
        }
    }
}

/// Products of two rows of eight bytes with two tokens': FEAT_I8MM. It takes half as many instructions as [`Dot`], and some to arrange operands.
struct Matmul;

impl Product for Matmul {
    /// `[octet of columns][row][8]`
    #[inline(always)]
    unsafe fn arrange(codes: &[u8; BLOCK_BYTES], room: &mut Arranged) -> *const i8 {
        let to = room.0.as_mut_ptr();
        for octet in 0..BLOCK_COLS / 8 {
            let (even, odd) = (
                panel_quad(codes.as_ptr().cast(), 2 * octet),
                panel_quad(codes.as_ptr().cast(), 2 * octet + 1),
            );
            for v in 0..VECTORS {
                let (even, odd) = (vreinterpretq_u32_s8(even[v]), vreinterpretq_u32_s8(odd[v]));
                let to = to.add(8 * (PANEL_ROWS * octet + 4 * v));
                vst1q_u8(to, vreinterpretq_u8_u32(vzip1q_u32(even, odd)));
                vst1q_u8(to.add(16), vreinterpretq_u8_u32(vzip2q_u32(even, odd)));
            }
        }
        to.cast()
    }

    #[inline(always)]
    unsafe fn dots<const QUADS: usize>(codes: *const i8, x: *const i8) -> Dots {
        // Of two rows and two tokens: `[row pair][token pair]`.
        let mut squares = [[vdupq_n_s32(0); TOKENS / 2]; PANEL_ROWS / 2];
        for octet in 0..QUADS / 2 {
            let mut pairs = [vdupq_n_s8(0); TOKENS / 2];
            for j in 0..TOKENS / 2 {
                let x = x.add(2 * BLOCK_COLS * j + 8 * octet);
                pairs[j] = vcombine_s8(vld1_s8(x), vld1_s8(x.add(BLOCK_COLS)));
            }
            for r in 0..PANEL_ROWS / 2 {
                let w = vld1q_s8(codes.add(8 * (PANEL_ROWS * octet + 2 * r)));
                for j in 0..TOKENS / 2 {
                    squares[r][j] = neon::matmul(squares[r][j], w, pairs[j]);
                }
            }
        }
        let mut dots = [[vdupq_n_s32(0); VECTORS]; TOKENS];
        for v in 0..VECTORS {
            for j in 0..TOKENS / 2 {
                let (upper, lower) = (squares[2 * v][j], squares[2 * v + 1][j]);
                dots[2 * j][v] = vuzp1q_s32(upper, lower);
                dots[2 * j + 1][v] = vuzp2q_s32(upper, lower);
            }
        }
        dots
    }
}

/// Quad `g` of a panel's codes, `[quad][row][4]`.
#[inline(always)]
unsafe fn panel_quad(codes: *const i8, g: usize) -> [int8x16_t; VECTORS] {
    let quad = codes.add(4 * PANEL_ROWS * g);
    [
        vld1q_s8(quad),
        vld1q_s8(quad.add(16)),
        vld1q_s8(quad.add(32)),
        vld1q_s8(quad.add(48)),
    ]
}

/// Four activations in every lane.
#[inline(always)]
unsafe fn four(x: *const i8) -> int8x16_t {
    vreinterpretq_s8_s32(vdupq_n_s32(x.cast::<i32>().read_unaligned()))
}

/// [`Unit::multiply`] with any product.
#[inline(always)]
unsafe fn multiply<P: Product, const HALVES: bool, const MINIMA: bool>(
    panels: &[PanelChunk; PANELS],
    x: TileChunk,
    next: NextChunk,
    sums: &mut [Sums; PANELS],
) {
    let mut room = Arranged([0; BLOCK_BYTES]);
    for (p, sums) in sums.iter_mut().enumerate() {
        for (i, panel) in panels[p].0[..x.blocks].iter().enumerate() {
            next.fetch::<Pair<true>>(p, i);
            let codes = P::arrange(&panel.codes, &mut room);
            for t in (0..x.tokens).step_by(TOKENS) {
                multiply_block::<P, HALVES, MINIMA>(panel, codes, x, x.first_block + i, t, sums);
            }
        }
    }
}

/// A block of a panel, whose codes are arranged at `codes`, times block `block` of the tokens from `t` on.
#[inline(always)]
unsafe fn multiply_block<P: Product, const HALVES: bool, const MINIMA: bool>(
    panel: &PanelBlock,
    codes: *const i8,
    x: TileChunk,
    block: usize,
    t: usize,
    sums: &mut Sums,
) {
    let x_codes = x.tile.codes(block).add(t * BLOCK_COLS);
    let x_scales = x.tile.scales(block).add(t);
    for part in 0..if HALVES { 2 } else { 1 } {
        let (name, dots) = match (HALVES, part) {
            (false, _) => (Part::Whole, P::dots::<8>(codes, x_codes)),
            (true, 0) => (Part::Low, P::dots::<4>(codes, x_codes)),
            (true, _) => (
                Part::High,
                P::dots::<4>(codes.add(BLOCK_BYTES / 2), x_codes.add(BLOCK_COLS / 2)),
            ),
        };
        let x_sums = x.tile.scaled_sums(name, block).add(t);
        let scales = panel.scales[part].as_ptr();
        let minima = panel.minima[part].as_ptr();
        for v in 0..VECTORS {
            let scale = vld1q_f32(scales.add(4 * v));
            for j in 0..TOKENS {
                let sum = sums.0[t + j].as_mut_ptr().add(4 * v);
                let product = vmulq_f32(vcvtq_f32_s32(dots[j][v]), scale);
                let mut total = vfmaq_n_f32(vld1q_f32(sum), product, *x_scales.add(j));
                if MINIMA {
                    total = vfmaq_n_f32(total, vld1q_f32(minima.add(4 * v)), *x_sums.add(j));
                }
                vst1q_f32(sum, total);
            }
        }
    }
}

impl Unit for Pair<false> {
    type Lanes = Pair<false>;
    const BYTE_BIAS: u8 = 128;

    #[target_feature(enable = "neon")]
    unsafe fn multiply<const HALVES: bool, const MINIMA: bool>(
        panels: &[PanelChunk; PANELS],
        x: TileChunk,
        next: NextChunk,
        sums: &mut [Sums; PANELS],
    ) {
        gemm::multiply_vectors::<Self, HALVES, MINIMA>(panels, x, next, sums);
    }
}

impl Unit for Dot {
    type Lanes = Pair<true>;
    const BYTE_BIAS: u8 = 0;

    #[target_feature(enable = "neon,dotprod")]
    unsafe fn multiply<const HALVES: bool, const MINIMA: bool>(
        panels: &[PanelChunk; PANELS],
        x: TileChunk,
        next: NextChunk,
        sums: &mut [Sums; PANELS],
    ) {
        multiply::<Self, HALVES, MINIMA>(panels, x, next, sums);
    }
}

impl Unit for Matmul {
    type Lanes = Pair<true>;
    const BYTE_BIAS: u8 = 0;

    #[target_feature(enable = "neon,dotprod,i8mm")]
    unsafe fn multiply<const HALVES: bool, const MINIMA: bool>(
        panels: &[PanelChunk; PANELS],
        x: TileChunk,
        next: NextChunk,
        sums: &mut [Sums; PANELS],
    ) {
        multiply::<Self, HALVES, MINIMA>(panels, x, next, sums);
    }
}

/// Eight lanes; `DOT` says whether byte dot products are one instruction or four.
struct Pair<const DOT: bool>;

/// Adds to each 32-bit lane the dot product of its four codes, as signed bytes, with those of `x`.
#[inline(always)]
unsafe fn dot<const DOT: bool>(sum: uint8x16_t, codes: uint8x16_t, x: int8x16_t) -> uint8x16_t {
    let (sum, codes) = (vreinterpretq_s32_u8(sum), vreinterpretq_s8_u8(codes));
    vreinterpretq_u8_s32(if DOT {
        neon::dot(sum, codes, x)
    } else {
        neon::dot_widening(sum, codes, x)
    })
}

impl<const DOT: bool> Lanes for Pair<DOT> {
    const ROWS: usize = 8;
    const CODE_TOKENS: usize = 4;
    const FLOAT_TOKENS: usize = 4;
    const SIGNED_BYTES: bool = true;
    type I = [uint8x16_t; 2];
    type F = [float32x4_t; 2];

    #[inline(always)]
    unsafe fn load(bytes: *const u8) -> Self::I {
        [vld1q_u8(bytes), vld1q_u8(bytes.add(16))]
    }
    #[inline(always)]
    unsafe fn prefetch(bytes: *const u8) {
        asm!("prfm pldl1keep, [{}]", in(reg) bytes, options(readonly, nostack, preserves_flags));
    }
    #[inline(always)]
    unsafe fn prefetch_far(bytes: *const u8) {
        asm!("prfm pldl2keep, [{}]", in(reg) bytes, options(readonly, nostack, preserves_flags));
    }
    #[inline(always)]
    unsafe fn prefetch_write(bytes: *const u8) {
        asm!("prfm pstl1keep, [{}]", in(reg) bytes, options(readonly, nostack, preserves_flags));
    }
    #[inline(always)]
    unsafe fn store_bytes(a: Self::I, to: *mut u8) {
        vst1q_u8(to, a[0]);
        vst1q_u8(to.add(16), a[1]);
    }
    #[inline(always)]
    unsafe fn zero() -> Self::I {
        [vdupq_n_u8(0); 2]
    }
    #[inline(always)]
    unsafe fn splat_byte(byte: u8) -> Self::I {
        [vdupq_n_u8(byte); 2]
    }
    #[inline(always)]
    unsafe fn and(a: Self::I, b: Self::I) -> Self::I {
        [vandq_u8(a[0], b[0]), vandq_u8(a[1], b[1])]
    }
    #[inline(always)]
    unsafe fn or(a: Self::I, b: Self::I) -> Self::I {
        [vorrq_u8(a[0], b[0]), vorrq_u8(a[1], b[1])]
    }
    #[inline(always)]
    unsafe fn shift_right(a: Self::I, by: i32) -> Self::I {
        // `by` is a constant once inlined: this becomes a shift by an immediate.
        let left = vdupq_n_s8(-by as i8);
        [vshlq_u8(a[0], left), vshlq_u8(a[1], left)]
    }
    #[inline(always)]
    unsafe fn iq4_levels(codes: Self::I) -> Self::I {
        let levels = veorq_u8(vld1q_u8(IQ4_LEVELS.as_ptr().cast()), vdupq_n_u8(128));
        [vqtbl1q_u8(levels, codes[0]), vqtbl1q_u8(levels, codes[1])]
    }
    #[inline(always)]
    unsafe fn dot(sum: Self::I, codes: Self::I, x: *const i8) -> Self::I {
        let x = four(x);
        [
            dot::<DOT>(sum[0], codes[0], x),
            dot::<DOT>(sum[1], codes[1], x),
        ]
    }
    #[inline(always)]
    unsafe fn dot_bytes(sum: Self::I, codes: Self::I, x: *const i8) -> Self::I {
        let zero = vdupq_n_u8(128);
        Self::dot(sum, [veorq_u8(codes[0], zero), veorq_u8(codes[1], zero)], x)
    }
    #[inline(always)]
    unsafe fn splat_shifted(number: *const i32, by: u32) -> Self::I {
        [vreinterpretq_u8_s32(vdupq_n_s32(number.read() >> by)); 2]
    }
    #[inline(always)]
    unsafe fn add_bytes(a: Self::I, b: Self::I) -> Self::I {
        [vaddq_u8(a[0], b[0]), vaddq_u8(a[1], b[1])]
    }
    #[inline(always)]
    unsafe fn to_f32(a: Self::I) -> Self::F {
        [
            vcvtq_f32_s32(vreinterpretq_s32_u8(a[0])),
            vcvtq_f32_s32(vreinterpretq_s32_u8(a[1])),
        ]
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self::F {
        [vdupq_n_f32(value); 2]
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        [vmulq_f32(a[0], b[0]), vmulq_f32(a[1], b[1])]
    }
    #[inline(always)]
    unsafe fn add_f32(a: Self::F, b: Self::F) -> Self::F {
        [vaddq_f32(a[0], b[0]), vaddq_f32(a[1], b[1])]
    }
    #[inline(always)]
    unsafe fn mul_add(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        [vfmaq_f32(c[0], a[0], b[0]), vfmaq_f32(c[1], a[1], b[1])]
    }
    #[inline(always)]
    unsafe fn neg_mul_add(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        [vfmsq_f32(c[0], a[0], b[0]), vfmsq_f32(c[1], a[1], b[1])]
    }
    #[inline(always)]
    unsafe fn load_f32(bytes: *const u8) -> Self::F {
        let [low, high] = Self::load(bytes);
        [vreinterpretq_f32_u8(low), vreinterpretq_f32_u8(high)]
    }
    #[inline(always)]
    unsafe fn load_f16(bytes: *const u8) -> Self::F {
        let halves = vreinterpretq_f16_u8(vld1q_u8(bytes));
        [
            vcvt_f32_f16(vget_low_f16(halves)),
            vcvt_high_f32_f16(halves),
        ]
    }
    #[inline(always)]
    unsafe fn load_bf16_pairs(bytes: *const u8) -> [Self::F; 2] {
        let [low, high] = Self::load(bytes);
        let (low, high) = (vreinterpretq_u32_u8(low), vreinterpretq_u32_u8(high));
        let upper = vdupq_n_u32(0xffff_0000);
        [
            [
                vreinterpretq_f32_u32(vshlq_n_u32::<16>(low)),
                vreinterpretq_f32_u32(vshlq_n_u32::<16>(high)),
            ],
            [
                vreinterpretq_f32_u32(vandq_u32(low, upper)),
                vreinterpretq_f32_u32(vandq_u32(high, upper)),
            ],
        ]
    }
    #[inline(always)]
    unsafe fn load_i8(bytes: *const u8) -> Self::F {
        let wide = vmovl_s8(vld1_s8(bytes.cast()));
        [
            vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide))),
            vcvtq_f32_s32(vmovl_high_s16(wide)),
        ]
    }
    #[inline(always)]
    unsafe fn load_u8(bytes: *const u8) -> Self::F {
        let wide = vmovl_u8(vld1_u8(bytes));
        [
            vcvtq_f32_u32(vmovl_u16(vget_low_u16(wide))),
            vcvtq_f32_u32(vmovl_high_u16(wide)),
        ]
    }
    #[inline(always)]
    unsafe fn store(a: Self::F, to: *mut f32) {
        vst1q_f32(to, a[0]);
        vst1q_f32(to.add(4), a[1]);
    }
}
