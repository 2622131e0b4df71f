//! The storage formats of a weight: three float types and the block formats of GGML.

use std::fmt;
use std::str::FromStr;

use crate::KernelError;

/// How the values of a weight are stored. The block formats have GGML's on-disk layout (`ggml-common.h` of llama.cpp).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum WeightFormat {
    /// 32-bit floats.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an f32.
    BF16,
    /// 4 bits, blocks of 32: `d * (q - 8)`.
    Q4_0,
    /// 4 bits, blocks of 32: `d * q + m`.
    Q4_1,
    /// 5 bits, blocks of 32: `d * (q - 16)`.
    Q5_0,
    /// 5 bits, blocks of 32: `d * q + m`.
    Q5_1,
    /// 8 bits, blocks of 32: `d * q`.
    Q8_0,
    /// 2 bits, 16 sub-blocks of 16 with 4-bit scales and minima.
    Q2K,
    /// 3 bits, 16 sub-blocks of 16 with 6-bit scales.
    Q3K,
    /// 4 bits, 8 sub-blocks of 32 with 6-bit scales and minima.
    Q4K,
    /// 5 bits, 8 sub-blocks of 32 with 6-bit scales and minima.
    Q5K,
    /// 6 bits, 16 sub-blocks of 16 with 8-bit scales.
    Q6K,
    /// 4 bits into a table of 16 values, blocks of 32.
    Iq4Nl,
    /// 4 bits into the same table, 8 sub-blocks of 32 with 6-bit scales.
    Iq4Xs,
    /// 4 bits, blocks of 128: `d * (q - 8)`. In no file, and on graphics processors only.
    Int4,
    /// 8-bit floats, 4 bits of exponent and 3 of fraction (e4m3), blocks of 128: `d * q / 256`. In no file, and on graphics processors only.
    Fp8,
}

impl WeightFormat {
    /// Every format that files and the CPU have.
    pub const ALL: [Self; 15] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Iq4Nl,
        Self::Iq4Xs,
    ];

    /// The formats that graphics processors have beside [`ALL`](Self::ALL), to be rounded to when a model is loaded.
    pub const CUDA_ONLY: [Self; 2] = [Self::Int4, Self::Fp8];

    /// How many values a block holds; a row is a whole number of blocks.
    pub const fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 | Self::Iq4Nl => 32,
            Self::Int4 | Self::Fp8 => 128,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K | Self::Iq4Xs => 256,
        }
    }

    /// How many bytes a block takes.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q4_0 | Self::Iq4Nl => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2K => 84,
            Self::Q3K => 110,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
            Self::Iq4Xs => 136,
            Self::Int4 => 66,
            Self::Fp8 => 130,
        }
    }

    /// How many bytes a row of `cols` values takes; `None` if that is not a whole number of blocks, or more than `usize` counts.
    pub const fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_len()) {
            return None;
        }
        (cols / self.block_len()).checked_mul(self.block_bytes())
    }

    /// Whether the values are integers with scales, rather than floats.
    pub const fn is_quantized(self) -> bool {
        self.block_len() > 1
    }

    /// The lower-case name that llama.cpp prints, such as `q4_k`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
            Self::Q5_0 => "q5_0",
            Self::Q5_1 => "q5_1",
            Self::Q8_0 => "q8_0",
            Self::Q2K => "q2_k",
            Self::Q3K => "q3_k",
            Self::Q4K => "q4_k",
            Self::Q5K => "q5_k",
            Self::Q6K => "q6_k",
            Self::Iq4Nl => "iq4_nl",
            Self::Iq4Xs => "iq4_xs",
            Self::Int4 => "int4",
            Self::Fp8 => "fp8",
        }
    }
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for WeightFormat {
    type Err = KernelError;

    /// Reads a name whatever its case and with or without underscores and hyphens: `q4_k`, `Q4_K`, `Q4K`, `q4-k`.
    fn from_str(text: &str) -> Result<Self, KernelError> {
        let plain = |name: &str| name.replace(['_', '-'], "").to_ascii_lowercase();
        let wanted = plain(text.trim());
        let found = (Self::ALL.into_iter())
            .chain(Self::CUDA_ONLY)
            .find(|format| plain(format.name()) == wanted);
        found.ok_or_else(|| KernelError::UnknownFormat(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_in_any_spelling() {
        for format in (WeightFormat::ALL.into_iter()).chain(WeightFormat::CUDA_ONLY) {
            let name = format.to_string();
            let spellings = [
                name.clone(),
                name.to_uppercase(),
                name.replace('_', ""),
                name.replace('_', "-"),
                format!(" {name} "),
            ];
            for spelling in spellings {
                assert_eq!(spelling.parse::<WeightFormat>(), Ok(format), "{spelling}");
            }
        }
        assert_eq!(
            "q9_k".parse::<WeightFormat>(),
            Err(KernelError::UnknownFormat("q9_k".into()))
        );
    }

    #[test]
    fn a_row_is_whole_blocks() {
        assert_eq!(WeightFormat::Q8_0.row_bytes(64), Some(68));
        assert_eq!(WeightFormat::Q8_0.row_bytes(48), None);
        assert_eq!(WeightFormat::Q6K.row_bytes(512), Some(420));
        assert_eq!(WeightFormat::Q4K.row_bytes(128), None);
        assert_eq!(WeightFormat::BF16.row_bytes(7), Some(14));
        assert_eq!(WeightFormat::F32.row_bytes(usize::MAX), None);
    }
}
