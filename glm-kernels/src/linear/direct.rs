//! One token: codes are unpacked into registers and used at once. The weights are read once, as two streams, and that is what limits the speed.
//!
//! Each result is one chain of fused multiply-adds over the blocks of a row, in order; the integer dot products within are exact. [`super::gemm`] and
//! [`super::amx`] form the very same chains, so a token's result does not depend on which of them computed it.
//!
//! # Safety
//! All functions here are `unsafe` for one reason: they may run only where the CPU has the instructions of `L`. Pointers stay within the slices of a
//! [`Job`], whose sizes [`Job::new`] checks.

#![allow(unsafe_op_in_unsafe_fn)] // nearly every line is a vector operation under the one contract above
#![allow(clippy::needless_range_loop)] // indices of fixed arrays, which become registers; iterators would bring closures that are not inlined

use std::ops::Range;

use super::activations::{Part, Tile};
use super::codec::Codec;
use super::job::Job;
use super::lanes::Lanes;
use super::layout::{BLOCK_COLS, High, Layout, Low, Minimum, PANEL_ROWS};

/// How far ahead of its use a weight is fetched: the processor's own prefetcher follows the streams, but not far enough ahead for a core to use its
/// share of the bandwidth. Beyond the end of a weight a prefetch does nothing.
const PREFETCH_BYTES: usize = 1024;

/// Panels that are taken together, far apart in memory: a core fetches two streams faster than one.
const PANELS: usize = 2;

/// Vectors of a panel, at most.
const MAX_VECTORS: usize = 4;

/// Computes `panels` of a quantised segment for all tokens, one after the other.
#[inline(always)]
pub(super) unsafe fn quantized<L: Lanes, C: Codec>(job: &Job, panels: Range<usize>) {
    let half = panels.len().div_ceil(PANELS);
    for t in 0..job.x.tokens {
        for panel in panels.start..panels.start + half {
            // The last panel is taken twice if there is no other.
            let pair = [panel, (panel + half).min(panels.end - 1)];
            pair_of_panels::<L, C>(job, pair, t);
        }
    }
}

/// Two panels times token `t`.
#[inline(always)]
unsafe fn pair_of_panels<L: Lanes, C: Codec>(job: &Job, pair: [usize; PANELS], t: usize) {
    let Some(x) = &job.x.codes else { return };
    let (tile, place) = x.place(t);
    let layout = const { C::LAYOUT };
    let panels = pair.map(|panel| job.panel(panel).as_ptr());
    let mut sums = [[L::splat(0.0); MAX_VECTORS]; PANELS];
    let share = layout.group_bytes() / layout.payloads();
    for group in 0..job.x.cols / layout.cols {
        for payload in 0..layout.payloads() {
            let block = group * layout.payloads() + payload;
            for p in 0..PANELS {
                let start = panels[p].add(group * layout.group_bytes());
                for line in (0..share).step_by(64) {
                    let ahead = payload * share + line + PREFETCH_BYTES;
                    L::prefetch(start.wrapping_add(ahead));
                }
                for vector in 0..PANEL_ROWS / L::ROWS {
                    let weights = unpack::<L, C>(start, vector * L::ROWS, payload);
                    let sum = &mut sums[p][vector];
                    *sum = add_block::<L, C>(*sum, &weights, tile, place, block);
                }
            }
        }
    }
    for p in 0..PANELS {
        let mut values = [0.0; PANEL_ROWS];
        for vector in 0..PANEL_ROWS / L::ROWS {
            let to = values.as_mut_ptr().add(vector * L::ROWS);
            L::store(sums[p][vector], to);
        }
        job.store_panel(t, pair[p], &values);
    }
}

/// The codes and scales of a vector of rows, for one block of 32 columns.
pub(super) struct Unpacked<L: Lanes> {
    pub codes: [L::I; 8],
    /// Of the first and of the last 16 columns; the same number if a sub-block is 32 long.
    pub scales: [L::F; 2],
    pub minima: [L::F; 2],
}

/// Unpacks block `payload` of a group, for the vector of rows from `first_lane` on.
#[inline(always)]
pub(super) unsafe fn unpack<L: Lanes, C: Codec>(
    group: *const u8,
    first_lane: usize,
    payload: usize,
) -> Unpacked<L> {
    let layout = const { C::LAYOUT };
    let mut scales = [L::load_f16(group.add(2 * first_lane)); 2];
    let mut minima = match layout.minimum {
        Minimum::None => [L::splat(0.0); 2],
        _ => [L::load_f16(group.add(layout.m_at() + 2 * first_lane)); 2],
    };
    for half in 0..2 {
        let sub_block = (payload * BLOCK_COLS + 16 * half) / layout.sub_block;
        let at = PANEL_ROWS * sub_block + first_lane;
        if layout.factors {
            scales[half] = L::mul(
                scales[half],
                L::load_i8(group.add(layout.factors_at() + at)),
            );
        }
        if matches!(layout.minimum, Minimum::Scaled) {
            minima[half] = L::mul(minima[half], L::load_u8(group.add(layout.minima_at() + at)));
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

/// `sum + Σ weight * activation` over one block of 32 columns, for token `place` of `tile`.
#[inline(always)]
unsafe fn add_block<L: Lanes, C: Codec>(
    mut sum: L::F,
    weights: &Unpacked<L>,
    tile: Tile,
    place: usize,
    block: usize,
) -> L::F {
    let layout = const { C::LAYOUT };
    let x = tile.codes(block).add(place * BLOCK_COLS);
    let x_scale = L::splat(*tile.scales(block).add(place));
    let halves = layout.sub_block == 16;
    let quads = if halves { 4 } else { 8 };
    for part in 0..8 / quads {
        let name = match (halves, part) {
            (false, _) => Part::Whole,
            (true, 0) => Part::Low,
            (true, _) => Part::High,
        };
        let mut dot = zero_point::<L, C>(tile.biases(name, block).add(place));
        for g in part * quads..(part + 1) * quads {
            dot = match layout.zero_log2 {
                Some(7) => L::dot_bytes(dot, weights.codes[g], x.add(4 * g)),
                _ => L::dot(dot, weights.codes[g], x.add(4 * g)),
            };
        }
        let product = L::mul(L::to_f32(dot), weights.scales[part]);
        sum = L::mul_add(product, x_scale, sum);
        let x_sum = tile.scaled_sums(name, block).add(place);
        sum = match layout.minimum {
            Minimum::None => sum,
            Minimum::Direct => L::mul_add(weights.minima[part], L::splat(*x_sum), sum),
            Minimum::Scaled => L::neg_mul_add(weights.minima[part], L::splat(*x_sum), sum),
        };
    }
    sum
}

/// What a dot product starts from to take the zero point off: `Σ (code - zero) * x = Σ code * x - zero * Σ x`, out of `-128 * Σ x`.
#[inline(always)]
unsafe fn zero_point<L: Lanes, C: Codec>(bias: *const i32) -> L::I {
    match const { C::LAYOUT.zero_log2 } {
        None => L::zero(),
        Some(7) if L::SIGNED_BYTES => L::zero(),
        Some(log2) => L::splat_shifted(bias, 7 - log2),
    }
}
