//! The vector form: one chunk of keys and values against all rows of a tile.
//!
//! Keys and values are widened to f32 once per tile, into panels of [`PANEL`] columns that the
//! inner loops walk from end to end. Both products are then the same loop: four rows times two
//! vectors of accumulators, one broadcast multiply-add per row, vector and step.

use std::ops::Range;

use half::{bf16, f16};

use super::plan::CHUNK;
use crate::memory::Element;
use crate::simd::{Kernel, Simd, exp};
use crate::{KvDType, KvLayer};

/// Columns of a panel: two vectors of the widest instruction set. A panel of `D` = 128 rows is 16
/// KiB, so it stays in the first-level cache while all rows of the tile pass over it.
pub(super) const PANEL: usize = 32;

/// Rows that share what is loaded from a panel. With two vectors each, their eight accumulators
/// cover the latency of the multiply-add.
pub(super) const ROWS: usize = 4;

/// What a tile knows of some keys, before division by the sum: `acc = Σ e^(score - max) · v`, `sum
/// = Σ e^(score - max)`.
pub(super) struct Partial<'a> {
    /// `[rows]`; -∞ where a row sees none of the keys.
    pub max: &'a mut [f32],
    /// `[rows]`.
    pub sum: &'a mut [f32],
    /// `[rows, padded D]`.
    pub acc: &'a mut [f32],
}

/// Room for a chunk at work.
pub(super) struct Scratch<'a> {
    /// `[CHUNK / PANEL, D, PANEL]`: a panel is some keys, transposed.
    pub keys: &'a mut [f32],
    /// `[padded D / PANEL, CHUNK, PANEL]`: a panel is some elements of all values.
    pub values: &'a mut [f32],
    /// `[rows, CHUNK]`.
    pub scores: &'a mut [f32],
}

/// Attention of a tile to the positions `keys`, which lie within one chunk; writes all of `out`.
pub(super) struct AttendChunk<'a> {
    pub kv: &'a KvLayer,
    pub block_table: &'a [u32],
    pub kv_head: usize,
    pub keys: Range<usize>,
    /// `[rows, D]`, scaled; rows are padded to a multiple of [`ROWS`].
    pub q: &'a [f32],
    /// Rows of one query, one after another.
    pub group: usize,
    /// How many positions the first query sees; each later one sees one more.
    pub first_visible: usize,
    pub scratch: Scratch<'a>,
    pub out: Partial<'a>,
}

impl Kernel for AttendChunk<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        match self.kv.dtype() {
            KvDType::F32 => self.widen::<S, f32>(simd),
            KvDType::F16 => self.widen::<S, f16>(simd),
            KvDType::BF16 => self.widen::<S, bf16>(simd),
            KvDType::Q8_0 => self.widen::<S, i8>(simd),
        }
        self.score(simd);
        self.weigh(simd);
        self.accumulate(simd);
    }
}

impl AttendChunk<'_> {
    /// Fills the panels of keys and values from the blocks that hold the chunk.
    #[inline(always)]
    fn widen<S: Simd, T: Widen>(&mut self, simd: S) {
        let block_size = self.kv.block_size();
        let chunk_start = self.keys.start / CHUNK * CHUNK;
        let mut position = self.keys.start;
        while position < self.keys.end {
            let (index, offset) = (position / block_size, position % block_size);
            let block = self.block_table[index] as usize;
            // Keys up to the end of the block rather than of the context: whole vectors, and what
            // is too much is masked with the scores.
            let end = (position - offset + block_size).min(chunk_start + CHUNK);
            self.widen_keys::<S, T>(
                simd,
                block,
                offset,
                position - chunk_start..end - chunk_start,
            );
            self.widen_values::<S, T>(
                simd,
                block,
                offset,
                position - chunk_start..end.min(self.keys.end) - chunk_start,
            );
            position = end;
        }
    }

    /// Keys of a block from `offset` on, to columns `columns` of the chunk.
    #[inline(always)]
    fn widen_keys<S: Simd, T: Widen>(
        &mut self,
        simd: S,
        block: usize,
        offset: usize,
        columns: Range<usize>,
    ) {
        let (block_size, head_dim) = (self.kv.block_size(), self.kv.head_dim());
        let stored = self.kv.keys::<T>(block, self.kv_head);
        let mut column = columns.start;
        while column < columns.end {
            // Up to the end of the panel.
            let count = (PANEL - column % PANEL).min(columns.end - column);
            let from = offset + column - columns.start;
            let scales = if T::SCALED {
                &self.kv.key_scales(block, self.kv_head)[from..from + count]
            } else {
                &[]
            };
            let panel =
                &mut self.scratch.keys[column / PANEL * PANEL * head_dim..][..PANEL * head_dim];
            for (row, stored) in panel
                .chunks_exact_mut(PANEL)
                .zip(stored.chunks_exact(block_size))
            {
                widen_scaled(
                    simd,
                    &stored[from..from + count],
                    scales,
                    &mut row[column % PANEL..][..count],
                );
            }
            column += count;
        }
    }

    /// Values of a block from `offset` on, to rows `rows` of the chunk.
    #[inline(always)]
    fn widen_values<S: Simd, T: Widen>(
        &mut self,
        simd: S,
        block: usize,
        offset: usize,
        rows: Range<usize>,
    ) {
        let head_dim = self.kv.head_dim();
        let stored = &self.kv.values::<T>(block, self.kv_head)[offset * head_dim..];
        for (i, (row, stored)) in rows.zip(stored.chunks_exact(head_dim)).enumerate() {
            let scale = if T::SCALED {
                [self.kv.value_scales(block, self.kv_head)[offset + i]; PANEL]
            } else {
                [1.0; PANEL]
            };
            for (panel, stored) in stored.chunks(PANEL).enumerate() {
                let to = &mut self.scratch.values[(panel * CHUNK + row) * PANEL..][..stored.len()];
                widen_scaled(
                    simd,
                    stored,
                    if T::SCALED {
                        &scale[..stored.len()]
                    } else {
                        &[]
                    },
                    to,
                );
            }
        }
    }

    /// Columns of the chunk in use.
    #[inline(always)]
    fn len(&self) -> usize {
        self.keys.len()
    }

    /// `scores = q · keys`, whole panels.
    #[inline(always)]
    fn score<S: Simd>(&mut self, simd: S) {
        let head_dim = self.kv.head_dim();
        let panels = self
            .scratch
            .keys
            .chunks_exact(PANEL * head_dim)
            .take(self.len().div_ceil(PANEL));
        for (panel, keys) in panels.enumerate() {
            let scores = self.scratch.scores.chunks_exact_mut(ROWS * CHUNK);
            for (q, scores) in self.q.chunks_exact(ROWS * head_dim).zip(scores) {
                for half in (0..PANEL).step_by(2 * S::LANES) {
                    let tile = multiply::<S>(simd, q, head_dim, head_dim, keys, half);
                    for (row, scores) in tile.into_iter().zip(scores.chunks_exact_mut(CHUNK)) {
                        let scores = &mut scores[panel * PANEL + half..];
                        simd.store(row[0], scores);
                        simd.store(row[1], &mut scores[S::LANES..]);
                    }
                }
            }
        }
    }

    /// Turns scores into weights: `e^(score - max)` where visible, else exactly 0; keeps maximum
    /// and sum.
    #[inline(always)]
    fn weigh<S: Simd>(&mut self, simd: S) {
        let columns = self.len().next_multiple_of(PANEL);
        for (row, scores) in self
            .scratch
            .scores
            .chunks_exact_mut(CHUNK)
            .take(self.q.len() / self.kv.head_dim())
            .enumerate()
        {
            let scores = &mut scores[..columns];
            let visible = (self.first_visible + row / self.group)
                .saturating_sub(self.keys.start)
                .min(self.keys.len());
            scores[visible..].fill(f32::NEG_INFINITY);
            if visible == 0 {
                scores.fill(0.0);
                (self.out.max[row], self.out.sum[row]) = (f32::NEG_INFINITY, 0.0);
                continue;
            }
            let mut max = simd.load(scores);
            for scores in scores.chunks_exact(S::LANES) {
                max = simd.max(simd.load(scores), max);
            }
            let max = simd.reduce_max(max);
            let mut sum = simd.splat(0.0);
            for scores in scores.chunks_exact_mut(S::LANES) {
                let weight = exp(simd, simd.sub(simd.load(scores), simd.splat(max)));
                simd.store(weight, scores);
                sum = simd.add(sum, weight);
            }
            (self.out.max[row], self.out.sum[row]) = (max, simd.reduce_add(sum));
        }
    }

    /// `acc = weights · values`.
    #[inline(always)]
    fn accumulate<S: Simd>(&mut self, simd: S) {
        let padded_dim = self.kv.head_dim().next_multiple_of(PANEL);
        let len = self.len();
        for (panel, values) in self.scratch.values.chunks_exact(CHUNK * PANEL).enumerate() {
            let weights = self.scratch.scores.chunks_exact(ROWS * CHUNK);
            for (weights, acc) in weights.zip(self.out.acc.chunks_exact_mut(ROWS * padded_dim)) {
                for half in (0..PANEL).step_by(2 * S::LANES) {
                    let tile = multiply::<S>(simd, weights, CHUNK, len, values, half);
                    for (row, acc) in tile.into_iter().zip(acc.chunks_exact_mut(padded_dim)) {
                        let acc = &mut acc[panel * PANEL + half..];
                        simd.store(row[0], acc);
                        simd.store(row[1], &mut acc[S::LANES..]);
                    }
                }
            }
        }
    }
}

/// Four rows of `a` (`len` values each, `stride` apart) times two vectors of columns, from `column`
/// on, of `panel` (`[len or more, PANEL]`).
#[inline(always)]
fn multiply<S: Simd>(
    simd: S,
    a: &[f32],
    stride: usize,
    len: usize,
    panel: &[f32],
    column: usize,
) -> [[S::F32; 2]; ROWS] {
    let mut acc = [[simd.splat(0.0); 2]; ROWS];
    let (a0, a) = (&a[..len], &a[stride..]);
    let (a1, a) = (&a[..len], &a[stride..]);
    let (a2, a) = (&a[..len], &a[stride..]);
    let a3 = &a[..len];
    for ((((b, a0), a1), a2), a3) in panel.chunks_exact(PANEL).zip(a0).zip(a1).zip(a2).zip(a3) {
        let b = [simd.load(&b[column..]), simd.load(&b[column + S::LANES..])];
        for (acc, a) in acc.iter_mut().zip([a0, a1, a2, a3]) {
            let a = simd.splat(*a);
            acc[0] = simd.mul_add(a, b[0], acc[0]);
            acc[1] = simd.mul_add(a, b[1], acc[1]);
        }
    }
    acc
}

/// Adds what a tile knows of further keys to what it knows of those before (arXiv:1805.02867,
/// section 3.1).
pub(super) struct Fold<'a> {
    pub total: Partial<'a>,
    pub next: &'a Partial<'a>,
    pub rows: usize,
}

impl Kernel for Fold<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let width = self.next.acc.len() / self.next.max.len();
        let rows = self
            .total
            .acc
            .chunks_exact_mut(width)
            .zip(self.next.acc.chunks_exact(width))
            .take(self.rows);
        for (row, (total, next)) in rows.enumerate() {
            let (max, next_max) = (self.total.max[row], self.next.max[row]);
            if next_max == f32::NEG_INFINITY {
                continue; // sees none of the keys: as if they had not been there
            }
            let new_max = max.max(next_max);
            let (keep, take) = ((max - new_max).exp(), (next_max - new_max).exp());
            self.total.max[row] = new_max;
            self.total.sum[row] = self.total.sum[row] * keep + self.next.sum[row] * take;
            let (keep, take) = (simd.splat(keep), simd.splat(take));
            for (total, next) in total
                .chunks_exact_mut(S::LANES)
                .zip(next.chunks_exact(S::LANES))
            {
                let kept = simd.mul(simd.load(total), keep);
                simd.store(simd.mul_add(simd.load(next), take, kept), total);
            }
        }
    }
}

/// A stored type of keys and values.
trait Widen: Element {
    /// Whether a value is to be multiplied by a scale.
    const SCALED: bool;
    fn load<S: Simd>(simd: S, from: &[Self]) -> S::F32;
    fn widen(self) -> f32;
}

macro_rules! widen {
    ($($ty:ty, scaled: $scaled:expr, $load:ident, $widen:expr;)*) => {$(
        impl Widen for $ty {
            const SCALED: bool = $scaled;

            #[inline(always)]
            fn load<S: Simd>(simd: S, from: &[Self]) -> S::F32 {
                simd.$load(from)
            }

            #[inline(always)]
            fn widen(self) -> f32 {
                $widen(self)
            }
        }
    )*};
}
widen! {
    f32, scaled: false, load, f32::from;
    f16, scaled: false, load_f16, f32::from;
    bf16, scaled: false, load_bf16, f32::from;
    i8, scaled: true, load_i8, f32::from;
}

/// `to = from · scales` (or `from` alone if the type has no scale); the slices are of one length.
#[inline(always)]
fn widen_scaled<S: Simd, T: Widen>(simd: S, from: &[T], scales: &[f32], to: &mut [f32]) {
    let whole = from.len() / S::LANES * S::LANES;
    for i in (0..whole).step_by(S::LANES) {
        let value = T::load(simd, &from[i..]);
        let value = if T::SCALED {
            simd.mul(value, simd.load(&scales[i..]))
        } else {
            value
        };
        simd.store(value, &mut to[i..]);
    }
    for i in whole..from.len() {
        let value = from[i].widen();
        to[i] = if T::SCALED { value * scales[i] } else { value };
    }
}
