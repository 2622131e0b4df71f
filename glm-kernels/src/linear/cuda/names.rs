//! The names of kernels by format: each format of `formats.cu` has its own.

use crate::WeightFormat;

/// Calls `$name!(..., "q4_k")` for the format's own name.
macro_rules! with_name {
    ($format:expr, $name:ident) => {
        match $format {
            WeightFormat::F32 => $name!("f32"),
            WeightFormat::F16 => $name!("f16"),
            WeightFormat::BF16 => $name!("bf16"),
            WeightFormat::Q4_0 => $name!("q4_0"),
            WeightFormat::Q4_1 => $name!("q4_1"),
            WeightFormat::Q5_0 => $name!("q5_0"),
            WeightFormat::Q5_1 => $name!("q5_1"),
            WeightFormat::Q8_0 => $name!("q8_0"),
            WeightFormat::Q2K => $name!("q2_k"),
            WeightFormat::Q3K => $name!("q3_k"),
            WeightFormat::Q4K => $name!("q4_k"),
            WeightFormat::Q5K => $name!("q5_k"),
            WeightFormat::Q6K => $name!("q6_k"),
            WeightFormat::Iq4Nl => $name!("iq4_nl"),
            WeightFormat::Iq4Xs => $name!("iq4_xs"),
            WeightFormat::Int4 => $name!("int4"),
            WeightFormat::Fp8 => $name!("fp8"),
        }
    };
}

/// The kernel for `tokens` tokens at once: 1, 2, 4 or 8.
pub(super) fn gemv(format: WeightFormat, tokens: u32) -> &'static str {
    macro_rules! name {
        ($name:literal) => {
            match tokens {
                1 => concat!("linear_gemv_", $name, "_1"),
                2 => concat!("linear_gemv_", $name, "_2"),
                4 => concat!("linear_gemv_", $name, "_4"),
                _ => concat!("linear_gemv_", $name, "_8"),
            }
        };
    }
    with_name!(format, name)
}

/// The kernel with tiles of `tokens` tokens: 16, 64 or 128.
pub(super) fn gemm(format: WeightFormat, tokens: u32) -> &'static str {
    macro_rules! name {
        ($name:literal) => {
            match tokens {
                16 => concat!("linear_gemm_", $name, "_16"),
                64 => concat!("linear_gemm_", $name, "_64"),
                _ => concat!("linear_gemm_", $name, "_128"),
            }
        };
    }
    with_name!(format, name)
}

/// The kernel that reads rows.
pub(super) fn rows(format: WeightFormat) -> &'static str {
    macro_rules! name {
        ($name:literal) => {
            concat!("linear_rows_", $name)
        };
    }
    with_name!(format, name)
}
