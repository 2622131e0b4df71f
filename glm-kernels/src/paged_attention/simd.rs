//! The vector form, in f32.
//!
//! Keys and values are widened to f32 once per tile, into panels of [`PANEL`] columns that the inner loops walk from end to end. Both
//! products are then the same loop: some rows times two vectors of accumulators, one broadcast multiply-add per row, vector and step.

use std::ops::Range;

use half::{bf16, f16};

use super::chunk::{Chunk, Form, Output, PADDING, Queries, UNIT};
use super::plan::CHUNK;
use crate::kv_layer::E4m3;
use crate::memory::Element;
use crate::simd::{Kernel, Simd, exp2, run};
use crate::{Isa, KvDType};

/// Columns of a panel: two vectors of the widest instruction set. A panel of `D` = 128 rows is 16
/// KiB, so it stays in the first-level cache while the rows of a unit pass over it.
const PANEL: usize = PADDING;

/// Rows that share what is loaded from a panel, if the registers hold their accumulators. Eight rows of two vectors take 16 of 32 registers and
/// ten loads for sixteen multiply-adds; four take 8 of 16, just enough to cover the latency of the multiply-add.
const MANY_ROWS: usize = 8;
const FEW_ROWS: usize = 4;

/// Attention with the vectors of an instruction set.
pub(super) struct Vectors {
    pub isa: Isa,
}

impl Form for Vectors {
    const MAX_ROWS: usize = 128;

    fn workspace(&self, rows: usize, head_dim: usize) -> usize {
        rows * head_dim + scratch_len(head_dim)
    }

    /// `[rows, D]`, scaled.
    fn load_queries(&self, queries: &Queries<'_>, workspace: &mut [f32]) {
        let to = workspace[scratch_len(queries.head_dim)..].chunks_exact_mut(queries.head_dim);
        for (row, to) in (0..queries.rows).zip(to) {
            for (to, from) in to.iter_mut().zip(queries.row(row)) {
                *to = from * queries.scale;
            }
        }
    }

    fn attend(&self, chunk: &Chunk<'_>, workspace: &mut [f32], output: Output<'_>) {
        let head_dim = chunk.kv.head_dim();
        let (scratch, q) = workspace.split_at_mut(scratch_len(head_dim));
        let (keys, scratch) = scratch.split_at_mut(CHUNK * head_dim);
        let (values, scores) = scratch.split_at_mut(CHUNK * head_dim.next_multiple_of(PANEL));
        let kernel = AttendChunk {
            chunk,
            q,
            keys,
            values,
            scores,
            output,
        };
        let done = run(self.isa, kernel);
        debug_assert!(done.is_ok(), "the scalar path has no tiles");
    }
}

/// The part of the workspace that a chunk needs.
fn scratch_len(head_dim: usize) -> usize {
    CHUNK * (head_dim + head_dim.next_multiple_of(PANEL)) + UNIT * CHUNK
}

/// Attention of a tile to a chunk.
struct AttendChunk<'a> {
    chunk: &'a Chunk<'a>,
    /// `[rows, D]`.
    q: &'a [f32],
    /// `[CHUNK / PANEL, D, PANEL]`: a panel is some keys, transposed.
    keys: &'a mut [f32],
    /// `[padded D / PANEL, CHUNK, PANEL]`: a panel is some elements of all values.
    values: &'a mut [f32],
    /// `[UNIT, CHUNK]`.
    scores: &'a mut [f32],
    output: Output<'a>,
}

impl Kernel for AttendChunk<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        match self.chunk.kv.dtype() {
            KvDType::F32 => self.widen::<S, f32>(simd),
            KvDType::F16 => self.widen::<S, f16>(simd),
            KvDType::BF16 => self.widen::<S, bf16>(simd),
            KvDType::Q8_0 => self.widen::<S, i8>(simd),
            KvDType::Fp8 => self.widen::<S, E4m3>(simd),
        }
        for unit in self.chunk.units() {
            let columns = self.chunk.visible(unit.end - 1);
            if columns == 0 {
                self.output.unit(unit.clone()).clear();
            } else {
                self.score(simd, unit.clone(), columns);
                self.weigh_and_accumulate(simd, unit.clone(), columns);
            }
            self.output.end_unit(simd, unit);
        }
    }
}

impl AttendChunk<'_> {
    /// Fills the panels of keys and values from the blocks that hold the chunk.
    #[inline(always)]
    fn widen<S: Simd, T: Widen>(&mut self, simd: S) {
        let (block_size, keys) = (self.chunk.kv.block_size(), self.chunk.keys.clone());
        let mut position = keys.start;
        while position < keys.end {
            let (index, offset) = (position / block_size, position % block_size);
            let block = self.chunk.block_table[index] as usize;
            // Keys up to the end of the block rather than of the context: whole vectors, and what
            // is too much is masked with the scores.
            let end = (position - offset + block_size).min(keys.start + CHUNK);
            let columns = position - keys.start..end - keys.start;
            self.widen_keys::<S, T>(simd, block, offset, columns);
            let rows = position - keys.start..end.min(keys.end) - keys.start;
            self.widen_values::<S, T>(simd, block, offset, rows);
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
        let (kv, kv_head) = (self.chunk.kv, self.chunk.kv_head);
        let (block_size, head_dim) = (kv.block_size(), kv.head_dim());
        let stored = kv.keys::<T>(block, kv_head);
        let mut column = columns.start;
        while column < columns.end {
            // Up to the end of the panel.
            let count = (PANEL - column % PANEL).min(columns.end - column);
            let from = offset + column - columns.start;
            let scales = if T::SCALED {
                &kv.key_scales(block, kv_head)[from..from + count]
            } else {
                &[]
            };
            let panel = &mut self.keys[column / PANEL * PANEL * head_dim..][..PANEL * head_dim];
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
        let (kv, kv_head) = (self.chunk.kv, self.chunk.kv_head);
        let head_dim = kv.head_dim();
        let stored = &kv.values::<T>(block, kv_head)[offset * head_dim..];
        for (i, (row, stored)) in rows.zip(stored.chunks_exact(head_dim)).enumerate() {
            let scale = if T::SCALED {
                [kv.value_scales(block, kv_head)[offset + i]; PANEL]
            } else {
                [1.0; PANEL]
            };
            for (panel, stored) in stored.chunks(PANEL).enumerate() {
                let to = &mut self.values[(panel * CHUNK + row) * PANEL..][..stored.len()];
                let scales = if T::SCALED {
                    &scale[..stored.len()]
                } else {
                    &[]
                };
                widen_scaled(simd, stored, scales, to);
            }
        }
    }

    /// `scores = q · keys`, whole panels.
    #[inline(always)]
    fn score<S: Simd>(&mut self, simd: S, unit: Range<usize>, columns: usize) {
        let head_dim = self.chunk.kv.head_dim();
        let panels = self
            .keys
            .chunks_exact(PANEL * head_dim)
            .take(columns.div_ceil(PANEL));
        let q = Rows {
            values: &self.q[unit.start * head_dim..],
            stride: head_dim,
            count: unit.len(),
            len: head_dim,
        };
        for (panel, keys) in panels.enumerate() {
            q.times(simd, keys, &mut self.scores[panel * PANEL..], CHUNK);
        }
    }

    /// Turns scores into weights and sums the values under them.
    #[inline(always)]
    fn weigh_and_accumulate<S: Simd>(&mut self, simd: S, unit: Range<usize>, columns: usize) {
        let partial = self.output.unit(unit.clone());
        let scores = self.scores.chunks_exact_mut(CHUNK);
        for (row, scores) in unit.clone().zip(scores) {
            let scores = &mut scores[..columns.next_multiple_of(PANEL)];
            let at = row - unit.start;
            (partial.max[at], partial.sum[at]) = weigh(simd, scores, self.chunk.visible(row));
        }
        let weights = Rows {
            values: self.scores,
            stride: CHUNK,
            count: unit.len(),
            len: columns,
        };
        let padded_dim = partial.acc.len() / partial.max.len();
        for (panel, values) in self.values.chunks_exact(CHUNK * PANEL).enumerate() {
            weights.times(simd, values, &mut partial.acc[panel * PANEL..], padded_dim);
        }
    }
}

/// Turns the scores of a row into weights: `2^(score - max)` for the first `visible`, else exactly 0. Returns their maximum and the sum of the
/// weights.
#[inline(always)]
fn weigh<S: Simd>(simd: S, scores: &mut [f32], visible: usize) -> (f32, f32) {
    if visible == 0 {
        scores.fill(0.0);
        return (f32::NEG_INFINITY, 0.0);
    }
    scores[visible..].fill(f32::NEG_INFINITY);
    // Finite, so that a row of nothing but NaN does not pass for one that sees no keys.
    let mut max = simd.splat(f32::MIN);
    for scores in scores.chunks_exact(S::LANES) {
        max = simd.max(simd.load(scores), max);
    }
    let max = simd.reduce_max(max);
    let mut sum = simd.splat(0.0);
    for scores in scores.chunks_exact_mut(S::LANES) {
        let weight = exp2(simd, simd.sub(simd.load(scores), simd.splat(max)));
        simd.store(weight, scores);
        sum = simd.add(sum, weight);
    }
    (max, simd.reduce_add(sum))
}

/// Rows of a matrix.
struct Rows<'a> {
    values: &'a [f32],
    stride: usize,
    count: usize,
    len: usize,
}

impl Rows<'_> {
    /// Their product with a panel, `[len or more, PANEL]`, into rows `to_stride` apart.
    #[inline(always)]
    fn times<S: Simd>(&self, simd: S, panel: &[f32], to: &mut [f32], to_stride: usize) {
        let mut row = 0;
        while row < self.count {
            row += if S::LANES == 16 && self.count - row > FEW_ROWS {
                self.some_times::<S, MANY_ROWS>(simd, row, panel, to, to_stride)
            } else {
                self.some_times::<S, FEW_ROWS>(simd, row, panel, to, to_stride)
            };
        }
    }

    /// The same for `R` rows from `first` on, or as many as there are.
    #[inline(always)]
    fn some_times<S: Simd, const R: usize>(
        &self,
        simd: S,
        first: usize,
        panel: &[f32],
        to: &mut [f32],
        to_stride: usize,
    ) -> usize {
        let count = R.min(self.count - first);
        // Rows that are not there repeat the last one.
        let rows: [&[f32]; R] = std::array::from_fn(|i| {
            &self.values[(first + i.min(count - 1)) * self.stride..][..self.len]
        });
        for half in (0..PANEL).step_by(2 * S::LANES) {
            let mut acc = [[simd.splat(0.0); 2]; R];
            for (k, b) in panel.chunks_exact(PANEL).take(self.len).enumerate() {
                let b = [simd.load(&b[half..]), simd.load(&b[half + S::LANES..])];
                for (acc, row) in acc.iter_mut().zip(rows) {
                    // SAFETY: `take` keeps `k` below `len`, the length of every row.
                    let a = simd.splat(unsafe { *row.get_unchecked(k) });
                    acc[0] = simd.mul_add(a, b[0], acc[0]);
                    acc[1] = simd.mul_add(a, b[1], acc[1]);
                }
            }
            for (i, acc) in acc.into_iter().enumerate().take(count) {
                let to = &mut to[(first + i) * to_stride + half..];
                simd.store(acc[0], to);
                simd.store(acc[1], &mut to[S::LANES..]);
            }
        }
        count
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

/// Looked up one by one: the type is a graphics processor's, and here for those who compare.
impl Widen for E4m3 {
    const SCALED: bool = false;

    #[inline(always)]
    fn load<S: Simd>(simd: S, from: &[Self]) -> S::F32 {
        let mut values = [0.0; PANEL];
        for (value, from) in values.iter_mut().zip(&from[..S::LANES]) {
            *value = from.to_f32();
        }
        simd.load(&values)
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
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
