//! Packing of operands: from rows of numbers to pairs of bf16, elements `n` and `n + 16` of a step in one pair, the first in its lower half.

use std::arch::asm;
use std::arch::x86_64::*;
use std::marker::PhantomData;

use half::{bf16, f16};

use super::tiles::{COLUMNS, PANEL, PANEL_LEN, STEP, TILE_LEN};
use super::{CHUNK, Chunk, Queries, UNIT};
use crate::kv_layer::E4m3;
use crate::memory::Element;

/// A stored type of keys and values.
pub(super) trait Stored: Element + Default {
    /// Whether a bf16 holds it, so that there is no `lo`.
    const EXACT: bool;
    /// Whether `hi` and `lo` together hold it, so that `lo` needs no rounding.
    const EXACT_IN_TWO: bool;
    /// Whether a value is to be multiplied by a scale.
    const SCALED: bool;

    /// Sixteen values.
    ///
    /// # Safety
    /// They can be read, and the CPU has AVX-512 F.
    unsafe fn widen(from: *const Self) -> __m512;
}

/// Implements [`Stored`] with an expression of intrinsics for a pointer to 16 values.
macro_rules! stored {
    ($($ty:ty: exact $exact:expr, in two $in_two:expr, scaled $scaled:expr, |$from:ident| $widen:expr;)*) => {$(
        impl Stored for $ty {
            const EXACT: bool = $exact;
            const EXACT_IN_TWO: bool = $in_two;
            const SCALED: bool = $scaled;

            #[inline(always)]
            unsafe fn widen($from: *const Self) -> __m512 {
                // SAFETY: the caller's contract.
                unsafe { $widen }
            }
        }
    )*};
}
stored! {
    f32: exact false, in two false, scaled false, |from| _mm512_loadu_ps(from);
    f16: exact false, in two true, scaled false, |from| widen_f16(from);
    bf16: exact true, in two true, scaled false, |from| {
        let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
    };
    // Codes are at most 127: seven bits.
    i8: exact true, in two true, scaled true, |from| {
        _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast())))
    };
    // Four bits. Looked up one by one: the type is a graphics processor's.
    E4m3: exact true, in two true, scaled false, |from| {
        let values: [f32; 16] = std::array::from_fn(|i| (*from.add(i)).to_f32());
        _mm512_loadu_ps(values.as_ptr())
    };
}

/// Sixteen f16 in one operation: the intrinsic would load first and then need a shuffle, on a port that the matrix unit wants too.
///
/// # Safety
/// They can be read.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn widen_f16(from: *const f16) -> __m512 {
    let widened;
    // SAFETY: the instruction is part of AVX-512 F and reads 32 bytes, which the caller vouches for.
    unsafe {
        asm!("vcvtph2ps {to}, ymmword ptr [{from}]", to = lateout(zmm_reg) widened, from = in(reg) from,
            options(pure, readonly, nostack, preserves_flags));
    }
    widened
}

/// The upper half of every f32.
const UPPER: i32 = 0xffff_0000_u32 as i32;

/// The upper halves of `first` and `second`, in pairs.
#[target_feature(enable = "avx512f")]
#[inline]
fn upper(first: __m512, second: __m512) -> __m512i {
    // Where the mask is 1 `second`, else `first` shifted down.
    const SELECT: i32 = 0b1110_0010;
    _mm512_ternarylogic_epi32::<SELECT>(
        _mm512_castps_si512(second),
        _mm512_set1_epi32(UPPER),
        _mm512_srli_epi32::<16>(_mm512_castps_si512(first)),
    )
}

/// `x` rounded to bf16.
#[target_feature(enable = "avx512f")]
#[inline]
fn nearest(x: __m512) -> __m512 {
    cut(_mm512_castsi512_ps(_mm512_add_epi32(
        _mm512_castps_si512(x),
        _mm512_set1_epi32(0x8000),
    )))
}

/// `x` cut to bf16.
#[target_feature(enable = "avx512f")]
#[inline]
fn cut(x: __m512) -> __m512 {
    _mm512_castsi512_ps(_mm512_and_si512(
        _mm512_castps_si512(x),
        _mm512_set1_epi32(UPPER),
    ))
}

/// `hi` and `lo` of two vectors, in pairs. `hi` is the nearest bf16, so that `lo` has either sign and is half as large; what `lo` cannot hold is cut.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn split(first: __m512, second: __m512) -> (__m512i, __m512i) {
    let [first_hi, second_hi] = [nearest(first), nearest(second)];
    let first_lo = _mm512_sub_ps(first, first_hi);
    let second_lo = _mm512_sub_ps(second, second_hi);
    (upper(first_hi, second_hi), upper(first_lo, second_lo))
}

/// The same with `lo` rounded to nearest.
#[target_feature(enable = "avx512f")]
#[inline]
fn split_rounded(first: __m512, second: __m512) -> (__m512i, __m512i) {
    let [first_hi, second_hi] = [nearest(first), nearest(second)];
    let first_lo = nearest(_mm512_sub_ps(first, first_hi));
    let second_lo = nearest(_mm512_sub_ps(second, second_hi));
    (upper(first_hi, second_hi), upper(first_lo, second_lo))
}

/// The same with `hi` cut too, which takes fewer operations: enough for values, since the weights that they meet have a rounded `hi`, and `lo · lo`,
/// which is neglected, is then as often too much as too little.
#[target_feature(enable = "avx512f")]
#[inline]
fn split_cut(first: __m512, second: __m512) -> (__m512i, __m512i) {
    let first_lo = _mm512_sub_ps(first, cut(first));
    let second_lo = _mm512_sub_ps(second, cut(second));
    (upper(first, second), upper(first_lo, second_lo))
}

/// Packs queries, scaled, as the left operand of scores: `[units, D / STEP, 2, UNIT, COLUMNS]`.
///
/// # Safety
/// The CPU has AVX-512 F.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn queries(queries: &Queries<'_>, to: &mut [f32]) {
    let steps = queries.head_dim.div_ceil(STEP);
    let part = UNIT * COLUMNS;
    for row in 0..queries.rows {
        let q = queries.row(row);
        let unit = &mut to[row / UNIT * steps * 2 * part..][..steps * 2 * part];
        for (step, q) in q.chunks(STEP).enumerate() {
            let mut padded = [0.0; STEP];
            padded[..q.len()].copy_from_slice(q);
            let at = step * 2 * part + row % UNIT * COLUMNS;
            let scale = _mm512_set1_ps(queries.scale);
            // SAFETY: `padded` is two vectors; `unit` has room for one at `at` and at `at + part`.
            unsafe {
                let first = _mm512_mul_ps(_mm512_loadu_ps(padded.as_ptr()), scale);
                let second = _mm512_mul_ps(_mm512_loadu_ps(padded.as_ptr().add(COLUMNS)), scale);
                let (hi, lo) = split_rounded(first, second);
                _mm512_storeu_si512(unit[at..][..COLUMNS].as_mut_ptr().cast(), hi);
                _mm512_storeu_si512(unit[at + part..][..COLUMNS].as_mut_ptr().cast(), lo);
            }
        }
    }
}

/// The keys or the values of a chunk, packed as a right operand when they are asked for: `[panels, steps, PANEL_LEN]`.
pub(super) struct Packed<'a, T> {
    chunk: &'a Chunk<'a>,
    to: &'a mut [f32],
    /// Whether what is packed stays for the units of rows that follow; else the room for two steps is used in turn.
    keep: bool,
    /// Panels of keys or steps of values that are there.
    ready: usize,
    stored: PhantomData<T>,
}

impl<'a, T: Stored> Packed<'a, T> {
    pub fn new(chunk: &'a Chunk<'a>, to: &'a mut [f32], keep: bool) -> Self {
        Self {
            chunk,
            to,
            keep,
            ready: 0,
            stored: PhantomData,
        }
    }

    /// Whether a panel of keys or a step of values has still to be packed.
    pub fn is_fresh(&self, index: usize) -> bool {
        !self.keep || index >= self.ready
    }

    /// To be called when so many panels of keys or steps of values are packed.
    pub fn set_ready(&mut self, count: usize) {
        self.ready = self.ready.max(count);
    }

    /// Where a step is packed to, the `index`-th of all steps of all panels.
    #[inline]
    fn room(&mut self, index: usize, step: usize) -> *mut u32 {
        let slot = if self.keep { index } else { step % 2 };
        self.to[slot * PANEL_LEN..][..PANEL_LEN].as_mut_ptr().cast()
    }

    /// Elements `step` of the keys of a panel, packed now if they are `fresh`.
    ///
    /// # Safety
    /// `T` is the type that is stored; the CPU has AVX-512 F.
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub unsafe fn keys(&mut self, panel: usize, step: usize, fresh: bool) -> *const u32 {
        let steps = self.chunk.kv.head_dim().div_ceil(STEP);
        let to = self.room(panel * steps + step, step);
        if fresh {
            let ahead = self.values_ahead(panel * steps + step);
            // SAFETY: there is room for a step; the rest is the caller's contract.
            unsafe { self.pack_keys(panel, step, to, ahead.unwrap_or(to.cast())) };
        }
        to
    }

    /// Positions `step` of the elements of the values that are a panel, packed now if they are `fresh`.
    ///
    /// # Safety
    /// As [`Packed::keys`].
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub unsafe fn values(&mut self, panel: usize, step: usize, fresh: bool) -> *const u32 {
        let steps = CHUNK / STEP;
        let to = self.room(panel * steps + step, step);
        if fresh {
            let ahead = self.keys_ahead(panel * steps + step);
            // SAFETY: there is room for a step; the rest is the caller's contract.
            unsafe { self.pack_values(panel, step, to, ahead.unwrap_or(to.cast())) };
        }
        to
    }

    /// What to fetch while the keys of a step are packed: as much of this chunk's values.
    fn values_ahead(&self, index: usize) -> Option<*const T> {
        let (block, at) = self.ahead(self.chunk.keys.start, index)?;
        let stored = self.chunk.kv.values(block, self.chunk.kv_head);
        Some(&raw const stored[at])
    }

    /// What to fetch while the values of a step are packed: as much of the next chunk's keys.
    fn keys_ahead(&self, index: usize) -> Option<*const T> {
        let next = self.chunk.continues.then_some(self.chunk.keys.end)?;
        let (block, at) = self.ahead(next, index)?;
        let stored = self.chunk.kv.keys(block, self.chunk.kv_head);
        Some(&raw const stored[at])
    }

    /// The block, and the element in it, that is so many steps of a panel after a position; about that if blocks have odd sizes.
    fn ahead(&self, position: usize, steps: usize) -> Option<(usize, usize)> {
        let kv = self.chunk.kv;
        let (element, len) = (steps * PANEL * STEP, kv.block_size() * kv.head_dim());
        let index = position / kv.block_size() + element / len;
        let block = *self.chunk.block_table.get(index)?;
        Some((block as usize, element % len))
    }

    /// # Safety
    /// As [`Packed::keys`]; `to` has room for a step.
    #[target_feature(enable = "avx512f")]
    unsafe fn pack_keys(&self, panel: usize, step: usize, to: *mut u32, ahead: *const T) {
        let (kv, keys) = (self.chunk.kv, &self.chunk.keys);
        let (block_size, head_dim) = (kv.block_size(), kv.head_dim());
        let first_dim = step * STEP;
        for tile in 0..PANEL / COLUMNS {
            let position = keys.start + panel * PANEL + tile * COLUMNS;
            if position >= keys.end {
                break; // no unit looks at columns beyond the last step of keys
            }
            let ahead = ahead.wrapping_add(tile * STEP * COLUMNS);
            // SAFETY: the caller's contract, for this tile.
            let to = unsafe { to.add(tile * 2 * TILE_LEN) };
            if block_size.is_multiple_of(COLUMNS) && first_dim + STEP <= head_dim {
                let block = self.chunk.block_table[position / block_size] as usize;
                let at = first_dim * block_size + position % block_size;
                let len = (STEP - 1) * block_size + COLUMNS;
                let stored = &kv.keys::<T>(block, self.chunk.kv_head)[at..][..len];
                // SAFETY: `stored` has 16 values for each of 32 rows (keys of the block that are beyond the context may be among them).
                unsafe {
                    pack_tile::<T, true>(|row| stored.as_ptr().add(row * block_size), to, ahead)
                };
            } else {
                let copied = self.copy_keys(position, first_dim);
                // SAFETY: these are 32 rows.
                unsafe { pack_tile::<T, true>(|row| copied[row].as_ptr(), to, ahead) };
            }
        }
    }

    /// Elements from `first_dim` on of the keys from `position` on: zeros where there are none.
    #[cold]
    fn copy_keys(&self, position: usize, first_dim: usize) -> [[T; COLUMNS]; STEP] {
        let (kv, keys) = (self.chunk.kv, &self.chunk.keys);
        let (block_size, head_dim) = (kv.block_size(), kv.head_dim());
        let mut rows = [[T::default(); COLUMNS]; STEP];
        for (column, position) in (position..keys.end.min(position + COLUMNS)).enumerate() {
            let block = self.chunk.block_table[position / block_size] as usize;
            let stored = kv.keys::<T>(block, self.chunk.kv_head);
            for (row, dim) in rows.iter_mut().zip(first_dim..head_dim) {
                row[column] = stored[dim * block_size + position % block_size];
            }
        }
        rows
    }

    /// # Safety
    /// As [`Packed::values`]; `to` has room for a step.
    #[target_feature(enable = "avx512f")]
    unsafe fn pack_values(&self, panel: usize, step: usize, to: *mut u32, ahead: *const T) {
        let head_dim = self.chunk.kv.head_dim();
        let rows = self.value_rows(step);
        let whole = rows.iter().all(|row| row.len() == head_dim);
        for tile in 0..PANEL / COLUMNS {
            let first_dim = panel * PANEL + tile * COLUMNS;
            if first_dim >= head_dim.next_multiple_of(STEP) {
                break; // no such columns
            }
            let ahead = ahead.wrapping_add(tile * STEP * COLUMNS);
            // SAFETY: the caller's contract, for this tile.
            let to = unsafe { to.add(tile * 2 * TILE_LEN) };
            if whole && first_dim + COLUMNS <= head_dim {
                // SAFETY: rows have `head_dim` values.
                unsafe {
                    pack_tile::<T, false>(|row| rows[row].as_ptr().add(first_dim), to, ahead)
                };
            } else {
                let copied = copy_values(&rows, first_dim);
                // SAFETY: these are 32 rows.
                unsafe { pack_tile::<T, false>(|row| copied[row].as_ptr(), to, ahead) };
            }
        }
    }

    /// The values at the positions of a step; empty for those that are no keys of this chunk.
    fn value_rows(&self, step: usize) -> [&'a [T]; STEP] {
        let (kv, keys) = (self.chunk.kv, &self.chunk.keys);
        let (block_size, head_dim) = (kv.block_size(), kv.head_dim());
        let mut rows: [&[T]; STEP] = [&[]; STEP];
        let mut position = keys.start + step * STEP;
        let end = keys.end.min(position + STEP);
        let mut rest = rows.iter_mut();
        while position < end {
            let (block, offset) = (position / block_size, position % block_size);
            let block = self.chunk.block_table[block] as usize;
            let stored = &kv.values::<T>(block, self.chunk.kv_head)[offset * head_dim..];
            let count = (block_size - offset).min(end - position);
            for (row, stored) in rest.by_ref().take(count).zip(stored.chunks_exact(head_dim)) {
                *row = stored;
            }
            position += count;
        }
        rows
    }
}

/// Elements from `first_dim` on of some values: zeros where there are none.
#[cold]
fn copy_values<T: Stored>(rows: &[&[T]; STEP], first_dim: usize) -> [[T; COLUMNS]; STEP] {
    rows.map(|row| {
        let mut copied = [T::default(); COLUMNS];
        let row = row.get(first_dim..).unwrap_or_default();
        for (to, from) in copied.iter_mut().zip(row) {
            *to = *from;
        }
        copied
    })
}

/// Packs a tile of a right operand: 16 rows of pairs `hi`, and `lo` if there is one; fetches as much from `ahead` into the second-level cache.
///
/// # Safety
/// `row` gives, for each of 32 rows, where 16 values can be read; `to` has room for two tiles.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn pack_tile<T: Stored, const KEYS: bool>(
    row: impl Fn(usize) -> *const T,
    to: *mut u32,
    ahead: *const T,
) {
    const LINE: usize = 64;
    let lines = (STEP * size_of::<T>()).div_ceil(LINE);
    for n in 0..STEP / 2 {
        let ahead = ahead.wrapping_add(n * STEP).cast::<u8>();
        for line in 0..lines {
            _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(line * LINE).cast());
        }
        // SAFETY: the caller's contract.
        unsafe {
            let (first, second) = (T::widen(row(n)), T::widen(row(n + STEP / 2)));
            let to = to.add(n * COLUMNS);
            if T::EXACT {
                _mm512_storeu_si512(to.cast(), upper(first, second));
            } else {
                let (hi, lo) = match (T::EXACT_IN_TWO, KEYS) {
                    (false, _) => split_rounded(first, second),
                    (true, true) => split(first, second),
                    (true, false) => split_cut(first, second),
                };
                _mm512_storeu_si512(to.cast(), hi);
                _mm512_storeu_si512(to.add(TILE_LEN).cast(), lo);
            }
        }
    }
}
