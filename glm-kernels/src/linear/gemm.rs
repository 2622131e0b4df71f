//! Many tokens: a chunk of two panels is unpacked into bytes and f32 scales once, in the nearest cache, and multiplied with every tile of tokens. A unit
//! may unpack it while it multiplies the first tile, which counts where there are few.
//!
//! Unpacked, all formats look alike, so a unit needs one kernel for all of them: [`super::amx`] has its own, vector units share the one below.
//!
//! # Safety
//! As in [`super::direct`].

#![allow(unsafe_op_in_unsafe_fn)] // nearly every line is a vector operation under the one contract above
#![allow(clippy::needless_range_loop)] // indices of fixed arrays, which become registers; iterators would bring closures that are not inlined

use std::mem::MaybeUninit;
use std::ops::Range;

use super::activations::{Part, TILE, Tile};
use super::codec::{Codec, with_form};
use super::direct::unpack;
use super::job::Job;
use super::lanes::Lanes;
use super::layout::{BLOCK_COLS, Minimum, PANEL_ROWS};

/// Panels that meet a tile together: so an activation is loaded once for two vectors of rows.
pub(super) const PANELS: usize = 2;

/// Blocks of a chunk: with two panels 24 KiB, half of the nearest cache.
pub(super) const CHUNK_BLOCKS: usize = 16;

/// Tokens are taken in runs of at most this many bytes of codes, which stay in the second level cache (1 to 2 MiB on current servers) while all panels
/// of a thread pass by.
const TOKEN_RUN_BYTES: usize = 1 << 20;

/// Tiles of a run, at most.
const RUN_TILES: usize = 32;

/// Tiles up to which a chunk is unpacked while the first is multiplied. (GLM-Edge-1.5B, Q4_K_M, two threads: two tiles 12 % faster, eight 6 % slower.)
const FEW_TILES: usize = 4;

/// A panel's part of a chunk, unpacked.
#[repr(C, align(64))]
pub(super) struct PanelChunk(pub [PanelBlock; CHUNK_BLOCKS]);

/// A panel's 32 columns, unpacked.
#[repr(C, align(64))]
pub(super) struct PanelBlock {
    /// For each of eight quads of columns, the four codes of each row.
    pub codes: [u8; PANEL_ROWS * BLOCK_COLS],
    /// Of the first and of the last 16 columns, or of all 32 and nothing.
    pub scales: [[f32; PANEL_ROWS]; 2],
    /// As `scales`: what is multiplied with the sum of the activations.
    pub minima: [[f32; PANEL_ROWS]; 2],
}

/// The sums of a tile of tokens for a panel, `[token, row]`.
#[repr(C, align(64))]
pub(super) struct Sums(pub [[f32; PANEL_ROWS]; TILE]);

/// What a thread works with.
struct Scratch {
    chunks: [PanelChunk; PANELS],
    sums: [[Sums; PANELS]; RUN_TILES],
}

/// A chunk of columns of a tile.
#[derive(Clone, Copy)]
pub(super) struct TileChunk {
    pub tile: Tile,
    /// The block of the tile that is the chunk's first.
    pub first_block: usize,
    pub blocks: usize,
    /// Tokens of the tile.
    pub tokens: usize,
}

/// Where the weights of the next chunk are.
///
/// They are asked for bit by bit between the products, not all at once while a chunk is unpacked: a core has room for a few dozen misses, and with
/// few tokens memory would idle during the products and the products during the misses.
#[derive(Clone, Copy)]
pub(super) struct NextChunk {
    panels: [*const u8; PANELS],
    /// Bytes of a block of a panel; 0 if there is nothing to ask for.
    block_bytes: usize,
}

impl NextChunk {
    /// Asks for a block of a panel.
    #[inline(always)]
    pub unsafe fn fetch<L: Lanes>(&self, panel: usize, block: usize) {
        let start = self.panels[panel].wrapping_add(block * self.block_bytes);
        for line in (0..self.block_bytes).step_by(64) {
            L::prefetch_far(start.wrapping_add(line));
        }
    }
}

/// What multiplies unpacked weights.
pub(super) trait Unit {
    /// The vectors that unpack.
    type Lanes: Lanes;
    /// What is added to a signed code to make the byte that the unit takes.
    const BYTE_BIAS: u8;

    /// Adds the product of a tile's chunk with both panels to the sums, and asks for the next chunk meanwhile. For `HALVES` and `MINIMA` see
    /// [`with_form`].
    unsafe fn multiply<const HALVES: bool, const MINIMA: bool>(
        panels: &[PanelChunk; PANELS],
        x: TileChunk,
        next: NextChunk,
        sums: &mut [Sums; PANELS],
    );

    /// The same with the first tile that the chunk meets: `packed` are the two panels as they are stored, and their chunk is unpacked to where
    /// `unpacked`, a `[PanelChunk; PANELS]`, points.
    #[inline(always)]
    unsafe fn unpack_and_multiply<C: Codec, const HALVES: bool, const MINIMA: bool>(
        packed: [*const u8; PANELS],
        unpacked: *mut [PanelChunk; PANELS],
        x: TileChunk,
        next: NextChunk,
        sums: &mut [Sums; PANELS],
    ) where
        Self: Sized,
    {
        unpack_chunk::<Self, C>(packed, unpacked, x);
        Self::multiply::<HALVES, MINIMA>(&*unpacked, x, next, sums);
    }
}

/// Computes `panels` of a quantised segment for all tokens.
#[inline(always)]
pub(super) unsafe fn quantized<U: Unit, C: Codec>(job: &Job, panels: Range<usize>) {
    let mut scratch = MaybeUninit::<Scratch>::uninit();
    let scratch = scratch.as_mut_ptr();
    let tiles = job.x.tokens.div_ceil(TILE);
    let run = (TOKEN_RUN_BYTES / (TILE * job.x.cols)).clamp(1, RUN_TILES);
    // Runs of one length, so that none is left that hardly pays for its unpacking.
    let run = tiles.div_ceil(tiles.div_ceil(run));
    for first in (0..tiles).step_by(run) {
        let tiles = first..(first + run).min(tiles);
        for panel in panels.clone().step_by(PANELS) {
            // The last panel is taken twice if there is no other.
            let pair = [panel, (panel + 1).min(panels.end - 1)];
            pair_of_panels::<U, C>(job, pair, tiles.clone(), scratch);
        }
    }
}

#[inline(always)]
unsafe fn pair_of_panels<U: Unit, C: Codec>(
    job: &Job,
    pair: [usize; PANELS],
    tiles: Range<usize>,
    scratch: *mut Scratch,
) {
    let Some(x) = &job.x.codes else { return };
    // SAFETY (of all that follows): nothing is read from `scratch` before it is written: sums are cleared here, and of a chunk no more is read than
    // was unpacked.
    let sums = (&raw mut (*scratch).sums).cast::<[Sums; PANELS]>();
    sums.write_bytes(0, tiles.len());
    let blocks = job.x.cols / BLOCK_COLS;
    for first_block in (0..blocks).step_by(CHUNK_BLOCKS) {
        let chunk = first_block..(first_block + CHUNK_BLOCKS).min(blocks);
        let unpacked = &raw mut (*scratch).chunks;
        let packed = pair.map(|panel| job.panel(panel).as_ptr());
        let is_last = chunk.end == blocks;
        let block_bytes = const { C::LAYOUT.group_bytes() / C::LAYOUT.payloads() };
        let mut next = NextChunk {
            panels: pair.map(|panel| {
                let panel = job.panel(panel);
                // After the last chunk of a pair comes the first of the next pair.
                let ahead = if is_last {
                    PANELS * panel.len()
                } else {
                    chunk.end * block_bytes
                };
                panel.as_ptr().wrapping_add(ahead)
            }),
            block_bytes,
        };
        for tile in tiles.clone() {
            let first = tile * TILE;
            let tokens = first..(first + TILE).min(job.x.tokens);
            if is_last {
                prefetch_results::<U::Lanes>(job, pair, tokens.clone());
            }
            let x = TileChunk {
                tile: x.tile(tile),
                first_block,
                blocks: chunk.len(),
                tokens: tokens.len(),
            };
            let sums = &mut *sums.add(tile - tiles.start);
            if tile == tiles.start && tiles.len() > FEW_TILES {
                unpack_chunk::<U, C>(packed, unpacked, x);
            }
            if tile == tiles.start && tiles.len() <= FEW_TILES {
                with_form!(C, HALVES, MINIMA => {
                    U::unpack_and_multiply::<C, HALVES, MINIMA>(packed, unpacked, x, next, sums)
                });
            } else {
                let unpacked = &*unpacked;
                with_form!(C, HALVES, MINIMA => U::multiply::<HALVES, MINIMA>(unpacked, x, next, sums));
            }
            next.block_bytes = 0; // the first tile has asked for all of it
            if is_last {
                for t in tokens {
                    for p in 0..PANELS {
                        job.store_panel(t, pair[p], &sums[p].0[t - first]);
                    }
                }
            }
        }
    }
}

/// Asks for the memory that the results of a pair of panels go to: rows of it are far apart, so that each would be a miss.
#[inline(always)]
unsafe fn prefetch_results<L: Lanes>(job: &Job, pair: [usize; PANELS], tokens: Range<usize>) {
    for t in tokens {
        for p in 0..PANELS {
            L::prefetch_write(job.result(t, pair[p]).cast());
        }
    }
}

/// Unpacks the blocks of a chunk, of two panels.
#[inline(always)]
unsafe fn unpack_chunk<U: Unit, C: Codec>(
    packed: [*const u8; PANELS],
    unpacked: *mut [PanelChunk; PANELS],
    x: TileChunk,
) {
    let blocks = unpacked.cast::<PanelBlock>();
    for p in 0..PANELS {
        for i in 0..x.blocks {
            let block = blocks.add(p * CHUNK_BLOCKS + i);
            unpack_block::<U, C>(packed[p], x.first_block + i, block);
        }
    }
}

/// Unpacks a block of a panel; what the format has not is left as it was.
#[inline(always)]
pub(super) unsafe fn unpack_block<U: Unit, C: Codec>(
    panel: *const u8,
    block: usize,
    unpacked: *mut PanelBlock,
) {
    let layout = const { C::LAYOUT };
    let zero = match layout.zero_log2 {
        Some(log2) => (1u32 << log2) as u8,
        None => 0,
    };
    let shift = U::Lanes::splat_byte(U::BYTE_BIAS.wrapping_sub(zero));
    let (group, payload) = (block / layout.payloads(), block % layout.payloads());
    let group = panel.add(group * layout.group_bytes());
    let scales = (&raw mut (*unpacked).scales).cast::<f32>();
    let minima = (&raw mut (*unpacked).minima).cast::<f32>();
    let codes = (&raw mut (*unpacked).codes).cast::<u8>();
    for lane in (0..PANEL_ROWS).step_by(<U::Lanes as Lanes>::ROWS) {
        let from = unpack::<U::Lanes, C>(group, lane, payload);
        for part in 0..32 / layout.sub_block {
            U::Lanes::store(from.scales[part], scales.add(part * PANEL_ROWS + lane));
            match layout.minimum {
                Minimum::None => {}
                Minimum::Direct => {
                    U::Lanes::store(from.minima[part], minima.add(part * PANEL_ROWS + lane))
                }
                Minimum::Scaled => {
                    let negated = U::Lanes::mul(from.minima[part], U::Lanes::splat(-1.0));
                    U::Lanes::store(negated, minima.add(part * PANEL_ROWS + lane));
                }
            }
        }
        for g in 0..8 {
            let bytes = U::Lanes::add_bytes(from.codes[g], shift);
            U::Lanes::store_bytes(bytes, codes.add(4 * (PANEL_ROWS * g + lane)));
        }
    }
}

/// Keeps what follows from being loaded before: the compiler would fetch a whole block at once, and have no registers left for the sums.
#[inline(always)]
fn keep_order() {
    // SAFETY: no instruction at all.
    unsafe { std::arch::asm!("", options(nostack, preserves_flags)) };
}

/// [`Unit::multiply`] for vectors, two of rows at a time.
#[inline(always)]
pub(super) unsafe fn multiply_vectors<L: Lanes, const HALVES: bool, const MINIMA: bool>(
    panels: &[PanelChunk; PANELS],
    x: TileChunk,
    next: NextChunk,
    sums: &mut [Sums; PANELS],
) {
    for vector in (0..PANELS * PANEL_ROWS / L::ROWS).step_by(2) {
        let mut t = 0;
        while t < x.tokens {
            let next = (t == 0).then_some(next);
            if L::CODE_TOKENS >= 8 && x.tokens - t > 4 {
                multiply_two::<L, 8, HALVES, MINIMA>(panels, x, next, sums, vector, t);
                t += 8;
            } else {
                multiply_two::<L, 4, HALVES, MINIMA>(panels, x, next, sums, vector, t);
                t += 4;
            }
        }
    }
}

/// Two vectors of rows from vector `first` on, times `T` tokens of the tile from `t` on. The sums stay in memory: registers are for the dot products,
/// which take eight times as many operations.
#[inline(always)]
unsafe fn multiply_two<L: Lanes, const T: usize, const HALVES: bool, const MINIMA: bool>(
    panels: &[PanelChunk; PANELS],
    x: TileChunk,
    next: Option<NextChunk>,
    sums: &mut [Sums; PANELS],
    first: usize,
    t: usize,
) {
    let lanes = [first, first + 1].map(|vector| vector * L::ROWS % PANEL_ROWS);
    let of = [first, first + 1].map(|vector| vector * L::ROWS / PANEL_ROWS);
    let quads = if HALVES { 4 } else { 8 };
    for i in 0..x.blocks {
        let block = x.first_block + i;
        for v in 0..2 {
            if let Some(next) = next
                && lanes[v] == 0
            {
                next.fetch::<L>(of[v], i);
            }
        }
        let codes = x.tile.codes(block).add(t * BLOCK_COLS);
        let x_scales = x.tile.scales(block).add(t);
        for part in 0..8 / quads {
            let name = match (HALVES, part) {
                (false, _) => Part::Whole,
                (true, 0) => Part::Low,
                (true, _) => Part::High,
            };
            let mut dots = [[L::zero(); T]; 2];
            if !L::SIGNED_BYTES {
                let biases = x.tile.biases(name, block).add(t);
                for j in 0..T {
                    let bias = L::splat_shifted(biases.add(j), 0);
                    dots[0][j] = bias;
                    dots[1][j] = bias;
                }
            }
            for g in part * quads..(part + 1) * quads {
                let w = [0, 1].map(|v| {
                    panels[of[v]].0[i]
                        .codes
                        .as_ptr()
                        .add(4 * (PANEL_ROWS * g + lanes[v]))
                });
                let w = [L::load(w[0]), L::load(w[1])];
                for j in 0..T {
                    let x = codes.add(j * BLOCK_COLS + 4 * g);
                    dots[0][j] = L::dot_bytes(dots[0][j], w[0], x);
                    dots[1][j] = L::dot_bytes(dots[1][j], w[1], x);
                }
                keep_order();
            }
            let x_sums = x.tile.scaled_sums(name, block).add(t);
            for v in 0..2 {
                let numbers = |of: &[[f32; PANEL_ROWS]; 2]| of[part][lanes[v]..].as_ptr().cast();
                let scale = L::load_f32(numbers(&panels[of[v]].0[i].scales));
                for j in 0..T {
                    let sum = sums[of[v]].0[t + j].as_mut_ptr().add(lanes[v]);
                    let product = L::mul(L::to_f32(dots[v][j]), scale);
                    let mut total = L::load_f32(sum.cast_const().cast());
                    total = L::mul_add(product, L::splat(*x_scales.add(j)), total);
                    if MINIMA {
                        let minimum = L::load_f32(numbers(&panels[of[v]].0[i].minima));
                        total = L::mul_add(minimum, L::splat(*x_sums.add(j)), total);
                    }
                    L::store(total, sum);
                }
                keep_order();
            }
        }
    }
}
