//! The two kernels, over any vector unit and any format.
//!
//! Each result `out[t, r]` is one chain of fused multiply-adds over the blocks of row `r`, in order, whatever the tile: so it depends neither on the
//! other tokens, nor on how rows and tokens are split over threads. A tile is a vector of rows times 1, 4 or 8 tokens: codes are unpacked (or floats
//! widened) once per tile and used for all its tokens.
//!
//! # Safety
//! All functions here are `unsafe` for one reason: they may run only where the CPU has the instructions of `L`. Pointers stay within the slices of a
//! [`Job`], whose sizes [`Job::new`] checks.

#![allow(unsafe_op_in_unsafe_fn)] // nearly every line is a vector operation under the one contract above
#![allow(clippy::needless_range_loop)] // indices of fixed arrays, which become registers; iterators would bring closures that are not inlined

use std::ops::Range;

use super::activations::{BlockInfo, QuantizedRows};
use super::codec::{Codec, Float};
use super::lanes::Lanes;
use super::layout::{BLOCK_COLS, High, Layout, Low, Minimum, PANEL_ROWS};
use super::weight::Segment;
use crate::WeightFormat;
use crate::parallel::SharedMut;

/// Tokens are taken in runs of at most this many bytes of activations, which stay in the second level cache (1 to 2 MiB on current servers) while all
/// panels of a thread pass by.
const TOKEN_RUN_BYTES: usize = 512 << 10;

/// How far ahead of its use a weight is fetched when one token streams all of them: the processor's own prefetcher follows the stream, but not
/// far enough ahead for a core to use its share of the bandwidth. Beyond the end of a weight a prefetch does nothing.
const PREFETCH_BYTES: usize = 4096;

/// Columns whose products with float weights are summed before the sum joins the total: shorter chains round less.
const FLOAT_RUN: usize = 256;

/// Vectors of rows that a float tile has for one token, where the chain of one sum alone would leave the unit idle, and for several.
const FLOAT_VECTORS_ONE: usize = 4;
const FLOAT_VECTORS_MANY: usize = 2;

/// The product of activations with a segment of a weight.
pub(super) struct Job<'a> {
    pub format: WeightFormat,
    panels: &'a [u8],
    panel_bytes: usize,
    rows: usize,
    cols: usize,
    x: &'a [f32],
    codes: Option<&'a QuantizedRows>,
    out: Output<'a>,
}

/// The `[T, stride]` result, of which a segment writes columns from `start` on.
pub(super) struct Output<'a> {
    pub values: &'a SharedMut<'a, f32>,
    pub stride: usize,
    pub start: usize,
    pub bias: Option<&'a [f32]>,
}

impl<'a> Job<'a> {
    /// The product of `x`, `[T, cols]`, whose codes are `codes`, with `segment`.
    ///
    /// # Panics
    /// If the sizes do not fit, or codes are missing for a quantised format: `linear` checks its arguments before.
    pub fn new(
        segment: &'a Segment,
        cols: usize,
        x: &'a [f32],
        codes: Option<&'a QuantizedRows>,
        out: Output<'a>,
    ) -> Self {
        let (format, rows) = (segment.format, segment.rows.len());
        assert!(codes.is_some() || !format.is_quantized());
        assert_eq!(
            segment.bytes().len(),
            segment.panels() * segment.panel_bytes
        );
        assert_eq!(
            Some(segment.panel_bytes),
            super::layout::panel_bytes(format, cols)
        );
        assert!(
            x.len().is_multiple_of(cols)
                && out.bias.is_none_or(|bias| bias.len() == out.stride)
                && out.start + rows <= out.stride
        );
        Self {
            format,
            panels: segment.bytes(),
            panel_bytes: segment.panel_bytes,
            rows,
            cols,
            x,
            codes,
            out,
        }
    }

    fn panel(&self, index: usize) -> &[u8] {
        &self.panels[index * self.panel_bytes..][..self.panel_bytes]
    }

    /// Writes the sums of row `first_row` and the following for token `t`; rows beyond the segment are padding.
    #[inline(always)]
    fn store(&self, t: usize, first_row: usize, sums: &[f32]) {
        let len = sums.len().min(self.rows.saturating_sub(first_row));
        let column = self.out.start + first_row;
        if len == 0 {
            return;
        }
        // SAFETY: a token and a row are computed by one task, so no other has this part of the result.
        let out = unsafe { self.out.values.slice(t * self.out.stride + column, len) };
        match self.out.bias {
            Some(bias) => out
                .iter_mut()
                .zip(sums)
                .zip(&bias[column..])
                .for_each(|((out, sum), bias)| *out = sum + bias),
            None => out.copy_from_slice(&sums[..len]),
        }
    }
}

/// Calls `$run` with `$T` the size of each tile that `$tokens` is cut into, and `$t` its first token.
macro_rules! for_each_tile {
    ($L:ty, $tokens:expr, |$t:ident, $T:ident| $run:expr) => {{
        let mut $t = $tokens.start;
        while $t < $tokens.end {
            let left = $tokens.end - $t;
            if <$L>::TOKENS >= 8 && left >= 8 {
                const $T: usize = 8;
                $run;
                $t += $T;
            } else if <$L>::TOKENS >= 4 && left >= 4 {
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

/// `tokens` in runs whose activations, `row_bytes` per token, stay in the cache; whole tiles but for the last.
fn token_runs(tokens: Range<usize>, row_bytes: usize) -> impl Iterator<Item = Range<usize>> {
    let run = (TOKEN_RUN_BYTES / row_bytes.max(1)).max(8) / 8 * 8;
    tokens
        .clone()
        .step_by(run)
        .map(move |start| start..(start + run).min(tokens.end))
}

/// Computes `panels` of a quantised segment for `tokens`.
#[inline(always)]
pub(super) unsafe fn quantized<L: Lanes, C: Codec>(
    job: &Job,
    panels: Range<usize>,
    tokens: Range<usize>,
) {
    let Some(codes) = job.codes else { return };
    for tokens in token_runs(tokens, 2 * job.cols) {
        for index in panels.clone() {
            let panel = job.panel(index);
            for first_lane in (0..PANEL_ROWS).step_by(L::ROWS) {
                for_each_tile!(L, tokens, |t, T| {
                    let sums = quantized_tile::<L, C, T>(panel, first_lane, codes, t);
                    store_tile::<L, T>(job, t, index * PANEL_ROWS + first_lane, sums);
                });
            }
        }
    }
}

#[inline(always)]
unsafe fn store_tile<L: Lanes, const T: usize>(
    job: &Job,
    t: usize,
    first_row: usize,
    sums: [L::F; T],
) {
    for (i, sum) in sums.into_iter().enumerate() {
        let mut values = [0.0; PANEL_ROWS];
        L::store(sum, values.as_mut_ptr());
        job.store(t + i, first_row, &values[..L::ROWS]);
    }
}

/// The codes and scales that a tile's tokens share, for one block of 32 columns.
struct Unpacked<L: Lanes> {
    codes: [L::I; 8],
    /// Of the first and of the last 16 columns; the same number if a sub-block is 32 long.
    scales: [L::F; 2],
    minima: [L::F; 2],
}

/// One vector of rows times `T` tokens from `t` on.
#[inline(always)]
unsafe fn quantized_tile<L: Lanes, C: Codec, const T: usize>(
    panel: &[u8],
    first_lane: usize,
    x: &QuantizedRows,
    t: usize,
) -> [L::F; T] {
    let codes: [&[i8]; T] = std::array::from_fn(|i| x.codes(t + i));
    let info: [&[BlockInfo]; T] = std::array::from_fn(|i| x.info(t + i));
    let mut sums = [L::splat(0.0); T];
    let layout = const { C::LAYOUT };
    for (index, group) in panel
        .chunks_exact(const { C::LAYOUT.group_bytes() })
        .enumerate()
    {
        let group = group.as_ptr();
        let d = L::load_f16(group.add(2 * first_lane));
        let m = if matches!(layout.minimum, Minimum::None) {
            d
        } else {
            L::load_f16(group.add(layout.m_at() + 2 * first_lane))
        };
        for payload in 0..const { C::LAYOUT.payloads() } {
            if T == 1 {
                let at = layout.payload_at() + payload * layout.payload_bytes();
                for line in (0..layout.payload_bytes()).step_by(64) {
                    L::prefetch(group.wrapping_add(at + line + PREFETCH_BYTES));
                }
            }
            let unpacked = unpack::<L, C>(group, first_lane, payload, d, m);
            let block = index * layout.payloads() + payload;
            for i in 0..T {
                let x = codes.get_unchecked(i).as_ptr().add(block * BLOCK_COLS);
                sums[i] = add_block::<L, C>(
                    sums[i],
                    &unpacked,
                    x,
                    info.get_unchecked(i).get_unchecked(block),
                );
            }
        }
    }
    sums
}

#[inline(always)]
unsafe fn unpack<L: Lanes, C: Codec>(
    group: *const u8,
    first_lane: usize,
    payload: usize,
    d: L::F,
    m: L::F,
) -> Unpacked<L> {
    let layout = const { C::LAYOUT };
    let mut scales = [d; 2];
    let mut minima = [m; 2];
    for half in 0..2 {
        let sub_block = (payload * BLOCK_COLS + 16 * half) / layout.sub_block;
        if layout.factors {
            scales[half] = L::mul(
                d,
                L::load_i8(group.add(layout.factors_at() + PANEL_ROWS * sub_block + first_lane)),
            );
        }
        if matches!(layout.minimum, Minimum::Scaled) {
            minima[half] = L::mul(
                m,
                L::load_u8(group.add(layout.minima_at() + PANEL_ROWS * sub_block + first_lane)),
            );
        }
    }
    let payload =
        group.add(layout.payload_at() + payload * layout.payload_bytes() + 4 * first_lane);
    Unpacked {
        codes: unpack_codes::<L>(&layout, payload),
        scales,
        minima,
    }
}

/// The codes of 32 columns, quad by quad. `layout` is a constant where this is inlined.
#[inline(always)]
unsafe fn unpack_codes<L: Lanes>(layout: &Layout, payload: *const u8) -> [L::I; 8] {
    let chunk = |index: usize| L::load(payload.add(4 * PANEL_ROWS * index));
    let mut codes = [L::zero(); 8];
    match layout.low {
        Low::Bytes => {
            for g in 0..8 {
                codes[g] = chunk(g);
            }
        }
        Low::Nibbles => {
            let mask = L::splat_byte(15);
            for c in 0..4 {
                let both = chunk(c);
                codes[c] = L::and(both, mask);
                codes[c + 4] = L::and(L::shift_right(both, 4), mask);
            }
        }
        Low::Crumbs => {
            let mask = L::splat_byte(3);
            for g in 0..8 {
                codes[g] = L::and(L::shift_right(chunk(g / 4), 2 * (g as i32 % 4)), mask);
            }
        }
    }
    let high = layout.high_at() / (4 * PANEL_ROWS);
    match layout.high {
        High::None => {}
        High::Bit { shift } => {
            let mask = L::splat_byte(1 << shift);
            for g in 0..8 {
                codes[g] = L::or(
                    codes[g],
                    L::and(L::shift_right(chunk(high), g as i32 - shift as i32), mask),
                );
            }
        }
        High::Crumbs { shift } => {
            let mask = L::splat_byte(3 << shift);
            for g in 0..8 {
                let bits = L::shift_right(chunk(high + g / 4), 2 * (g as i32 % 4) - shift as i32);
                codes[g] = L::or(codes[g], L::and(bits, mask));
            }
        }
    }
    if layout.table {
        // A loop, not `map`: a closure passed to a function would not be compiled for the vector unit.
        for codes in &mut codes {
            *codes = L::iq4_levels(*codes);
        }
    }
    codes
}

/// `sum + Σ weight * activation` over one block of 32 columns.
#[inline(always)]
unsafe fn add_block<L: Lanes, C: Codec>(
    mut sum: L::F,
    weights: &Unpacked<L>,
    x: *const i8,
    info: &BlockInfo,
) -> L::F {
    let layout = const { C::LAYOUT };
    let x_scale = L::splat(info.scale);
    if layout.sub_block == 16 {
        for half in 0..2 {
            let dot = dot_quads::<L, C, 4>(&weights.codes, 4 * half, x);
            let dot = without_zero::<L, C>(L::to_f32(dot), info.half_sums[half]);
            sum = L::mul_add(dot, L::mul(weights.scales[half], x_scale), sum);
            if matches!(layout.minimum, Minimum::Scaled) {
                sum = L::neg_mul_add(
                    weights.minima[half],
                    L::splat(info.scaled_half_sums[half]),
                    sum,
                );
            }
        }
        return sum;
    }
    let dot = L::add(
        dot_quads::<L, C, 4>(&weights.codes, 0, x),
        dot_quads::<L, C, 4>(&weights.codes, 4, x),
    );
    let dot = without_zero::<L, C>(L::to_f32(dot), info.sum);
    sum = L::mul_add(dot, L::mul(weights.scales[0], x_scale), sum);
    match layout.minimum {
        Minimum::None => sum,
        Minimum::Direct => L::mul_add(weights.minima[0], L::splat(info.scaled_sum), sum),
        Minimum::Scaled => L::neg_mul_add(weights.minima[0], L::splat(info.scaled_sum), sum),
    }
}

/// The integer dot products of quads `first..first + N`.
#[inline(always)]
unsafe fn dot_quads<L: Lanes, C: Codec, const N: usize>(
    codes: &[L::I; 8],
    first: usize,
    x: *const i8,
) -> L::I {
    let mut dot = L::zero();
    for g in first..first + N {
        dot = match const { C::LAYOUT.zero_log2 } {
            Some(7) => L::dot_bytes(dot, codes[g], x.add(4 * g)),
            _ => L::dot(dot, codes[g], x.add(4 * g)),
        };
    }
    dot
}

/// Takes the zero point off: `Σ (code - zero) * x = Σ code * x - zero * Σ x`. All of these are integers below `2^24`, so f32 is exact.
#[inline(always)]
unsafe fn without_zero<L: Lanes, C: Codec>(dot: L::F, x_sum: f32) -> L::F {
    match const { C::LAYOUT.zero_log2 } {
        None => dot,
        Some(7) if L::SIGNED_BYTES => dot,
        Some(log2) => L::neg_mul_add(L::splat((1u32 << log2) as f32), L::splat(x_sum), dot),
    }
}

/// Computes `panels` of a float segment for `tokens`.
#[inline(always)]
pub(super) unsafe fn float<L: Lanes, E: Float>(
    job: &Job,
    panels: Range<usize>,
    tokens: Range<usize>,
) {
    let vectors = panels.start * PANEL_ROWS / L::ROWS..panels.end * PANEL_ROWS / L::ROWS;
    for tokens in token_runs(tokens, 4 * job.cols) {
        let single = tokens.len() < L::TOKENS.max(2);
        let step = if single {
            FLOAT_VECTORS_ONE
        } else {
            FLOAT_VECTORS_MANY
        };
        let mut vector = vectors.start;
        while vector + step <= vectors.end {
            for_each_tile!(L, tokens, |t, T| {
                if single {
                    float_tile::<L, E, FLOAT_VECTORS_ONE, T>(job, vector, t);
                } else {
                    float_tile::<L, E, FLOAT_VECTORS_MANY, T>(job, vector, t);
                }
            });
            vector += step;
        }
        for vector in vector..vectors.end {
            for_each_tile!(L, tokens, |t, T| float_tile::<L, E, 1, T>(job, vector, t));
        }
    }
}

/// `V` vectors of rows from vector `first` on, times `T` tokens from `t` on.
#[inline(always)]
unsafe fn float_tile<L: Lanes, E: Float, const V: usize, const T: usize>(
    job: &Job,
    first: usize,
    t: usize,
) {
    let weights: [*const u8; V] = std::array::from_fn(|v| {
        let row = (first + v) * L::ROWS;
        job.panel(row / PANEL_ROWS)[row % PANEL_ROWS * E::BYTES..].as_ptr()
    });
    let x: [*const f32; T] =
        std::array::from_fn(|i| job.x[(t + i) * job.cols..][..job.cols].as_ptr());
    let mut totals = [[L::splat(0.0); T]; V];
    for start in (0..job.cols).step_by(FLOAT_RUN) {
        let mut sums = [[L::splat(0.0); T]; V];
        for col in start..(start + FLOAT_RUN).min(job.cols) {
            let mut w = [L::splat(0.0); V];
            for v in 0..V {
                let at = weights[v].add(col * PANEL_ROWS * E::BYTES);
                if T == 1 {
                    L::prefetch(at.wrapping_add(PREFETCH_BYTES));
                }
                w[v] = E::load::<L>(at);
            }
            for i in 0..T {
                let x = L::splat(*x[i].add(col));
                for v in 0..V {
                    sums[v][i] = L::mul_add(w[v], x, sums[v][i]);
                }
            }
        }
        for v in 0..V {
            for i in 0..T {
                totals[v][i] = L::add_f32(totals[v][i], sums[v][i]);
            }
        }
    }
    for (v, sums) in totals.into_iter().enumerate() {
        store_tile::<L, T>(job, t, (first + v) * L::ROWS, sums);
    }
}
