//! Intel's matrix unit (AMX): eight registers, tiles, of up to 16 rows of 64 bytes, and one instruction that multiplies two of them into a third.
//!
//! Rust has no stable intrinsics for it, so the instructions are written as assembly. The compiler itself never touches a tile (stable Rust has no
//! type that would live in one), so tiles keep their content from one function here to the next, on the same thread.
//!
//! With `C` of `M` rows of 16 lanes, `A` of `M` rows of up to 64 bytes and `B` of as many rows as `A` has groups of four bytes:
//! `C[m][n] += Σ_k A[m][k] · B[k][n]`, where an element of `A` and `B` is a group of four bytes or of two bf16, multiplied and summed pairwise.
//! The unit takes a row of `A` per cycle whatever its width. Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1,
//! chapter 18.

use std::arch::asm;
use std::marker::PhantomData;

use crate::Amx;

/// Rows of a tile, at most.
pub(crate) const TILE_ROWS: usize = 16;

/// The shape of the eight tiles, as `ldtilecfg` reads it.
#[repr(C, align(64))]
pub(crate) struct TileShapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    /// Bytes of a row.
    columns: [u16; 16],
    rows: [u8; 16],
}

impl TileShapes {
    /// `[rows, bytes of a row]` of each tile.
    ///
    /// # Panics
    /// If a tile is larger than 16 rows of 64 bytes, or empty.
    pub const fn new(shapes: [[usize; 2]; 8]) -> Self {
        let mut new = Self {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            columns: [0; 16],
            rows: [0; 16],
        };
        let mut tile = 0;
        while tile < 8 {
            let [rows, columns] = shapes[tile];
            assert!(rows >= 1 && rows <= TILE_ROWS && columns >= 1 && columns <= 64);
            new.rows[tile] = rows as u8;
            new.columns[tile] = columns as u16;
            tile += 1;
        }
        new
    }
}

/// The matrix unit, configured for this thread until dropped. Tiles start as zeros.
///
/// Dropping gives the tiles up, so that the system need not save 8 KiB whenever it switches threads.
pub(crate) struct Tiles {
    /// The configuration is the thread's own.
    not_send: PhantomData<*const ()>,
}

impl Tiles {
    /// Gives the tiles their shapes.
    pub fn configure(_proof: Amx, shapes: &TileShapes) -> Self {
        // SAFETY: an `Amx` exists only where the CPU has the unit and the system lets this process use it; `TileShapes::new` makes valid shapes.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) shapes, options(nostack, preserves_flags, readonly))
        };
        Self {
            not_send: PhantomData,
        }
    }

    /// Changes the shapes; all tiles become zeros.
    pub fn reconfigure(&mut self, shapes: &TileShapes) {
        // SAFETY: as in `configure`.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) shapes, options(nostack, preserves_flags, readonly))
        };
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: a value of this type exists only where the unit is usable.
        unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) };
    }
}

// All of these need a live `Tiles` on this thread, whose shapes say how many rows and bytes they touch.

/// Tile `T` becomes zeros.
///
/// # Safety
/// A [`Tiles`] is live on this thread.
#[inline(always)]
pub(crate) unsafe fn zero<const T: usize>() {
    // SAFETY: the caller's contract.
    unsafe { asm!("tilezero tmm{t}", t = const T, options(nostack, preserves_flags, nomem)) };
}

/// Loads the rows of tile `T`, `stride` bytes apart.
///
/// # Safety
/// A [`Tiles`] is live on this thread; every row is readable.
#[inline(always)]
pub(crate) unsafe fn load<const T: usize>(rows: *const u8, stride: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        asm!("tileloadd tmm{t}, [{rows} + {stride}]", t = const T, rows = in(reg) rows, stride = in(reg) stride,
            options(nostack, preserves_flags, readonly));
    }
}

/// Stores the rows of tile `T`, `stride` bytes apart.
///
/// # Safety
/// A [`Tiles`] is live on this thread; every row is writable.
#[inline(always)]
pub(crate) unsafe fn store<const T: usize>(rows: *mut u8, stride: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        asm!("tilestored [{rows} + {stride}], tmm{t}", t = const T, rows = in(reg) rows, stride = in(reg) stride,
            options(nostack, preserves_flags));
    }
}

/// `C += A · B` of signed bytes, in 32-bit integers.
///
/// # Safety
/// A [`Tiles`] is live on this thread, with shapes that fit each other as the module says.
#[inline(always)]
pub(crate) unsafe fn dot_i8<const C: usize, const A: usize, const B: usize>() {
    // SAFETY: the caller's contract.
    unsafe {
        asm!("tdpbssd tmm{c}, tmm{a}, tmm{b}", c = const C, a = const A, b = const B, options(nostack, preserves_flags, nomem));
    }
}

/// `C += A · B` of bf16, in f32: products are exact, denormals count as zero, and even and odd elements are summed apart before they meet `C`.
///
/// # Safety
/// As [`dot_i8`].
#[inline(always)]
pub(crate) unsafe fn dot_bf16<const C: usize, const A: usize, const B: usize>() {
    // SAFETY: the caller's contract.
    unsafe {
        asm!("tdpbf16ps tmm{c}, tmm{a}, tmm{b}", c = const C, a = const A, b = const B, options(nostack, preserves_flags, nomem));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    #[test]
    fn integer_products_are_those_of_the_definition() {
        let Some(cpu) = Amx::detect() else {
            println!("skipped: no AMX here");
            return;
        };
        let a: Vec<i8> = (0..5 * 32).map(|i| (i * 37 % 251) as i8).collect();
        let b: Vec<i8> = (0..8 * 64).map(|i| (i * 91 % 255) as i8).collect();
        let mut c = [[i32::MIN; 16]; 5];
        let shape = [[5, 64], [5, 32], [8, 64]];
        let _tiles = Tiles::configure(
            cpu,
            &TileShapes::new(std::array::from_fn(|i| shape[i.min(2)])),
        );
        // SAFETY: the tiles are configured, with the sizes of these arrays.
        unsafe {
            zero::<0>();
            load::<1>(a.as_ptr().cast(), 32);
            load::<2>(b.as_ptr().cast(), 64);
            dot_i8::<0, 1, 2>();
            store::<0>(c.as_mut_ptr().cast(), 64);
        }
        for (m, row) in c.iter().enumerate() {
            for (n, got) in row.iter().enumerate() {
                let want: i32 = (0..32)
                    .map(|k| i32::from(a[32 * m + k]) * i32::from(b[64 * (k / 4) + 4 * n + k % 4]))
                    .sum();
                assert_eq!(*got, want, "[{m}, {n}]");
            }
        }
    }

    #[test]
    fn bf16_products_are_those_of_the_definition() {
        let Some(cpu) = Amx::detect() else {
            println!("skipped: no AMX here");
            return;
        };
        let a: Vec<bf16> = (0..16 * 32)
            .map(|i| bf16::from_f32((i * 37 % 64) as f32 - 32.0))
            .collect();
        let b: Vec<bf16> = (0..16 * 32)
            .map(|i| bf16::from_f32((i * 91 % 64) as f32 * 0.5))
            .collect();
        let mut c = [[f32::NAN; 16]; 16];
        let _tiles = Tiles::configure(cpu, &TileShapes::new([[16, 64]; 8]));
        // SAFETY: the tiles are configured, with the sizes of these arrays.
        unsafe {
            zero::<3>();
            load::<6>(a.as_ptr().cast(), 64);
            load::<7>(b.as_ptr().cast(), 64);
            dot_bf16::<3, 6, 7>();
            store::<3>(c.as_mut_ptr().cast(), 64);
        }
        for (m, row) in c.iter().enumerate() {
            for (n, got) in row.iter().enumerate() {
                let want: f32 = (0..32)
                    .map(|k| a[32 * m + k].to_f32() * b[32 * (k / 2) + 2 * n + k % 2].to_f32())
                    .sum();
                assert_eq!(*got, want, "[{m}, {n}]"); // small integers and halves: sums are exact
            }
        }
    }
}
