//! What matrices become: one format for all of them, or one of llama.cpp's mixes.

use std::fmt;
use std::str::FromStr;

use glm_core::DenseConfig;
use glm_kernels::{Device, KernelError, WeightFormat, quant};
use serde::{Serialize, Serializer};

use crate::error::BuildError;

/// How a model is quantised, while it is loaded or into a file; by the names that llama.cpp's `llama-quantize` has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Quantization {
    /// Every matrix to the same format.
    Uniform(WeightFormat),
    /// To `q4_k`, and what matters most to `q6_k`: the output head, and value and down projections of about half the layers. Query, key and
    /// value in one matrix go to `q5_k`.
    Q4KM,
    /// The same with `q5_k` in place of `q4_k`, and `q6_k` in place of `q5_k`.
    Q5KM,
}

impl Quantization {
    /// Everything that can be asked for, of a file or on the CPU.
    pub fn all() -> impl Iterator<Item = Self> + Clone {
        WeightFormat::ALL
            .into_iter()
            .filter(|&format| quant::can_quantize(format))
            .map(Self::Uniform)
            .chain([Self::Q4KM, Self::Q5KM])
    }

    /// Everything that can be asked for on a graphics processor.
    pub fn all_on_cuda() -> impl Iterator<Item = Self> + Clone {
        let more = WeightFormat::CUDA_ONLY.into_iter();
        Self::all().chain(more.map(Self::Uniform))
    }

    /// The same, if it is among [`all`](Self::all).
    pub(crate) fn checked(self) -> Result<Self, BuildError> {
        self.one_of(Self::all())
    }

    /// The same, if weights on `device` can have it.
    pub(crate) fn checked_on(self, device: &Device) -> Result<Self, BuildError> {
        match device.cuda_info() {
            Some(_) => self.one_of(Self::all_on_cuda()),
            None => self.checked(),
        }
    }

    fn one_of(self, possible: impl Iterator<Item = Self> + Clone) -> Result<Self, BuildError> {
        if possible.clone().any(|possible| possible == self) {
            return Ok(self);
        }
        let possible: Vec<_> = possible.map(|possible| possible.to_string()).collect();
        Err(BuildError::CannotQuantize {
            format: self.to_string(),
            possible: possible.join(", "),
        })
    }

    /// Whether the matrix called `name` stays as it is. With the formats of graphics processors the embedding and the output head do, as in checkpoints
    /// that are published in such formats: they are not searched for the least error of a product, and the head decides between tokens.
    pub(super) fn leaves(self, name: &str) -> bool {
        matches!(self, Self::Uniform(format) if WeightFormat::CUDA_ONLY.contains(&format))
            && matches!(name, "lm_head.weight" | "model.embed_tokens.weight")
    }

    /// The format of most matrices.
    pub const fn base(self) -> WeightFormat {
        match self {
            Self::Uniform(format) => format,
            Self::Q4KM => WeightFormat::Q4K,
            Self::Q5KM => WeightFormat::Q5K,
        }
    }

    /// `general.file_type` of a file; source: `llama_ftype` in llama.cpp's `llama.h`.
    pub(crate) const fn file_type(self) -> u32 {
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

    /// The format that the matrix called `name` is to have, if its rows are whole blocks of it.
    ///
    /// Source: `llama_tensor_get_type_impl` in llama.cpp's `llama-quant.cpp`, dense models other than Falcon.
    pub(super) fn format_of(self, name: &str, config: &DenseConfig) -> WeightFormat {
        let (base, fused) = match self {
            Self::Uniform(format) => return format,
            Self::Q4KM => (WeightFormat::Q4K, WeightFormat::Q5K),
            Self::Q5KM => (WeightFormat::Q5K, WeightFormat::Q6K),
        };
        let is_head = name == "lm_head.weight"
            || (config.tie_word_embeddings && name == "model.embed_tokens.weight");
        let in_layer = name
            .strip_prefix("model.layers.")
            .and_then(|rest| rest.split_once('.'))
            .and_then(|(layer, tensor)| Some((layer.parse().ok()?, tensor)));
        match in_layer {
            _ if is_head => WeightFormat::Q6K,
            Some((_, "self_attn.qkv_proj.weight")) => fused,
            Some((layer, "self_attn.v_proj.weight" | "mlp.down_proj.weight"))
                if counts_more(layer, config.num_hidden_layers) =>
            {
                WeightFormat::Q6K
            }
            _ => base,
        }
    }
}

/// Whether rounding hurts more in this layer: the first and the last eighth, and every third in between.
fn counts_more(layer: usize, layers: usize) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}

impl From<WeightFormat> for Quantization {
    fn from(format: WeightFormat) -> Self {
        Self::Uniform(format)
    }
}

impl fmt::Display for Quantization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uniform(format) => format.fmt(f),
            Self::Q4KM => f.pad("q4_k_m"),
            Self::Q5KM => f.pad("q5_k_m"),
        }
    }
}

impl FromStr for Quantization {
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

impl Serialize for Quantization {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use glm_core::ModelConfig;
    use std::path::Path;

    /// A model of so many layers whose output head is the embedding if `tied`.
    pub(crate) fn config(layers: usize, tied: bool) -> DenseConfig {
        let json = format!(
            r#"{{"model_type":"glm4","vocab_size":64,"hidden_size":32,"intermediate_size":32,"num_hidden_layers":{layers},
            "num_attention_heads":2,"num_key_value_heads":1,"max_position_embeddings":64,"tie_word_embeddings":{tied}}}"#
        );
        let config = ModelConfig::from_json(&json, Path::new("config.json")).unwrap();
        config.dense().clone()
    }

    #[test]
    fn names_are_read_back() {
        for format in [
            Quantization::Q4KM,
            Quantization::Q5KM,
            WeightFormat::Q8_0.into(),
        ] {
            assert_eq!(format.to_string().parse(), Ok(format));
            assert_eq!(format.to_string().to_uppercase().parse(), Ok(format));
        }
        assert!("q4_k_x".parse::<Quantization>().is_err());
    }

    /// The layers that `llama-quantize` of llama.cpp names for a model of 28 layers.
    #[test]
    fn the_mix_spends_bits_where_llama_cpp_does() {
        use WeightFormat as W;
        let format = |name: &str, tied| Quantization::Q4KM.format_of(name, &config(28, tied));
        let more: Vec<usize> = (0..28)
            .filter(|layer| {
                format(&format!("model.layers.{layer}.mlp.down_proj.weight"), true) == W::Q6K
            })
            .collect();
        assert_eq!(more, [0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 24, 25, 26, 27]);
        for (name, tied, expected) in [
            ("model.layers.0.self_attn.v_proj.weight", true, W::Q6K),
            ("model.layers.0.self_attn.k_proj.weight", true, W::Q4K),
            ("model.layers.0.self_attn.qkv_proj.weight", true, W::Q5K),
            ("model.embed_tokens.weight", true, W::Q6K),
            ("model.embed_tokens.weight", false, W::Q4K),
            ("lm_head.weight", false, W::Q6K),
        ] {
            assert_eq!(format(name, tied), expected, "{name}");
        }
    }

    #[test]
    fn the_cpu_does_not_take_the_formats_of_graphics_processors() {
        let device = Device::cpu(Default::default()).unwrap();
        for format in WeightFormat::CUDA_ONLY.map(Quantization::Uniform) {
            assert_eq!(format.to_string().parse(), Ok(format));
            let error = format.checked_on(&device).unwrap_err().to_string();
            assert!(error.contains(&format.to_string()), "{error}");
            assert!(Quantization::all_on_cuda().any(|possible| possible == format));
            assert!(format.leaves("lm_head.weight"));
            assert!(!format.leaves("model.layers.0.mlp.down_proj.weight"));
        }
        assert!(!Quantization::Q4KM.leaves("lm_head.weight"));
    }

    #[test]
    fn what_cannot_be_made_is_refused_with_what_can() {
        assert_eq!(Quantization::Q5KM.checked().unwrap(), Quantization::Q5KM);
        let error = Quantization::Uniform(WeightFormat::Iq4Xs)
            .checked()
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("`iq4_xs`") && error.contains("q4_k, "),
            "{error}"
        );
        assert!(error.ends_with("q4_k_m, q5_k_m"), "{error}");
    }
}
