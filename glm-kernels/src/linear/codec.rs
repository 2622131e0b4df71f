//! The formats as types, so that a kernel is compiled once for each.

use super::lanes::Lanes;
use super::layout::Layout;
use crate::WeightFormat;

/// A quantised format.
pub(super) trait Codec {
    /// Its packed layout.
    const LAYOUT: Layout;
}

/// A float format.
pub(super) trait Float {
    /// Columns whose values lie together, row by row: 1 or 2.
    const COLUMNS: usize;
    /// Bytes of a value.
    const BYTES: usize;

    /// Loads the values of [`COLUMNS`](Float::COLUMNS) columns, a lane per row, as f32; with one column the second vector is the first.
    ///
    /// # Safety
    /// As the methods of [`Lanes`]; `COLUMNS * L::ROWS` values are read.
    unsafe fn load<L: Lanes>(bytes: *const u8) -> [L::F; 2];
}

macro_rules! quantized_formats {
    ($($format:ident),*) => {$(
        pub(super) struct $format;
        impl Codec for $format {
            const LAYOUT: Layout = Layout::of(WeightFormat::$format);
        }
    )*};
}
quantized_formats!(
    Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2K, Q3K, Q4K, Q5K, Q6K, Iq4Nl, Iq4Xs
);

macro_rules! float_formats {
    ($($format:ident: [$columns:literal, $bytes:literal], |$at:ident| $load:expr);*) => {$(
        pub(super) struct $format;
        impl Float for $format {
            const COLUMNS: usize = $columns;
            const BYTES: usize = $bytes;
            #[inline(always)]
            unsafe fn load<L: Lanes>($at: *const u8) -> [L::F; 2] {
                // SAFETY: the caller's contract is that of `Lanes`.
                unsafe { $load }
            }
        }
    )*};
}
float_formats! {
    F32: [1, 4], |at| [L::load_f32(at); 2];
    F16: [1, 2], |at| [L::load_f16(at); 2];
    BF16: [2, 2], |at| L::load_bf16_pairs(at)
}

/// Evaluates the expression with `$C` the type of a quantised format.
macro_rules! with_quantized {
    ($format:expr, $C:ident => $run:expr) => {
        $crate::linear::codec::with_quantized!(@ $format, $C => $run; Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2K, Q3K, Q4K, Q5K, Q6K, Iq4Nl, Iq4Xs)
    };
    (@ $format:expr, $C:ident => $run:expr; $($name:ident),*) => {
        match $format {
            $($crate::WeightFormat::$name => { type $C = $crate::linear::codec::$name; $run })*
            $crate::WeightFormat::F32 | $crate::WeightFormat::F16 | $crate::WeightFormat::BF16 => unreachable!("a float format has no codes"),
            $crate::WeightFormat::Int4 | $crate::WeightFormat::Fp8 => unreachable!("no weight of the CPU has such a format"),
        }
    };
}
pub(super) use with_quantized;

/// Evaluates the expression with `$HALVES` and `$MINIMA` the constants that tell the quantised format `$C` apart from others once it is unpacked:
/// whether scales are those of 16 columns, not 32, and whether there are minima. (A constant of a type parameter cannot be a parameter of a function.)
macro_rules! with_form {
    ($C:ident, $HALVES:ident, $MINIMA:ident => $run:expr) => {{
        use $crate::linear::layout::Minimum;
        let layout = const { $C::LAYOUT };
        match (layout.sub_block == 16, layout.minimum != Minimum::None) {
            (false, false) => $crate::linear::codec::with_form!(@ $HALVES false, $MINIMA false => $run),
            (false, true) => $crate::linear::codec::with_form!(@ $HALVES false, $MINIMA true => $run),
            (true, false) => $crate::linear::codec::with_form!(@ $HALVES true, $MINIMA false => $run),
            (true, true) => $crate::linear::codec::with_form!(@ $HALVES true, $MINIMA true => $run),
        }
    }};
    (@ $HALVES:ident $halves:literal, $MINIMA:ident $minima:literal => $run:expr) => {{
        const $HALVES: bool = $halves;
        const $MINIMA: bool = $minima;
        $run
    }};
}
pub(super) use with_form;

/// Evaluates the expression with `$E` the type of a float format.
macro_rules! with_float {
    ($format:expr, $E:ident => $run:expr) => {
        match $format {
            $crate::WeightFormat::F32 => {
                type $E = $crate::linear::codec::F32;
                $run
            }
            $crate::WeightFormat::F16 => {
                type $E = $crate::linear::codec::F16;
                $run
            }
            $crate::WeightFormat::BF16 => {
                type $E = $crate::linear::codec::BF16;
                $run
            }
            format => unreachable!("{format} is not a float format"),
        }
    };
}
pub(super) use with_float;
