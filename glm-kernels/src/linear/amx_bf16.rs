//! bf16 weights on the matrix unit, with activations split into two bf16 each (see [`super::bf16_rows`]).
//!
//! A sum takes the products of a step's high parts, then those of its low parts, step by step, whatever the other tokens: one kernel serves any number
//! of them.
//!
//! # Cost
//! Two products of tiles, 32 cycles, per 8192 multiply-adds, if operands come in time. A core meets a chunk of 256 columns of a group of panels (128
//! KiB of weights, which the second level cache holds) with all tokens of a run before it takes the next: so weights come from memory once per run,
//! and activations once per group.
//!
//! # Safety
//! As in [`super::direct`].

#![allow(unsafe_op_in_unsafe_fn)] // nearly every line is a tile operation under the one contract above

use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
use std::ops::Range;

use half::bf16;

use super::bf16_rows::{Bf16Rows, CHUNK_STEPS, STEP, STEP_LEN, TOKENS};
use super::job::Job;
use super::layout::PANEL_ROWS;
use crate::Amx;
use crate::amx::{self, TILE_ROWS, TileShapes, Tiles};

/// Bytes of a tile, of activations, weights or sums.
const TILE_BYTES: usize = 1024;

/// Panels of a group.
const GROUP: usize = 16;

/// Tiles of a run.
const RUN: usize = 16;

/// How far ahead of its use a weight is fetched; see [`super::direct`].
const PREFETCH_BYTES: usize = 1024;

/// Sums 0 to 3 (tiles of tokens times panels), tokens 4 and 5, weights 6 and 7: all of one shape.
const SHAPES: TileShapes = TileShapes::new([[TILE_ROWS, 64]; 8]);

/// The sums of a tile of tokens and a panel: `[token, row]`.
type Sums = [[f32; PANEL_ROWS]; TOKENS];

/// Computes `panels` for all tokens.
pub(super) fn run(cpu: Amx, job: &Job, panels: Range<usize>) {
    let Some(x) = &job.x.bf16 else { return };
    let _tiles = Tiles::configure(cpu, &SHAPES);
    let tiles = job.x.tokens.div_ceil(TOKENS);
    if tiles == 1 {
        // SAFETY: the tiles are configured; panels and `Bf16Rows` have steps of whole tiles.
        unsafe { one_tile(job, x, panels) };
        return;
    }
    let mut sums = vec![[[[0.0; PANEL_ROWS]; TOKENS]; GROUP]; RUN.min(tiles + tiles % 2)];
    for first in (0..tiles).step_by(RUN) {
        let tiles = first..(first + RUN).min(tiles);
        for panel in panels.clone().step_by(GROUP) {
            let group = panel..(panel + GROUP).min(panels.end);
            // SAFETY: as above; there are sums for an even number of tiles.
            unsafe { many_tiles(job, x, tiles.clone(), group, &mut sums) };
        }
    }
}

/// Up to sixteen tokens: sums stay in tiles while the weights stream by, two panels at a time, far apart in memory.
unsafe fn one_tile(job: &Job, x: &Bf16Rows, panels: Range<usize>) {
    let half = panels.len().div_ceil(2);
    for panel in panels.start..panels.start + half {
        // The last panel is taken twice if there is no other.
        let pair = [panel, (panel + half).min(panels.end - 1)];
        let weights = pair.map(|panel| job.panel(panel).as_ptr());
        amx::zero::<0>();
        amx::zero::<1>();
        for step in 0..job.x.cols.div_ceil(STEP) {
            let x = x.step(0, step);
            stream::<6>(weights[0], step);
            stream::<7>(weights[1], step);
            amx::load::<4>(x.cast(), 64);
            amx::dot_bf16::<0, 4, 6>();
            amx::dot_bf16::<1, 4, 7>();
            amx::load::<5>(x.add(STEP_LEN / 2).cast(), 64);
            amx::dot_bf16::<0, 5, 6>();
            amx::dot_bf16::<1, 5, 7>();
        }
        let mut sums = [[[0.0; PANEL_ROWS]; TOKENS]; 2];
        amx::store::<0>(sums[0].as_mut_ptr().cast(), 64);
        amx::store::<1>(sums[1].as_mut_ptr().cast(), 64);
        for (panel, sums) in pair.into_iter().zip(&sums) {
            for (t, sums) in (0..job.x.tokens).zip(sums) {
                job.store_panel(t, panel, sums);
            }
        }
    }
}

/// Loads step `step` of a panel, and asks for one further on.
#[inline(always)]
unsafe fn stream<const B: usize>(panel: *const u8, step: usize) {
    let at = panel.add(step * TILE_BYTES);
    for line in (0..TILE_BYTES).step_by(64) {
        _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(PREFETCH_BYTES + line).cast());
    }
    amx::load::<B>(at, 64);
}

/// A run of tiles times a group of panels; `sums` has room for an even number of tiles.
unsafe fn many_tiles(
    job: &Job,
    x: &Bf16Rows,
    tiles: Range<usize>,
    group: Range<usize>,
    sums: &mut [[Sums; GROUP]],
) {
    let steps = job.x.cols.div_ceil(STEP);
    for first in (0..steps).step_by(CHUNK_STEPS) {
        let chunk = first..(first + CHUNK_STEPS).min(steps);
        for tile in (0..tiles.len()).step_by(2) {
            let (sums, next) = sums[tile..].split_at_mut(1);
            // Where there is no second tile or panel, the first is taken again, for sums that nobody reads.
            let other = (tile + 1).min(tiles.len() - 1);
            let x = [tile, other].map(|tile| x.step(tiles.start + tile, first));
            for panel in (0..group.len()).step_by(2) {
                let other = (panel + 1).min(group.len() - 1);
                let weights = [panel, other].map(|panel| {
                    let panel = job.panel(group.start + panel);
                    panel[first * TILE_BYTES..].as_ptr()
                });
                let (first_sums, next_sums) = (&mut sums[0][panel..], &mut next[0][panel..]);
                let sums = [first_sums.as_mut_ptr(), next_sums.as_mut_ptr()];
                if tile == 0 {
                    two_by_two::<true>(x, weights, chunk.clone(), sums);
                } else {
                    two_by_two::<false>(x, weights, chunk.clone(), sums);
                }
            }
        }
    }
    for (tile, sums) in tiles.zip(sums) {
        let first = tile * TOKENS;
        for t in first..(first + TOKENS).min(job.x.tokens) {
            for (panel, sums) in group.clone().zip(&*sums) {
                job.store_panel(t, panel, &sums[t - first]);
            }
        }
    }
}

/// Two tiles of tokens times two panels, over the steps of `chunk`, where `x` and `weights` are; `sums` are those of two panels for each tile.
/// `FETCH`: also asks for the next chunk of the weights.
#[inline(always)]
unsafe fn two_by_two<const FETCH: bool>(
    x: [*const bf16; 2],
    weights: [*const u8; 2],
    chunk: Range<usize>,
    sums: [*mut Sums; 2],
) {
    if chunk.start == 0 {
        amx::zero::<0>();
        amx::zero::<1>();
        amx::zero::<2>();
        amx::zero::<3>();
    } else {
        amx::load::<0>(sums[0].cast(), 64);
        amx::load::<1>(sums[0].add(1).cast(), 64);
        amx::load::<2>(sums[1].cast(), 64);
        amx::load::<3>(sums[1].add(1).cast(), 64);
    }
    for step in 0..chunk.len() {
        let weights = weights.map(|panel| panel.add(step * TILE_BYTES));
        let x = x.map(|x| x.add(step * STEP_LEN));
        if FETCH {
            for line in (0..TILE_BYTES).step_by(64) {
                for panel in weights {
                    let next = panel.wrapping_add(CHUNK_STEPS * TILE_BYTES + line);
                    _mm_prefetch::<_MM_HINT_T1>(next.cast());
                }
            }
        }
        amx::load::<6>(weights[0], 64);
        amx::load::<7>(weights[1], 64);
        amx::load::<4>(x[0].cast(), 64);
        amx::dot_bf16::<0, 4, 6>();
        amx::dot_bf16::<1, 4, 7>();
        amx::load::<5>(x[1].cast(), 64);
        amx::dot_bf16::<2, 5, 6>();
        amx::dot_bf16::<3, 5, 7>();
        amx::load::<4>(x[0].add(STEP_LEN / 2).cast(), 64);
        amx::dot_bf16::<0, 4, 6>();
        amx::dot_bf16::<1, 4, 7>();
        amx::load::<5>(x[1].add(STEP_LEN / 2).cast(), 64);
        amx::dot_bf16::<2, 5, 6>();
        amx::dot_bf16::<3, 5, 7>();
    }
    amx::store::<0>(sums[0].cast(), 64);
    amx::store::<1>(sums[0].add(1).cast(), 64);
    amx::store::<2>(sums[1].cast(), 64);
    amx::store::<3>(sums[1].add(1).cast(), 64);
}
