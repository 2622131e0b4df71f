//! Products of packed operands, tile by tile.
//!
//! The unit starts a product of 16 rows every 16 cycles and takes 52 for it, so four accumulators must be in turn: two by two tiles where there
//! are more than 16 rows, one by four else. Either way an element of the result is the same sum in the same order: step by step, and within a step
//! `hi·lo`, `hi·hi`, `lo·hi`.

use super::pack::Stored;
use crate::amx::{TILE_ROWS, TileShapes, dot_bf16, load, store, zero};

/// Columns of a tile.
pub(super) const COLUMNS: usize = 16;
/// Elements of the inner dimension that one product takes, as 16 pairs.
pub(super) const STEP: usize = 32;
/// Pairs in a tile.
pub(super) const TILE_LEN: usize = 16 * COLUMNS;
/// Columns of a right operand that are packed together: four tiles.
pub(super) const PANEL: usize = 4 * COLUMNS;
/// Pairs in a step of a panel, `[PANEL / COLUMNS, 2, 16, COLUMNS]`: tile after tile, `hi` and `lo`.
pub(super) const PANEL_LEN: usize = 4 * 2 * TILE_LEN;

/// Bytes of a pair.
const PAIR: usize = size_of::<u32>();
/// Bytes of a row of a packed tile.
const TILE_ROW: usize = COLUMNS * PAIR;

/// The shapes of the eight tiles for a unit of `rows` rows.
pub(super) fn shapes(rows: usize) -> TileShapes {
    let (first, second) = (rows.min(TILE_ROWS), rows.saturating_sub(TILE_ROWS));
    let [a, b, right] = [first, second, TILE_ROWS].map(|rows| [rows, TILE_ROW]);
    TileShapes::new(if second == 0 {
        [a, a, a, a, a, a, right, right]
    } else {
        [a, a, b, b, a, b, right, right]
    })
}

/// Where the tiles of a left operand lie; distances in pairs.
#[derive(Clone, Copy)]
pub(super) struct Left {
    pub base: *const u32,
    /// From a step to the next.
    pub step: usize,
    /// From `hi` to `lo`.
    pub part: usize,
    /// From a row to the next.
    pub row: usize,
}

impl Left {
    /// Loads a tile: rows of `group` 0 (the first 16) or 1, `part` 0 (`hi`) or 1 (`lo`).
    ///
    /// # Safety
    /// As [`multiply`].
    #[inline(always)]
    unsafe fn load<const T: usize>(&self, step: usize, group: usize, part: usize) {
        // SAFETY: the caller's contract.
        unsafe {
            let at = step * self.step + part * self.part + group * TILE_ROWS * self.row;
            load::<T>(self.base.add(at).cast(), self.row * PAIR);
        }
    }
}

/// Loads a tile of a right operand.
///
/// # Safety
/// As [`multiply`].
#[inline(always)]
unsafe fn load_right<const T: usize>(panel: *const u32, column_tile: usize, part: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        load::<T>(
            panel.add((2 * column_tile + part) * TILE_LEN).cast(),
            TILE_ROW,
        );
    }
}

/// The product of a unit's `rows` with the first `tiles` (2 or 4) tiles of a panel, into rows `to_stride` apart.
///
/// `right` gives the panel's part for a step; it is asked again for the second half of the panel if the rows are more than 16, with `false`.
///
/// # Safety
/// The tiles are configured by [`shapes`] for so many rows; operands and result have room for what is said here.
#[inline(always)]
pub(super) unsafe fn multiply<T: Stored>(
    rows: usize,
    tiles: usize,
    steps: usize,
    left: Left,
    mut right: impl FnMut(usize, bool) -> *const u32,
    to: *mut f32,
    to_stride: usize,
) {
    // SAFETY: the caller's contract.
    unsafe {
        if rows > TILE_ROWS {
            for pair in 0..tiles / 2 {
                let right = |step| right(step, pair == 0).add(2 * pair * 2 * TILE_LEN);
                two_by_two::<T>(steps, left, right, to.add(2 * pair * COLUMNS), to_stride);
            }
        } else {
            let right = |step| right(step, true);
            match tiles {
                2 => one_by::<T, 2>(steps, left, right, to, to_stride),
                _ => one_by::<T, 4>(steps, left, right, to, to_stride),
            }
        }
    }
}

/// # Safety
/// As [`multiply`].
#[inline(always)]
unsafe fn two_by_two<T: Stored>(
    steps: usize,
    left: Left,
    mut right: impl FnMut(usize) -> *const u32,
    to: *mut f32,
    to_stride: usize,
) {
    // SAFETY: the caller's contract.
    unsafe {
        zero::<0>();
        zero::<1>();
        zero::<2>();
        zero::<3>();
        for step in 0..steps {
            let panel = right(step);
            left.load::<4>(step, 0, 0);
            left.load::<5>(step, 1, 0);
            if !T::EXACT {
                load_right::<6>(panel, 0, 1);
                load_right::<7>(panel, 1, 1);
                two_by_two_products();
            }
            load_right::<6>(panel, 0, 0);
            load_right::<7>(panel, 1, 0);
            two_by_two_products();
            left.load::<4>(step, 0, 1);
            left.load::<5>(step, 1, 1);
            two_by_two_products();
        }
        let stride = to_stride * size_of::<f32>();
        let second = to.add(TILE_ROWS * to_stride);
        store::<0>(to.cast(), stride);
        store::<1>(to.add(COLUMNS).cast(), stride);
        store::<2>(second.cast(), stride);
        store::<3>(second.add(COLUMNS).cast(), stride);
    }
}

/// # Safety
/// As [`multiply`].
#[inline(always)]
unsafe fn two_by_two_products() {
    // SAFETY: the caller's contract.
    unsafe {
        dot_bf16::<0, 4, 6>();
        dot_bf16::<1, 4, 7>();
        dot_bf16::<2, 5, 6>();
        dot_bf16::<3, 5, 7>();
    }
}

/// One tile of rows by `TILES` (2 or 4) tiles of columns.
///
/// # Safety
/// As [`multiply`].
#[inline(always)]
unsafe fn one_by<T: Stored, const TILES: usize>(
    steps: usize,
    left: Left,
    mut right: impl FnMut(usize) -> *const u32,
    to: *mut f32,
    to_stride: usize,
) {
    // SAFETY: the caller's contract.
    unsafe {
        zero::<0>();
        zero::<1>();
        if TILES == 4 {
            zero::<2>();
            zero::<3>();
        }
        for step in 0..steps {
            let panel = right(step);
            left.load::<4>(step, 0, 0);
            left.load::<5>(step, 0, 1);
            if !T::EXACT {
                products_with_lo::<0, 1>(panel);
                if TILES == 4 {
                    products_with_lo::<2, 3>(panel);
                }
            }
            products_with_hi::<0, 1>(panel);
            if TILES == 4 {
                products_with_hi::<2, 3>(panel);
            }
        }
        let stride = to_stride * size_of::<f32>();
        store::<0>(to.cast(), stride);
        store::<1>(to.add(COLUMNS).cast(), stride);
        if TILES == 4 {
            store::<2>(to.add(2 * COLUMNS).cast(), stride);
            store::<3>(to.add(3 * COLUMNS).cast(), stride);
        }
    }
}

/// `hi·lo` of the rows and columns `A` and `B`, into the accumulators of the same numbers.
///
/// # Safety
/// As [`multiply`].
#[inline(always)]
unsafe fn products_with_lo<const A: usize, const B: usize>(panel: *const u32) {
    // SAFETY: the caller's contract.
    unsafe {
        load_right::<6>(panel, A, 1);
        load_right::<7>(panel, B, 1);
        dot_bf16::<A, 4, 6>();
        dot_bf16::<B, 4, 7>();
    }
}

/// `hi·hi` and `lo·hi`, likewise.
///
/// # Safety
/// As [`multiply`].
#[inline(always)]
unsafe fn products_with_hi<const A: usize, const B: usize>(panel: *const u32) {
    // SAFETY: the caller's contract.
    unsafe {
        load_right::<6>(panel, A, 0);
        load_right::<7>(panel, B, 0);
        dot_bf16::<A, 4, 6>();
        dot_bf16::<B, 4, 7>();
        dot_bf16::<A, 5, 6>();
        dot_bf16::<B, 5, 7>();
    }
}
