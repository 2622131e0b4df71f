//! Weights that are floats: widened to f32 and multiplied as they are, by any vector unit.
//!
//! Each result is one chain of fused multiply-adds per run of columns, and the sum of the runs, whatever the tile: so it depends neither on the other
//! tokens, nor on how rows and tokens are split over threads.
//!
//! # Safety
//! As in [`super::direct`].

#![allow(unsafe_op_in_unsafe_fn)] // nearly every line is a vector operation under the one contract above
#![allow(clippy::needless_range_loop)] // indices of fixed arrays, which become registers; iterators would bring closures that are not inlined

use std::ops::Range;

use super::codec::Float;
use super::job::Job;
use super::lanes::Lanes;
use super::layout::PANEL_ROWS;

/// Tokens are taken in runs of at most this many bytes of activations, which stay in the second level cache (1 to 2 MiB on current servers) while all
/// panels of a thread pass by.
const TOKEN_RUN_BYTES: usize = 512 << 10;

/// How far ahead of its use a weight is fetched when few tokens stream all of them.
const PREFETCH_BYTES: usize = 2048;

/// Columns whose products are summed before the sum joins the total: shorter chains round less. Even.
const RUN: usize = 256;

/// Vectors of rows that a tile has for one token, where the chain of one sum alone would leave the unit idle, and for several.
const VECTORS_ONE: usize = 4;
const VECTORS_MANY: usize = 2;

/// Calls `$run` with `$T` the size of each tile that `$tokens` is cut into, and `$t` its first token.
macro_rules! for_each_tile {
    ($L:ty, $tokens:expr, |$t:ident, $T:ident| $run:expr) => {{
        let mut $t = $tokens.start;
        while $t < $tokens.end {
            let left = $tokens.end - $t;
            if <$L>::FLOAT_TOKENS >= 12 && left >= 12 {
                const $T: usize = 12;
                $run;
                $t += $T;
            } else if <$L>::FLOAT_TOKENS >= 4 && left >= 4 {
                const $T: usize = 4;
                $run;
                $t += $T;
            } else {
                const $T: usize = 1;
                $run;
                $t += $T;
            }
        }
    }};
}

/// Computes `panels` of a float segment for all tokens.
#[inline(always)]
pub(super) unsafe fn float<L: Lanes, E: Float>(job: &Job, panels: Range<usize>) {
    let vectors = panels.start * PANEL_ROWS / L::ROWS..panels.end * PANEL_ROWS / L::ROWS;
    let run = (TOKEN_RUN_BYTES / (4 * job.x.cols)).max(12) / 12 * 12; // whole tiles
    for start in (0..job.x.tokens).step_by(run) {
        let tokens = start..(start + run).min(job.x.tokens);
        let single = tokens.len() < L::FLOAT_TOKENS.clamp(2, 4);
        let step = if single { VECTORS_ONE } else { VECTORS_MANY };
        let mut vector = vectors.start;
        while vector + step <= vectors.end {
            for_each_tile!(L, tokens, |t, T| {
                if single {
                    tile::<L, E, VECTORS_ONE, T>(job, vector, t);
                } else {
                    tile::<L, E, VECTORS_MANY, T>(job, vector, t);
                }
            });
            vector += step;
        }
        for vector in vector..vectors.end {
            for_each_tile!(L, tokens, |t, T| tile::<L, E, 1, T>(job, vector, t));
        }
    }
}

/// `V` vectors of rows from vector `first` on, times `T` tokens from `t` on.
#[inline(always)]
unsafe fn tile<L: Lanes, E: Float, const V: usize, const T: usize>(
    job: &Job,
    first: usize,
    t: usize,
) {
    let cols = job.x.cols;
    let weights: [*const u8; V] = std::array::from_fn(|v| {
        let row = (first + v) * L::ROWS;
        job.panel(row / PANEL_ROWS)[row % PANEL_ROWS * E::COLUMNS * E::BYTES..].as_ptr()
    });
    let x: [*const f32; T] =
        std::array::from_fn(|i| job.x.values[(t + i) * cols..][..cols].as_ptr());
    let mut totals = [[L::splat(0.0); T]; V];
    for start in (0..cols).step_by(RUN) {
        let mut sums = [[L::splat(0.0); T]; V];
        let end = (start + RUN).min(cols);
        for col in (start..end).step_by(E::COLUMNS) {
            let mut w = [[L::splat(0.0); 2]; V];
            for v in 0..V {
                let at = weights[v].add(col * PANEL_ROWS * E::BYTES);
                if T == 1 {
                    L::prefetch(at.wrapping_add(PREFETCH_BYTES));
                }
                w[v] = E::load::<L>(at);
            }
            for j in 0..E::COLUMNS.min(end - col) {
                for i in 0..T {
                    let x = L::splat(*x[i].add(col + j));
                    for v in 0..V {
                        sums[v][i] = L::mul_add(w[v][j], x, sums[v][i]);
                    }
                }
            }
        }
        for v in 0..V {
            for i in 0..T {
                totals[v][i] = L::add_f32(totals[v][i], sums[v][i]);
            }
        }
    }
    for v in 0..V {
        for i in 0..T {
            let mut values = [0.0; PANEL_ROWS];
            L::store(totals[v][i], values.as_mut_ptr());
            job.store(t + i, (first + v) * L::ROWS, &values[..L::ROWS]);
        }
    }
}
