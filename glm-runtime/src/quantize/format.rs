//! What the matrices of a file become: one format for all of them, or one of llama.cpp's mixes.

use std::fmt;
use std::str::FromStr;

use glm_kernels::{KernelError, WeightFormat};
use serde::{Serialize, Serializer};

use crate::load::{TensorSpec, format_for};

/// The formats of a whole file, by the name that llama.cpp's `llama-quantize` gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileFormat {
    /// The same for every matrix.
    Uniform(WeightFormat),
    /// `q4_k` with what matters most in `q6_k`: the output head, and value and down projections of about half the layers.
    Q4KM,
    /// The same with `q5_k` in place of `q4_k`.
    Q5KM,
}

impl FileFormat {
    /// The format of most matrices.
    pub const fn base(self) -> WeightFormat {
        match self {
            Self::Uniform(format) => format,
            Self::Q4KM => WeightFormat::Q4K,
            Self::Q5KM => WeightFormat::Q5K,
        }
    }

    /// `general.file_type` of a file; source: `llama_ftype` in llama.cpp's `llama.h`.
    pub(super) const fn file_type(self) -> u32 {
        match self {
            Self::Uniform(WeightFormat::F16) => 1,
            Self::Uniform(WeightFormat::Q4_0) => 2,
            Self::Uniform(WeightFormat::Q4_1) => 3,
            Self::Uniform(WeightFormat::Q8_0) => 7,
            Self::Uniform(WeightFormat::Q5_0) => 8,
            Self::Uniform(WeightFormat::Q5_1) => 9,
            Self::Uniform(WeightFormat::Q4K) => 14, // the `S` mixes are nearest
            Self::Q4KM => 15,
            Self::Uniform(WeightFormat::Q5K) => 16,
            Self::Q5KM => 17,
            Self::Uniform(WeightFormat::Q6K) => 18,
            Self::Uniform(WeightFormat::BF16) => 32,
            Self::Uniform(_) => 0,
        }
    }

    /// The format that the tensor is written in, for a model of `layers` layers whose output head is the embedding if
    /// `tied`. Rows that do not divide into blocks fall back as everywhere.
    pub(super) fn of_tensor(self, stored: &TensorSpec, layers: usize, tied: bool) -> WeightFormat {
        let wanted = match self {
            Self::Uniform(format) => format,
            Self::Q4KM | Self::Q5KM if counts_more(&stored.name, layers, tied) => WeightFormat::Q6K,
            Self::Q4KM | Self::Q5KM => self.base(),
        };
        format_for(stored, Some(wanted))
    }
}

/// Whether the `M` mixes keep a tensor in `q6_k`: its rounding hurts more than its size.
///
/// Source: `llama_tensor_get_type_impl` in llama.cpp's `llama-quant.cpp`, dense models other than Falcon.
fn counts_more(name: &str, layers: usize, tied: bool) -> bool {
    if name == "lm_head.weight" || (tied && name == "model.embed_tokens.weight") {
        return true;
    }
    let layer = name
        .strip_prefix("model.layers.")
        .and_then(|rest| rest.split_once('.'));
    let Some((Ok(layer), tensor)) = layer.map(|(number, rest)| (number.parse::<usize>(), rest))
    else {
        return false;
    };
    // The first and the last eighth, and every third in between.
    let eighth = layers / 8;
    let ends = layer < eighth || layer >= 7 * layers / 8;
    matches!(tensor, "self_attn.v_proj.weight" | "mlp.down_proj.weight")
        && (ends || (layer - eighth) % 3 == 2)
}

impl From<WeightFormat> for FileFormat {
    fn from(format: WeightFormat) -> Self {
        Self::Uniform(format)
    }
}

impl fmt::Display for FileFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uniform(format) => format.fmt(f),
            Self::Q4KM => f.pad("q4_k_m"),
            Self::Q5KM => f.pad("q5_k_m"),
        }
    }
}

impl FromStr for FileFormat {
    type Err = KernelError;

    /// Reads a name in any of the spellings that [`WeightFormat`] takes, and `q4_k_m` and `q5_k_m` likewise.
    fn from_str(text: &str) -> Result<Self, KernelError> {
        let plain = text.trim().replace(['_', '-'], "").to_ascii_lowercase();
        match plain.as_str() {
            "q4km" => Ok(Self::Q4KM),
            "q5km" => Ok(Self::Q5KM),
            _ => text.parse().map(Self::Uniform),
        }
    }
}

impl Serialize for FileFormat {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, columns: usize) -> TensorSpec {
        TensorSpec {
            name: name.to_owned(),
            shape: vec![512, columns],
            format: WeightFormat::BF16,
        }
    }

    #[test]
    fn names_are_read_back() {
        for format in [
            FileFormat::Q4KM,
            FileFormat::Q5KM,
            WeightFormat::Q8_0.into(),
        ] {
            assert_eq!(format.to_string().parse(), Ok(format));
            assert_eq!(format.to_string().to_uppercase().parse(), Ok(format));
        }
        assert!("q4_k_x".parse::<FileFormat>().is_err());
    }

    /// The layers that `llama-quantize` of llama.cpp names for a model of 28 layers.
    #[test]
    fn the_mix_spends_bits_where_llama_cpp_does() {
        let more: Vec<usize> = (0..28)
            .filter(|layer| {
                let name = format!("model.layers.{layer}.mlp.down_proj.weight");
                FileFormat::Q4KM.of_tensor(&spec(&name, 2048), 28, true) == WeightFormat::Q6K
            })
            .collect();
        assert_eq!(more, [0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 24, 25, 26, 27]);
        let format = |name, tied| FileFormat::Q4KM.of_tensor(&spec(name, 2048), 28, tied);
        use WeightFormat as W;
        assert_eq!(
            format("model.layers.0.self_attn.v_proj.weight", true),
            W::Q6K
        );
        assert_eq!(
            format("model.layers.0.self_attn.k_proj.weight", true),
            W::Q4K
        );
        assert_eq!(format("model.embed_tokens.weight", true), W::Q6K);
        assert_eq!(format("model.embed_tokens.weight", false), W::Q4K);
        assert_eq!(format("lm_head.weight", false), W::Q6K);
    }

    #[test]
    fn rows_that_are_not_whole_blocks_fall_back_from_either_format() {
        let format = |layer| {
            let name = format!("model.layers.{layer}.mlp.down_proj.weight");
            FileFormat::Q4KM.of_tensor(&spec(&name, 13696), 40, false)
        };
        assert_eq!(format(0), WeightFormat::Q8_0);
        assert_eq!(format(6), WeightFormat::Q5_0);
    }
}
