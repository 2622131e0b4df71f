//! The matrix unit: up to sixteen tokens times sixteen rows at a time.
//!
//! Quantised weights: the unit forms the exact integer dot products of a block, which then go through memory (there is no other way out of a tile)
//! to the vector unit, where they meet their scales. Storing a tile and scaling it take most of the time; the products themselves a quarter.
//!
//! Tokens of one tile meet each weight once, so a block is unpacked just before it is needed, while others are multiplied: memory, unpacking and
//! products overlap. More tokens take the chunks of [`super::gemm`], and the first tile unpacks them in the same way.
//!
//! # Safety
//! As in [`super::direct`].

#![allow(unsafe_op_in_unsafe_fn)] // nearly every line is a vector or tile operation under the one contract above

use std::arch::x86_64::*;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::activations::{MANY, Part, TILE};
use super::avx512::{self, Zmm};
use super::codec::{Codec, with_form, with_quantized};
use super::gemm::{
    self, CHUNK_BLOCKS, NextChunk, PANELS, PanelBlock, PanelChunk, Sums, TileChunk, Unit,
};
use super::job::Job;
use super::lanes::Lanes;
use super::layout::{BLOCK_COLS, PANEL_ROWS};
use crate::amx::{self, TileShapes, Tiles};
use crate::{Amx, WeightFormat};

/// Computes `panels` for all tokens.
pub(super) fn run(cpu: Amx, job: &Job, panels: Range<usize>) {
    if job.format == WeightFormat::BF16 && job.x.bf16.is_some() {
        super::amx_bf16::run(cpu, job, panels);
    } else if job.format.is_quantized() && job.x.tokens >= MANY {
        // SAFETY: an `Amx` value exists only where AMX and AVX-512 with VNNI were detected.
        with_quantized!(job.format, C => unsafe { quantized::<C>(cpu, job, panels) });
    } else {
        avx512::run(cpu.avx512(), job, panels);
    }
}

/// Multiplying, loading and storing a tile take time for each of its rows, so few tokens have tiles of their own size.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn quantized<C: Codec>(cpu: Amx, job: &Job, panels: Range<usize>) {
    match job.x.tokens {
        ..=4 => one_tile::<4, C>(cpu, job, panels),
        5..=8 => one_tile::<8, C>(cpu, job, panels),
        9..=TILE => one_tile::<TILE, C>(cpu, job, panels),
        _ => {
            let _tiles = Tiles::configure(cpu, &const { shapes(TILE) });
            gemm::quantized::<Matrix, C>(job, panels);
        }
    }
}

/// Tiles 0 to 3 are for sums. Of the others, even ones hold codes of tokens, odd ones of rows: 4 and 5 all 32 columns of a block, 6 and 7 sixteen.
const fn shapes(tokens: usize) -> TileShapes {
    TileShapes::new([
        [tokens, 64],
        [tokens, 64],
        [tokens, 64],
        [tokens, 64],
        [tokens, 32],
        [8, 64],
        [tokens, 16],
        [4, 64],
    ])
}

/// Up to `T` tokens.
#[inline(always)]
unsafe fn one_tile<const T: usize, C: Codec>(cpu: Amx, job: &Job, panels: Range<usize>) {
    let Some(x) = &job.x.codes else { return };
    let _tiles = Tiles::configure(cpu, &const { shapes(T) });
    let x = TileChunk {
        tile: x.tile(0),
        first_block: 0,
        blocks: job.x.cols / BLOCK_COLS,
        tokens: job.x.tokens,
    };
    let mut ring = MaybeUninit::<[PanelBlock; RING]>::uninit();
    for panel in panels {
        let weights = Unpacking::<C> {
            panel: job.panel(panel).as_ptr(),
            blocks: x.blocks,
            ring: ring.as_mut_ptr().cast(),
            codec: PhantomData,
        };
        weights.unpack(0..AHEAD);
        let mut sums = Sums([[0.0; PANEL_ROWS]; TILE]);
        with_form!(C, HALVES, MINIMA => multiply::<T, HALVES, MINIMA>(weights, x, &mut sums));
        for t in 0..x.tokens {
            job.store_panel(t, panel, &sums.0[t]);
        }
    }
}

/// The matrix unit, which takes signed codes.
struct Matrix;

impl Unit for Matrix {
    type Lanes = Zmm;
    const BYTE_BIAS: u8 = 0;

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn multiply<const HALVES: bool, const MINIMA: bool>(
        panels: &[PanelChunk; PANELS],
        x: TileChunk,
        next: NextChunk,
        sums: &mut [Sums; PANELS],
    ) {
        for (panel, sums) in sums.iter_mut().enumerate() {
            let weights = Unpacked {
                blocks: &panels[panel].0,
                next,
                panel,
            };
            multiply::<TILE, HALVES, MINIMA>(weights, x, sums);
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn unpack_and_multiply<C: Codec, const HALVES: bool, const MINIMA: bool>(
        packed: [*const u8; PANELS],
        unpacked: *mut [PanelChunk; PANELS],
        x: TileChunk,
        next: NextChunk,
        sums: &mut [Sums; PANELS],
    ) {
        let mut filling = Filling::<C> {
            packed,
            chunk: unpacked.cast(),
            first_block: x.first_block,
            blocks: x.blocks,
            panel: 0,
            next,
            codec: PhantomData,
        };
        for block in 0..AHEAD {
            filling.unpack(block);
        }
        for (panel, sums) in sums.iter_mut().enumerate() {
            filling.panel = panel;
            multiply::<TILE, HALVES, MINIMA>(&filling, x, sums);
        }
    }
}

/// Blocks of a panel, unpacked.
trait Blocks {
    /// Block `index`, from its product on until it is scaled.
    unsafe fn get(&self, index: usize) -> *const PanelBlock;
    /// What is done for later blocks between the products of two, once for each.
    unsafe fn prepare(&self, index: usize);
}

/// A chunk that was unpacked before; the next one is fetched meanwhile.
struct Unpacked<'a> {
    blocks: &'a [PanelBlock],
    next: NextChunk,
    panel: usize,
}

impl Blocks for Unpacked<'_> {
    #[inline(always)]
    unsafe fn get(&self, index: usize) -> *const PanelBlock {
        self.blocks.as_ptr().add(index)
    }

    #[inline(always)]
    unsafe fn prepare(&self, index: usize) {
        self.next.fetch::<Zmm>(self.panel, index);
    }
}

/// A chunk that is unpacked for later tiles as it goes; the next one is fetched meanwhile.
struct Filling<C> {
    packed: [*const u8; PANELS],
    /// `[PANELS, CHUNK_BLOCKS]`
    chunk: *mut PanelBlock,
    /// The block of a panel that is the chunk's first, and how many it has.
    first_block: usize,
    blocks: usize,
    /// The one that is multiplied.
    panel: usize,
    next: NextChunk,
    codec: PhantomData<C>,
}

impl<C: Codec> Filling<C> {
    /// Unpacks block `index` of the chunk, counted from the first of the panel that is multiplied; those of the next panel follow its last.
    #[inline(always)]
    unsafe fn unpack(&self, index: usize) {
        let (mut panel, mut block) = (self.panel, index);
        while block >= self.blocks {
            (panel, block) = (panel + 1, block - self.blocks);
        }
        if panel < PANELS {
            let to = self.chunk.add(panel * CHUNK_BLOCKS + block);
            gemm::unpack_block::<Matrix, C>(self.packed[panel], self.first_block + block, to);
        }
    }
}

impl<C: Codec> Blocks for &Filling<C> {
    #[inline(always)]
    unsafe fn get(&self, index: usize) -> *const PanelBlock {
        self.chunk.add(self.panel * CHUNK_BLOCKS + index)
    }

    #[inline(always)]
    unsafe fn prepare(&self, index: usize) {
        self.next.fetch::<Zmm>(self.panel, index);
        self.unpack(index + AHEAD);
    }
}

/// How many blocks ahead of its scaling a block is unpacked: its product comes two blocks before that.
const AHEAD: usize = 4;

/// Blocks that have room at a time, more than [`AHEAD`].
const RING: usize = 8;

/// How far ahead of its unpacking a weight is fetched, into the second level cache: the first has room for too few misses (Xeon, Granite Rapids:
/// 22 instead of 26 GB/s with 16 tokens of Q8_0; less or more than this is slower).
const PREFETCH_BYTES: usize = 8192;

/// A panel that is unpacked as it goes.
struct Unpacking<C> {
    panel: *const u8,
    blocks: usize,
    ring: *mut PanelBlock,
    codec: PhantomData<C>,
}

impl<C: Codec> Unpacking<C> {
    #[inline(always)]
    unsafe fn unpack(&self, blocks: Range<usize>) {
        for block in blocks.start..blocks.end.min(self.blocks) {
            gemm::unpack_block::<Matrix, C>(self.panel, block, self.ring.add(block % RING));
        }
    }
}

impl<C: Codec> Blocks for Unpacking<C> {
    #[inline(always)]
    unsafe fn get(&self, index: usize) -> *const PanelBlock {
        self.ring.add(index % RING)
    }

    #[inline(always)]
    unsafe fn prepare(&self, index: usize) {
        let bytes = const { C::LAYOUT.group_bytes() / C::LAYOUT.payloads() };
        let ahead = (index + AHEAD) * bytes + PREFETCH_BYTES;
        for line in (0..bytes).step_by(64) {
            Zmm::prefetch_far(self.panel.wrapping_add(ahead + line));
        }
        self.unpack(index + AHEAD..index + AHEAD + 1);
    }
}

/// What tiles are stored to, by four turns.
#[repr(C, align(64))]
struct Products([[i32; PANEL_ROWS * TILE]; 4]);

/// Adds the product of the first `T` tokens of a tile's chunk with the blocks of a panel to the sums.
///
/// Three (sub-)blocks are under way at a time: one is multiplied, the one before stored, the one before that scaled. So nothing waits for the latency
/// of the unit or of the store.
#[inline(always)]
unsafe fn multiply<const T: usize, const HALVES: bool, const MINIMA: bool>(
    weights: impl Blocks,
    x: TileChunk,
    sums: &mut Sums,
) {
    let mut products = MaybeUninit::<Products>::uninit();
    let products: *mut i32 = products.as_mut_ptr().cast();
    let mut totals = [_mm512_setzero_ps(); T];
    for (total, sums) in totals.iter_mut().zip(&sums.0) {
        *total = _mm512_load_ps(sums.as_ptr());
    }
    let per_block = if HALVES { 2 } else { 1 };
    let steps = per_block * x.blocks;
    // Step `i` is in tile `i % 4`.
    macro_rules! turn {
        ($i:expr, $store:literal, $multiply:literal, $scale:literal) => {
            if $i + 2 < steps {
                product::<$multiply, HALVES>(&weights, x, $i + 2);
            }
            if $i + 1 < steps {
                amx::store::<$store>(products.add($store * PANEL_ROWS * TILE).cast(), 64);
            }
            if $i < steps {
                if $i % per_block == 0 {
                    weights.prepare($i / per_block);
                }
                let products = products.add($scale * PANEL_ROWS * TILE);
                scale::<T, HALVES, MINIMA>(&weights, x, $i, products, &mut totals);
            }
        };
    }
    product::<0, HALVES>(&weights, x, 0);
    if steps > 1 {
        product::<1, HALVES>(&weights, x, 1);
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
    weights: &impl Blocks,
    x: TileChunk,
    step: usize,
) {
    amx::zero::<C>();
    if HALVES {
        let (block, half) = (step / 2, step % 2);
        let rows = (&raw const (*weights.get(block)).codes).cast::<u8>();
        let tokens = x.tile.codes(x.first_block + block);
        amx::load::<6>(tokens.add(BLOCK_COLS / 2 * half).cast(), BLOCK_COLS);
        amx::load::<7>(rows.add(PANEL_ROWS * BLOCK_COLS / 2 * half), 64);
        amx::dot_i8::<C, 6, 7>();
    } else {
        let rows = (&raw const (*weights.get(step)).codes).cast::<u8>();
        amx::load::<4>(x.tile.codes(x.first_block + step).cast(), BLOCK_COLS);
        amx::load::<5>(rows, 64);
        amx::dot_i8::<C, 4, 5>();
    }
}

/// Adds the dot products of (sub-)block `step`, scaled, to the totals.
#[inline(always)]
unsafe fn scale<const T: usize, const HALVES: bool, const MINIMA: bool>(
    weights: &impl Blocks,
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
    let weights = weights.get(block);
    let scale = _mm512_load_ps((&raw const (*weights).scales[part]).cast());
    let x_scales = x.tile.scales(x.first_block + block);
    let x_sums = x.tile.scaled_sums(name, x.first_block + block);
    for (i, total) in totals.iter_mut().enumerate() {
        let dots = _mm512_cvtepi32_ps(_mm512_load_si512(products.add(PANEL_ROWS * i).cast()));
        let product = _mm512_mul_ps(dots, scale);
        *total = _mm512_fmadd_ps(product, _mm512_set1_ps(*x_scales.add(i)), *total);
        if MINIMA {
            let minimum = _mm512_load_ps((&raw const (*weights).minima[part]).cast());
            *total = _mm512_fmadd_ps(minimum, _mm512_set1_ps(*x_sums.add(i)), *total);
        }
    }
}
