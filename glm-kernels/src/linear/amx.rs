//! The matrix unit: sixteen tokens times sixteen rows at a time.
//!
//! Quantised weights: the unit forms the exact integer dot products of a block, which then go through memory (there is no other way out of a tile)
//! to the vector unit, where they meet their scales. Storing a tile and scaling it take most of the time; the products themselves a quarter.
//!
//! # Safety
//! As in [`super::direct`].

#![allow(unsafe_op_in_unsafe_fn)] // nearly every line is a vector or tile operation under the one contract above

use std::arch::x86_64::*;
use std::ops::Range;

use super::activations::{MANY, Part, TILE};
use super::avx512::{self, Zmm};
use super::codec::{Codec, with_quantized};
use super::gemm::{self, Form, PANELS, PanelChunk, Sums, TileChunk, Unit};
use super::job::Job;
use super::layout::{BLOCK_COLS, PANEL_ROWS};
use crate::amx::{self, TileShapes, Tiles};
use crate::{Amx, WeightFormat};

/// Computes `panels` for all tokens.
pub(super) fn run(cpu: Amx, job: &Job, panels: Range<usize>) {
    if job.format == WeightFormat::BF16 && job.x.bf16.is_some() {
        super::amx_bf16::run(cpu, job, panels);
    } else if job.format.is_quantized() && job.x.tokens >= MANY {
        let _tiles = Tiles::configure(cpu, &SHAPES);
        // SAFETY: an `Amx` value exists only where AMX and AVX-512 with VNNI were detected.
        with_quantized!(job.format, C => unsafe { quantized::<C>(job, panels) });
    } else {
        avx512::run(cpu.avx512(), job, panels);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn quantized<C: Codec>(job: &Job, panels: Range<usize>) {
    gemm::quantized::<Matrix, C>(job, panels);
}

/// The matrix unit, which takes signed codes.
struct Matrix;

/// Tiles 0 to 3 are for sums. Of the others, even ones hold codes of tokens, odd ones of rows: 4 and 5 all 32 columns of a block, 6 and 7 sixteen.
const SHAPES: TileShapes = TileShapes::new([
    [16, 64],
    [16, 64],
    [16, 64],
    [16, 64],
    [16, 32],
    [8, 64],
    [16, 16],
    [4, 64],
]);

impl Unit for Matrix {
    type Lanes = Zmm;
    const BYTE_BIAS: u8 = 0;

    #[inline(always)]
    unsafe fn multiply(
        form: Form,
        panels: &[PanelChunk; PANELS],
        x: TileChunk,
        sums: &mut [Sums; PANELS],
    ) {
        let multiply = match (form.halves, form.minima) {
            (false, false) => multiply::<false, false>,
            (false, true) => multiply::<false, true>,
            (true, false) => multiply::<true, false>,
            (true, true) => multiply::<true, true>,
        };
        multiply(panels, x, sums);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn multiply<const HALVES: bool, const MINIMA: bool>(
    panels: &[PanelChunk; PANELS],
    x: TileChunk,
    sums: &mut [Sums; PANELS],
) {
    for (panel, sums) in panels.iter().zip(sums) {
        match x.tokens {
            ..=4 => multiply_panel::<4, HALVES, MINIMA>(panel, x, sums),
            5..=8 => multiply_panel::<8, HALVES, MINIMA>(panel, x, sums),
            _ => multiply_panel::<TILE, HALVES, MINIMA>(panel, x, sums),
        }
    }
}

/// What tiles are stored to, by four turns.
#[repr(C, align(64))]
struct Products([[i32; PANEL_ROWS * TILE]; 4]);

/// The first `T` tokens of a tile times a panel.
///
/// Three (sub-)blocks are under way at a time: one is multiplied, the one before stored, the one before that scaled. So nothing waits for the latency
/// of the unit or of the store.
#[inline(always)]
unsafe fn multiply_panel<const T: usize, const HALVES: bool, const MINIMA: bool>(
    panel: &PanelChunk,
    x: TileChunk,
    sums: &mut Sums,
) {
    let mut products = std::mem::MaybeUninit::<Products>::uninit();
    let products: *mut i32 = products.as_mut_ptr().cast();
    let mut totals = [_mm512_setzero_ps(); T];
    for (total, sums) in totals.iter_mut().zip(&sums.0) {
        *total = _mm512_load_ps(sums.as_ptr());
    }
    let steps = if HALVES { 2 * x.blocks } else { x.blocks };
    // Step `i` is in tile `i % 4`.
    macro_rules! turn {
        ($i:expr, $store:literal, $multiply:literal, $scale:literal) => {
            if $i + 2 < steps {
                product::<$multiply, HALVES>(panel, x, $i + 2);
            }
            if $i + 1 < steps {
                amx::store::<$store>(products.add($store * PANEL_ROWS * TILE).cast(), 64);
            }
            if $i < steps {
                let products = products.add($scale * PANEL_ROWS * TILE);
                scale::<T, HALVES, MINIMA>(panel, x, $i, products, &mut totals);
            }
        };
    }
    product::<0, HALVES>(panel, x, 0);
    if steps > 1 {
        product::<1, HALVES>(panel, x, 1);
    }
    amx::store::<0>(products.cast(), 64);
    for i in (0..steps).step_by(4) {
        turn!(i, 1, 2, 0);
        turn!(i + 1, 2, 3, 1);
        turn!(i + 2, 3, 0, 2);
        turn!(i + 3, 0, 1, 3);
    }
    for (total, sums) in totals.iter().zip(&mut sums.0) {
        _mm512_store_ps(sums.as_mut_ptr(), *total);
    }
}

/// The dot products of (sub-)block `step`, in tile `C`.
#[inline(always)]
unsafe fn product<const C: usize, const HALVES: bool>(
    panel: &PanelChunk,
    x: TileChunk,
    step: usize,
) {
    amx::zero::<C>();
    if HALVES {
        let codes = x.tile.codes(x.first_block + step / 2);
        amx::load::<6>(codes.add(16 * (step % 2)).cast(), BLOCK_COLS);
        amx::load::<7>(panel.codes[step / 2].as_ptr().add(256 * (step % 2)), 64);
        amx::dot_i8::<C, 6, 7>();
    } else {
        amx::load::<4>(x.tile.codes(x.first_block + step).cast(), BLOCK_COLS);
        amx::load::<5>(panel.codes[step].as_ptr(), 64);
        amx::dot_i8::<C, 4, 5>();
    }
}

/// Adds the dot products of (sub-)block `step`, scaled, to the totals.
#[inline(always)]
unsafe fn scale<const T: usize, const HALVES: bool, const MINIMA: bool>(
    panel: &PanelChunk,
    x: TileChunk,
    step: usize,
    products: *const i32,
    totals: &mut [__m512; T],
) {
    let (block, part, name) = match (HALVES, step % 2) {
        (false, _) => (step, 0, Part::Whole),
        (true, 0) => (step / 2, 0, Part::Low),
        (true, _) => (step / 2, 1, Part::High),
    };
    let scale = _mm512_load_ps(panel.scales[block][part].as_ptr());
    let minimum = _mm512_load_ps(panel.minima[block][part].as_ptr());
    let x_scales = x.tile.scales(x.first_block + block);
    let x_sums = x.tile.scaled_sums(name, x.first_block + block);
    for (i, total) in totals.iter_mut().enumerate() {
        let dots = _mm512_cvtepi32_ps(_mm512_load_si512(products.add(PANEL_ROWS * i).cast()));
        let product = _mm512_mul_ps(dots, scale);
        *total = _mm512_fmadd_ps(product, _mm512_set1_ps(*x_scales.add(i)), *total);
        if MINIMA {
            *total = _mm512_fmadd_ps(minimum, _mm512_set1_ps(*x_sums.add(i)), *total);
        }
    }
}
