//! bf16 weights on the matrix unit, with activations split into two bf16 each (see [`super::bf16_rows`]).
//!
//! A tile of eight tokens is sixteen rows, so sums of high and of low parts form in one product and are added at the end. Results for a token do not
//! depend on the other rows of its tile: one kernel serves any number of tokens.
//!
//! # Safety
//! As in [`super::direct`].

#![allow(unsafe_op_in_unsafe_fn)] // nearly every line is a tile operation under the one contract above

use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
use std::mem::MaybeUninit;
use std::ops::Range;

use half::bf16;

use super::bf16_rows::{Bf16Rows, STEP, STEP_LEN, TOKENS};
use super::job::Job;
use super::layout::PANEL_ROWS;
use crate::Amx;
use crate::amx::{self, TILE_ROWS, TileShapes, Tiles};

/// Bytes of a tile, of activations, weights or sums.
const TILE_BYTES: usize = 1024;

/// Steps after which sums go to memory and the next tiles take their turn on the same weights: two panels of so many are 32 KiB, which the nearest
/// cache holds.
const CHUNK_STEPS: usize = 16;

/// Tiles of tokens that are taken together: 512 tokens.
const RUN_TILES: usize = 64;

/// How far ahead of its use a weight is fetched; see [`super::direct`].
const PREFETCH_BYTES: usize = 1024;

/// Sums 0 to 3 (tiles of tokens times panels), tokens 4 and 5, weights 6 and 7: all of one shape.
const SHAPES: TileShapes = TileShapes::new([[TILE_ROWS, 64]; 8]);

/// The sums of a tile of tokens and a panel: `[high and low parts of tokens, row]`.
#[repr(C, align(64))]
struct Sums([[f32; PANEL_ROWS]; TILE_ROWS]);

/// Computes `panels` for all tokens.
pub(super) fn run(cpu: Amx, job: &Job, panels: Range<usize>) {
    let Some(x) = &job.x.bf16 else { return };
    let _tiles = Tiles::configure(cpu, &SHAPES);
    let mut sums = [const { MaybeUninit::<[Sums; 2]>::uninit() }; RUN_TILES];
    let tiles = job.x.tokens.div_ceil(TOKENS);
    let half = panels.len() / 2;
    for first in (0..tiles).step_by(RUN_TILES) {
        let tiles = first..(first + RUN_TILES).min(tiles);
        // Panels far apart in memory: a core fetches two streams faster than one.
        for panel in panels.start..panels.start + half {
            let pair = [panel, panel + half];
            // SAFETY: the tiles are configured; `Job` and `Bf16Rows` have steps of whole tiles.
            unsafe { pair_of_panels(job, x, pair, tiles.clone(), sums.as_mut_ptr().cast()) };
        }
        if panels.len() % 2 == 1 {
            let last = panels.end - 1;
            // SAFETY: as above.
            unsafe { pair_of_panels(job, x, [last; 2], tiles, sums.as_mut_ptr().cast()) };
        }
    }
}

/// Two panels times tiles of tokens. `sums` has room for each of `tiles`.
unsafe fn pair_of_panels(
    job: &Job,
    x: &Bf16Rows,
    pair: [usize; 2],
    tiles: Range<usize>,
    sums: *mut [Sums; 2],
) {
    let steps = job.x.cols.div_ceil(STEP);
    let panels = pair.map(|panel| job.panel(panel).as_ptr());
    // With all tiles in registers there is no reason to stop on the way.
    let chunk_steps = if tiles.len() <= 2 { steps } else { CHUNK_STEPS };
    for first in (0..steps).step_by(chunk_steps) {
        let chunk = first..(first + chunk_steps).min(steps);
        for tile in tiles.clone().step_by(2) {
            let sums = sums.add(tile - tiles.start).cast::<Sums>();
            if tile + 1 < tiles.end {
                let x = [x.tile(tile), x.tile(tile + 1)];
                two_tiles(x, panels, chunk.clone(), sums);
            } else {
                one_tile(x.tile(tile), panels, chunk.clone(), sums);
            }
        }
    }
    for tile in tiles.clone() {
        for (panel, Sums(sums)) in pair.into_iter().zip(&*sums.add(tile - tiles.start)) {
            let (high, low) = sums.split_at(TOKENS);
            let tokens = tile * TOKENS..((tile + 1) * TOKENS).min(job.x.tokens);
            for (t, (high, low)) in tokens.zip(high.iter().zip(low)) {
                let total = std::array::from_fn(|r| high[r] + low[r]);
                job.store_panel(t, panel, &total);
            }
        }
    }
}

/// Tile `C` starts with the sums so far, or with zeros.
unsafe fn resume<const C: usize>(chunk: &Range<usize>, sums: *const Sums) {
    if chunk.start == 0 {
        amx::zero::<C>();
    } else {
        amx::load::<C>(sums.cast(), 64);
    }
}

/// Steps `chunk` of two tiles of tokens (sums 0 and 1, 2 and 3) and two panels.
unsafe fn two_tiles(x: [&[bf16]; 2], panels: [*const u8; 2], chunk: Range<usize>, sums: *mut Sums) {
    resume::<0>(&chunk, sums);
    resume::<1>(&chunk, sums.add(1));
    resume::<2>(&chunk, sums.add(2));
    resume::<3>(&chunk, sums.add(3));
    for step in chunk {
        amx::load::<4>(x[0].as_ptr().add(step * STEP_LEN).cast(), 64);
        weights::<6>(panels[0], step);
        amx::dot_bf16::<0, 4, 6>();
        weights::<7>(panels[1], step);
        amx::dot_bf16::<1, 4, 7>();
        amx::load::<5>(x[1].as_ptr().add(step * STEP_LEN).cast(), 64);
        amx::dot_bf16::<2, 5, 6>();
        amx::dot_bf16::<3, 5, 7>();
    }
    amx::store::<0>(sums.cast(), 64);
    amx::store::<1>(sums.add(1).cast(), 64);
    amx::store::<2>(sums.add(2).cast(), 64);
    amx::store::<3>(sums.add(3).cast(), 64);
}

/// Steps `chunk` of a tile of tokens (sums 0 and 1) and two panels.
unsafe fn one_tile(x: &[bf16], panels: [*const u8; 2], chunk: Range<usize>, sums: *mut Sums) {
    resume::<0>(&chunk, sums);
    resume::<1>(&chunk, sums.add(1));
    for step in chunk {
        amx::load::<4>(x.as_ptr().add(step * STEP_LEN).cast(), 64);
        weights::<6>(panels[0], step);
        amx::dot_bf16::<0, 4, 6>();
        weights::<7>(panels[1], step);
        amx::dot_bf16::<1, 4, 7>();
    }
    amx::store::<0>(sums.cast(), 64);
    amx::store::<1>(sums.add(1).cast(), 64);
}

/// Loads step `step` of a panel, and asks for one further on.
#[inline(always)]
unsafe fn weights<const B: usize>(panel: *const u8, step: usize) {
    let at = panel.add(step * TILE_BYTES);
    for line in (0..TILE_BYTES).step_by(64) {
        _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(PREFETCH_BYTES + line).cast());
    }
    amx::load::<B>(at, 64);
}
