//! What every form of the kernel works on and gives: some rows of queries against one chunk of keys.

use std::ops::Range;

use crate::KvLayer;
use crate::simd::{Kernel, Simd, exp2};

/// Rows that are scored, weighed and summed together: their scores of a chunk take 32 KiB, so they stay in the first-level cache.
pub(super) const UNIT: usize = 32;

/// The head size is padded to a multiple of this with zeros: two vectors of the widest instruction set, or one step of the matrix unit.
pub(super) const PADDING: usize = 32;

/// The queries of a tile, row by row: the heads of its first query, then those of the next.
pub(super) struct Queries<'a> {
    /// From the first row on.
    pub q: &'a [f32],
    /// From the heads of one query to those of the next.
    pub stride: usize,
    pub group: usize,
    pub head_dim: usize,
    pub rows: usize,
    /// What to multiply them by, so that scores are powers of two.
    pub scale: f32,
}

impl<'a> Queries<'a> {
    pub fn row(&self, row: usize) -> &'a [f32] {
        let start = row / self.group * self.stride + row % self.group * self.head_dim;
        &self.q[start..start + self.head_dim]
    }
}

/// The keys that the rows of a tile meet next.
pub(super) struct Chunk<'a> {
    pub kv: &'a KvLayer,
    pub block_table: &'a [u32],
    pub kv_head: usize,
    /// Positions; they start at a multiple of [`CHUNK`] and are no more than that.
    pub keys: Range<usize>,
    /// Rows of the tile.
    pub rows: usize,
    /// Rows of one query, one after another.
    pub group: usize,
    /// How many positions the first query sees; each later one sees one more.
    pub first_visible: usize,
    /// Whether the same task goes on with the chunk after this one, so that it pays to fetch it into the cache.
    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(dead_code, reason = "only the matrix unit's form fetches ahead")
    )]
    pub continues: bool,
}

impl Chunk<'_> {
    /// How many of the chunk's keys a row sees.
    pub fn visible(&self, row: usize) -> usize {
        (self.first_visible + row / self.group)
            .saturating_sub(self.keys.start)
            .min(self.keys.len())
    }

    pub fn units(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let rows = self.rows;
        (0..rows)
            .step_by(UNIT)
            .map(move |start| start..rows.min(start + UNIT))
    }
}

/// What some rows know of some keys, before division by the sum: `acc = Σ 2^(score - max) · v`, `sum = Σ 2^(score - max)`.
pub(super) struct Partial<'a> {
    /// `[rows]`; -∞ where a row sees none of the keys.
    pub max: &'a mut [f32],
    /// `[rows]`.
    pub sum: &'a mut [f32],
    /// `[rows, padded D]`.
    pub acc: &'a mut [f32],
}

impl Partial<'_> {
    pub fn reborrow(&mut self) -> Partial<'_> {
        self.rows(0..self.max.len())
    }

    /// Nothing known yet.
    pub fn clear(&mut self) {
        self.max.fill(f32::NEG_INFINITY);
        self.sum.fill(0.0);
        self.acc.fill(0.0);
    }

    pub fn rows(&mut self, rows: Range<usize>) -> Partial<'_> {
        let width = self.acc.len() / self.max.len();
        Partial {
            max: &mut self.max[rows.clone()],
            sum: &mut self.sum[rows.clone()],
            acc: &mut self.acc[rows.start * width..rows.end * width],
        }
    }
}

/// Where the result of a chunk goes.
pub(super) enum Output<'a> {
    /// To be kept, for all rows of the tile.
    Kept(Partial<'a>),
    /// Added to what is known of the chunks before; `next` has room for a unit.
    Added {
        total: Partial<'a>,
        next: Partial<'a>,
    },
}

impl Output<'_> {
    /// Room for what the rows of a unit learn from the chunk.
    pub fn unit(&mut self, rows: Range<usize>) -> Partial<'_> {
        match self {
            Self::Kept(kept) => kept.rows(rows),
            Self::Added { next, .. } => next.rows(0..rows.len()),
        }
    }

    /// To be called when that room is filled.
    #[inline(always)]
    pub fn end_unit<S: Simd>(&mut self, simd: S, rows: Range<usize>) {
        if let Self::Added { total, next } = self {
            let fold = Fold {
                next: next.rows(0..rows.len()),
                total: total.rows(rows),
            };
            fold.run(simd);
        }
    }
}

/// Adds what rows know of further keys to what they know of those before (arXiv:1805.02867, section 3.1).
pub(super) struct Fold<'a> {
    pub total: Partial<'a>,
    pub next: Partial<'a>,
}

impl Kernel for Fold<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { total, next } = self;
        let (rows, width) = (next.max.len(), next.acc.len() / next.max.len());
        for first in (0..rows).step_by(S::LANES) {
            let lanes = first..rows.min(first + S::LANES);
            // A row that sees none of the keys yet has a maximum of -∞, and the difference of two of them is no number.
            let lowest = simd.splat(f32::MIN);
            let max = simd.load_partial(&total.max[lanes.clone()]);
            let next_max = simd.load_partial(&next.max[lanes.clone()]);
            let new_max = simd.max(simd.max(next_max, max), lowest);
            let keep = exp2(simd, simd.sub(max, new_max));
            let take = exp2(simd, simd.sub(next_max, new_max));
            let sum = simd.mul(simd.load_partial(&total.sum[lanes.clone()]), keep);
            let next_sum = simd.load_partial(&next.sum[lanes.clone()]);
            simd.store_partial(new_max, &mut total.max[lanes.clone()]);
            simd.store_partial(
                simd.mul_add(next_sum, take, sum),
                &mut total.sum[lanes.clone()],
            );
            let mut factors = [[0.0; MOST_LANES]; 2];
            simd.store(keep, &mut factors[0]);
            simd.store(take, &mut factors[1]);
            for (lane, row) in lanes.enumerate() {
                let [keep, take] = [0, 1].map(|i| simd.splat(factors[i][lane]));
                let row = row * width..(row + 1) * width;
                let total = total.acc[row.clone()].chunks_exact_mut(S::LANES);
                for (total, next) in total.zip(next.acc[row].chunks_exact(S::LANES)) {
                    let kept = simd.mul(simd.load(total), keep);
                    simd.store(simd.mul_add(simd.load(next), take, kept), total);
                }
            }
        }
    }
}

/// Lanes of the widest vectors.
const MOST_LANES: usize = 16;

/// The kernel in the form that an instruction set asks for.
pub(super) trait Form: Sync {
    /// Rows of a tile, at most, unless the heads of one query are more: so many that reading a chunk and bringing it into the form that the
    /// products need is a small part of the work on it.
    const MAX_ROWS: usize;

    /// How many f32s a tile needs to work with, besides its results.
    fn workspace(&self, rows: usize, head_dim: usize) -> usize;

    /// Brings the queries of a tile into the workspace, where all chunks find them.
    fn load_queries(&self, queries: &Queries<'_>, workspace: &mut [f32]);

    /// Attention of all rows of a tile to one chunk.
    fn attend(&self, chunk: &Chunk<'_>, workspace: &mut [f32], output: Output<'_>);
}
