//! One configuration for every dense GLM, whatever file it came from.

mod family;
mod generation;
mod gguf;
mod json;
mod validate;

use std::path::Path;

use serde_json::{Value, json};

use crate::error::LoadError;

pub(crate) use family::SUPPORTED;
pub use generation::GenerationConfig;
pub(crate) use generation::{stop_tokens_from_gguf, stop_tokens_from_json};
pub use gguf::gguf_metadata;

/// The architecture and its hyperparameters.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ModelConfig {
    /// ChatGLM2/3, GLM-4-9B (`chatglm` and `glm`) and GLM-Edge: two norms per layer.
    Glm(DenseConfig),
    /// GLM-4-0414 and GLM-Z1 (`glm4`): a norm before and after each block.
    Glm4(DenseConfig),
}

/// Hyperparameters of a dense GLM, named as in `config.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct DenseConfig {
    /// Rows of the embedding and of the output layer (at least the tokenizer's size).
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Inner width of the gated MLP; `gate_up_proj` has twice as many rows.
    pub intermediate_size: usize,
    /// Number of decoder layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; divides `num_attention_heads`.
    pub num_key_value_heads: usize,
    /// Width of one head; `num_attention_heads * head_dim` may differ from `hidden_size`.
    pub head_dim: usize,
    /// Whether the query, key and value projections have a bias.
    pub attention_bias: bool,
    /// Leading elements of a head that are rotated, in interleaved pairs; even, at most `head_dim`.
    pub rotary_dim: usize,
    /// Base of the rotary frequencies: `inv_freq[i] = rope_theta^(-2i / rotary_dim)`.
    pub rope_theta: f64,
    /// How positions beyond the trained context are handled.
    pub rope_scaling: RopeScaling,
    /// Added to the mean square in every RMSNorm.
    pub rms_norm_eps: f64,
    /// Longest context in tokens.
    pub max_position_embeddings: usize,
    /// Whether the output layer is the embedding.
    pub tie_word_embeddings: bool,
    /// Tokens that end a reply, as the config lists them.
    pub eos_token_ids: Vec<u32>,
    /// Padding token.
    pub pad_token_id: Option<u32>,
}

/// Scaling of the rotary embedding.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum RopeScaling {
    /// None.
    None,
    /// Positions are divided by `factor`.
    Linear {
        /// Context extension factor, at least 1.
        factor: f64,
    },
    /// YaRN (arXiv:2309.00071), static: applied to short inputs too.
    Yarn {
        /// Context extension factor, at least 1.
        factor: f64,
        /// Context length of the original training.
        original_max_position_embeddings: usize,
        /// Rotations above which a frequency is kept; 32 by default.
        beta_fast: f64,
        /// Rotations below which a frequency is interpolated; 1 by default.
        beta_slow: f64,
        /// Multiplies cos and sin; `0.1 ln(factor) + 1` when absent.
        attention_factor: Option<f64>,
    },
}

impl DenseConfig {
    /// Longest context in tokens: what the model was made for, or what YaRN extends its original context to, if that is more.
    /// (The authors of GLM-4-0414 have people add `rope_scaling` for long inputs and leave `max_position_embeddings` as it is.)
    pub fn max_context(&self) -> usize {
        let extended = match self.rope_scaling {
            RopeScaling::Yarn {
                factor,
                original_max_position_embeddings,
                ..
            } => (original_max_position_embeddings as f64 * factor) as usize,
            RopeScaling::None | RopeScaling::Linear { .. } => 0,
        };
        extended
            .min(validate::MAX_POSITIONS)
            .max(self.max_position_embeddings)
    }

    /// The share of a head that is rotated, such that `head_dim` times it, cut to a whole number as readers do, is `rotary_dim`.
    fn partial_rotary_factor(&self) -> f64 {
        let factor = self.rotary_dim as f64 / self.head_dim as f64;
        if (self.head_dim as f64 * factor) as usize == self.rotary_dim {
            factor
        } else {
            factor.next_up()
        }
    }
}

impl ModelConfig {
    /// The hyperparameters.
    pub fn dense(&self) -> &DenseConfig {
        match self {
            Self::Glm(dense) | Self::Glm4(dense) => dense,
        }
    }

    /// The `model_type` that transformers uses for this graph: `glm` or `glm4`.
    pub fn architecture(&self) -> &'static str {
        match self {
            Self::Glm(_) => "glm",
            Self::Glm4(_) => "glm4",
        }
    }

    /// The `config.json` that transformers would write for this model.
    ///
    /// Reading it with [`ModelConfig::from_json`] gives an equal configuration.
    pub fn to_json(&self) -> Value {
        let dense = self.dense();
        let class = match self {
            Self::Glm(_) => "GlmForCausalLM",
            Self::Glm4(_) => "Glm4ForCausalLM",
        };
        json!({
            "architectures": [class],
            "model_type": self.architecture(),
            "vocab_size": dense.vocab_size,
            "hidden_size": dense.hidden_size,
            "intermediate_size": dense.intermediate_size,
            "num_hidden_layers": dense.num_hidden_layers,
            "num_attention_heads": dense.num_attention_heads,
            "num_key_value_heads": dense.num_key_value_heads,
            "head_dim": dense.head_dim,
            "hidden_act": "silu",
            "attention_bias": dense.attention_bias,
            "attention_dropout": 0.0,
            "max_position_embeddings": dense.max_position_embeddings,
            "partial_rotary_factor": dense.partial_rotary_factor(),
            "rms_norm_eps": dense.rms_norm_eps,
            "rope_theta": dense.rope_theta,
            "rope_scaling": dense.rope_scaling.to_json(),
            "tie_word_embeddings": dense.tie_word_embeddings,
            "eos_token_id": dense.eos_token_ids,
            "pad_token_id": dense.pad_token_id,
        })
    }

    /// Reads the text of a `config.json`; `file` is named in errors.
    ///
    /// ```
    /// use glm_core::ModelConfig;
    /// let text = r#"{"model_type": "glm4", "vocab_size": 151552, "hidden_size": 4096, "intermediate_size": 13696,
    ///     "num_hidden_layers": 40, "num_attention_heads": 32, "num_key_value_heads": 2, "attention_bias": true}"#;
    /// let config = ModelConfig::from_json(text, "config.json".as_ref())?;
    /// assert_eq!((config.dense().head_dim, config.dense().rotary_dim), (128, 64));
    /// # Ok::<(), glm_core::LoadError>(())
    /// ```
    ///
    /// # Errors
    /// [`LoadError::Json`], [`LoadError::Architecture`], [`LoadError::NotYet`], [`LoadError::MissingField`] or [`LoadError::Config`].
    pub fn from_json(text: &str, file: &Path) -> Result<Self, LoadError> {
        json::read(text, file)
    }

    /// Reads the metadata of a `.gguf` file, and from its tensors what the metadata leaves open: whether there is a bias, whether
    /// the output layer is tied.
    ///
    /// # Errors
    /// [`LoadError::Architecture`], [`LoadError::NotYet`], [`LoadError::MissingField`] or [`LoadError::Config`].
    pub fn from_gguf(reader: &crate::gguf::Reader) -> Result<Self, LoadError> {
        gguf::read(
            reader,
            &reader
                .tensors()
                .iter()
                .map(|t| (t.name.as_str(), t.shape.as_slice()))
                .collect(),
        )
    }

    /// As [`ModelConfig::from_gguf`], for a file whose tensors are spread over several.
    pub(crate) fn from_gguf_parts(
        reader: &crate::gguf::Reader,
        tensors: &gguf::Shapes<'_>,
    ) -> Result<Self, LoadError> {
        gguf::read(reader, tensors)
    }

    /// The metadata that llama.cpp needs to read this model from a GGUF file, without its tokenizer.
    ///
    /// Without tokenizer metadata the file should say `tokenizer.ggml.model = "no_vocab"`.
    pub fn to_gguf(&self) -> Vec<(String, crate::gguf::Value)> {
        gguf_metadata(self)
    }
}

impl RopeScaling {
    fn to_json(self) -> Value {
        match self {
            Self::None => Value::Null,
            Self::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
            Self::Yarn {
                factor,
                original_max_position_embeddings,
                beta_fast,
                beta_slow,
                attention_factor,
            } => json!({
                "rope_type": "yarn",
                "factor": factor,
                "original_max_position_embeddings": original_max_position_embeddings,
                "beta_fast": beta_fast,
                "beta_slow": beta_slow,
                "attention_factor": attention_factor,
            }),
        }
    }
}
