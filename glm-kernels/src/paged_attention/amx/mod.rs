//! The form for the matrix unit, which multiplies bf16 and sums in f32.
//!
//! # Accuracy
//! A bf16 holds 8 bits of a number, so every f32 becomes two: `x = hi + lo`, the upper bits and the rest, 16 bits together (an f16 is exactly
//! that sum; a bf16 and the code of a byte need no `lo`). Of the four products `hi·hi + hi·lo + lo·hi + lo·lo` the last is below the error of the
//! others and left out. What comes out is within about 2^-16 of the f32 result, at 1/3 of the unit's speed, which is five times that of f32 vectors.
//!
//! # Layout
//! An operand of the unit is a tile of 16 rows of 16 pairs (`tiles`); a pair holds elements `n` and `n + 16` of a step of 32. Queries are packed
//! once (`pack`), keys and values when the first rows need them: for a single unit of rows right before the product, so that they stay in the
//! first-level cache; for a larger tile the whole chunk, in the second-level cache. Weights are packed in place of their scores (`softmax`).

mod pack;
mod softmax;
mod tiles;

use std::ops::Range;

use half::{bf16, f16};

use super::chunk::{Chunk, Form, Output, PADDING, Partial, Queries, UNIT};
use super::plan::CHUNK;
use crate::amx::{TILE_ROWS, Tiles};
use crate::kv_layer::E4m3;
use crate::{Amx, KvDType};
use pack::{Packed, Stored};
use tiles::{COLUMNS, Left, PANEL, PANEL_LEN, STEP};

/// Attention with the matrix unit.
pub(super) struct Matrix {
    pub cpu: Amx,
}

/// From the scores of a row to those of the next: 64 bytes more than a chunk, so that sixteen rows do not fall into the same sets of the cache.
const SCORES_STRIDE: usize = CHUNK + COLUMNS;

impl Form for Matrix {
    const MAX_ROWS: usize = 512;

    fn workspace(&self, rows: usize, head_dim: usize) -> usize {
        Layout::new(rows, head_dim).len()
    }

    fn load_queries(&self, queries: &Queries<'_>, workspace: &mut [f32]) {
        let layout = Layout::new(queries.rows, queries.head_dim);
        // SAFETY: an `Amx` exists only where AVX-512 was detected.
        unsafe { pack::queries(queries, layout.split(workspace).q) };
    }

    fn attend(&self, chunk: &Chunk<'_>, workspace: &mut [f32], output: Output<'_>) {
        let room = Layout::new(chunk.rows, chunk.kv.head_dim()).split(workspace);
        // SAFETY: an `Amx` exists only where AVX-512 and the matrix unit were detected.
        unsafe {
            match chunk.kv.dtype() {
                KvDType::F32 => attend::<f32>(self.cpu, chunk, room, output),
                KvDType::F16 => attend::<f16>(self.cpu, chunk, room, output),
                KvDType::BF16 => attend::<bf16>(self.cpu, chunk, room, output),
                KvDType::Q8_0 => attend::<i8>(self.cpu, chunk, room, output),
                KvDType::Fp8 => attend::<E4m3>(self.cpu, chunk, room, output),
            }
        }
    }
}

/// Lengths of what a tile works on, in values of four bytes.
#[derive(Clone, Copy)]
struct Layout {
    rows: usize,
    padded_dim: usize,
}

/// What a tile works on; pairs of bf16 lie where f32s would.
struct Room<'a> {
    /// `[units, D / STEP, 2, UNIT, COLUMNS]`: pairs of queries, `hi` and `lo`.
    q: &'a mut [f32],
    /// `[CHUNK / PANEL, D / STEP, PANEL_LEN]`.
    keys: &'a mut [f32],
    /// `[D / PANEL, CHUNK / STEP, PANEL_LEN]`.
    values: &'a mut [f32],
    /// `[2, UNIT, SCORES_STRIDE]`: of two units, in turn.
    scores: &'a mut [f32],
    /// `[CHUNK]`.
    key_scales: &'a mut [f32],
    /// `[CHUNK]`.
    value_scales: &'a mut [f32],
}

impl Layout {
    fn new(rows: usize, head_dim: usize) -> Self {
        Self {
            rows,
            padded_dim: head_dim.next_multiple_of(PADDING),
        }
    }

    /// Of a unit's queries.
    fn unit_len(&self) -> usize {
        self.padded_dim / STEP * 2 * UNIT * COLUMNS
    }

    fn lens(&self) -> [usize; 6] {
        [
            self.rows.div_ceil(UNIT) * self.unit_len(),
            CHUNK / PANEL * (self.padded_dim / STEP) * PANEL_LEN,
            self.padded_dim.div_ceil(PANEL) * (CHUNK / STEP) * PANEL_LEN,
            2 * UNIT * SCORES_STRIDE,
            CHUNK,
            CHUNK,
        ]
    }

    fn len(&self) -> usize {
        self.lens().iter().sum()
    }

    fn split(self, mut workspace: &mut [f32]) -> Room<'_> {
        let [q, keys, values, scores, key_scales, value_scales] = self.lens().map(|len| {
            workspace
                .split_off_mut(..len)
                .expect("as long as announced")
        });
        Room {
            q,
            keys,
            values,
            scores,
            key_scales,
            value_scales,
        }
    }
}

/// Attention of all units of a tile to a chunk. While the matrix unit scores the keys for one unit of rows, the vector units turn the scores of
/// the unit before into weights.
///
/// # Safety
/// `T` is the type that is stored.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn attend<T: Stored>(cpu: Amx, chunk: &Chunk<'_>, room: Room<'_>, mut output: Output<'_>) {
    if T::SCALED {
        let (kv, head) = (chunk.kv, chunk.kv_head);
        gather(chunk, room.key_scales, |block| kv.key_scales(block, head));
        gather(chunk, room.value_scales, |block| {
            kv.value_scales(block, head)
        });
    }
    let scales = T::SCALED.then_some((&*room.key_scales, &*room.value_scales));
    let keep = chunk.rows > TILE_ROWS;
    let mut work = Work::<T> {
        chunk,
        q: room.q,
        keys: Packed::new(chunk, room.keys, keep),
        values: Packed::new(chunk, room.values, keep),
        padded_dim: chunk.kv.head_dim().next_multiple_of(PADDING),
    };
    let (mut scores, mut next_scores) = room.scores.split_at_mut(UNIT * SCORES_STRIDE);
    let mut units = chunk.units().peekable();
    let mut tiles = Shaped::new(cpu, UNIT.min(chunk.rows));
    // SAFETY: the tiles are shaped for the rows of the unit before each product.
    unsafe {
        if let Some(first) = units.peek() {
            work.score(first, scores, |_| ());
        }
        while let Some(unit) = units.next() {
            let columns = chunk.visible(unit.end - 1).next_multiple_of(STEP);
            let mut partial = output.unit(unit.clone());
            let mut weigh = |rows: Range<usize>| {
                for row in rows {
                    let scores = &mut scores[row * SCORES_STRIDE..][..columns];
                    let visible = chunk.visible(unit.start + row);
                    (partial.max[row], partial.sum[row]) = softmax::weigh(scores, visible, scales);
                }
            };
            let mut weighed = 0;
            if let Some(next) = units.peek() {
                tiles.reshape(next.len());
                work.score(next, next_scores, |part| {
                    let end = part.of(unit.len());
                    weigh(weighed..end);
                    weighed = end;
                });
            }
            weigh(weighed..unit.len());
            tiles.reshape(unit.len());
            work.accumulate(unit.len(), columns, scores, &mut partial);
            output.end_unit(cpu.avx512(), unit);
            std::mem::swap(&mut scores, &mut next_scores);
        }
    }
}

/// Gathers the scales of a chunk's positions from those of its blocks: `[CHUNK]`, zeros after the last key.
fn gather<'a>(chunk: &Chunk<'_>, to: &mut [f32], of_block: impl Fn(usize) -> &'a [f32]) {
    let block_size = chunk.kv.block_size();
    to.fill(0.0);
    for (position, to) in chunk.keys.clone().zip(to) {
        let block = chunk.block_table[position / block_size] as usize;
        *to = of_block(block)[position % block_size];
    }
}

/// The matrix unit, its tiles shaped for some rows.
struct Shaped {
    tiles: Tiles,
    rows: usize,
}

impl Shaped {
    fn new(cpu: Amx, rows: usize) -> Self {
        Self {
            tiles: Tiles::configure(cpu, &tiles::shapes(rows)),
            rows,
        }
    }

    fn reshape(&mut self, rows: usize) {
        if rows != self.rows {
            self.tiles.reconfigure(&tiles::shapes(rows));
            self.rows = rows;
        }
    }
}

/// How much of something is done: `done` steps of `all`.
#[derive(Clone, Copy)]
struct Part {
    done: usize,
    all: usize,
}

impl Part {
    /// As much of `whole`.
    fn of(self, whole: usize) -> usize {
        whole * self.done / self.all
    }
}

/// A chunk at work.
struct Work<'a, T> {
    chunk: &'a Chunk<'a>,
    q: &'a [f32],
    keys: Packed<'a, T>,
    values: Packed<'a, T>,
    padded_dim: usize,
}

impl<T: Stored> Work<'_, T> {
    /// `scores = q · keys` for the keys that any row of `unit` sees; calls `meanwhile` whenever the matrix unit has got new work.
    ///
    /// # Safety
    /// The tiles are shaped for the unit.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    #[inline]
    unsafe fn score(
        &mut self,
        unit: &Range<usize>,
        scores: &mut [f32],
        mut meanwhile: impl FnMut(Part),
    ) {
        let steps = self.padded_dim / STEP;
        let columns = self.chunk.visible(unit.end - 1).next_multiple_of(STEP);
        let unit_len = steps * 2 * UNIT * COLUMNS;
        let left = Left {
            base: self.q[unit.start / UNIT * unit_len..][..unit_len]
                .as_ptr()
                .cast(),
            step: 2 * UNIT * COLUMNS,
            part: UNIT * COLUMNS,
            row: COLUMNS,
        };
        let mut done = 0;
        let all = columns.div_ceil(PANEL) * steps;
        for panel in 0..columns.div_ceil(PANEL) {
            let fresh = self.keys.is_fresh(panel);
            let tiles = PANEL.min(columns - panel * PANEL) / COLUMNS;
            let right = |step: usize, first_pass: bool| {
                done += usize::from(first_pass);
                meanwhile(Part { done, all });
                // SAFETY: the panel and the step are among those of a chunk.
                unsafe { self.keys.keys(panel, step, fresh && first_pass) }
            };
            // SAFETY: the panel's scores lie within `scores`, which has rows for a unit and columns for a chunk.
            unsafe {
                let to = scores.as_mut_ptr().add(panel * PANEL);
                tiles::multiply::<T>(unit.len(), tiles, steps, left, right, to, SCORES_STRIDE);
            }
            self.keys.set_ready(panel + 1);
        }
    }

    /// `acc = weights · values` for `rows` rows of weights and the first `columns` values.
    ///
    /// # Safety
    /// The tiles are shaped for so many rows.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    #[inline]
    unsafe fn accumulate(
        &mut self,
        rows: usize,
        columns: usize,
        weights: &[f32],
        partial: &mut Partial<'_>,
    ) {
        let left = Left {
            base: weights.as_ptr().cast(),
            step: STEP,
            part: COLUMNS,
            row: SCORES_STRIDE,
        };
        let steps = columns / STEP;
        for panel in 0..self.padded_dim.div_ceil(PANEL) {
            let tiles = PANEL.min(self.padded_dim - panel * PANEL) / COLUMNS;
            let right = |step: usize, first_pass: bool| {
                let fresh = first_pass && self.values.is_fresh(step);
                // SAFETY: the panel and the step are among those of a chunk.
                unsafe { self.values.values(panel, step, fresh) }
            };
            // SAFETY: a row of `partial` has `padded_dim` columns, and there are `rows` of them.
            unsafe {
                let to = partial.acc.as_mut_ptr().add(panel * PANEL);
                tiles::multiply::<T>(rows, tiles, steps, left, right, to, self.padded_dim);
            }
        }
        self.values.set_ready(steps);
    }
}
