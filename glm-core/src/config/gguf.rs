//! The configuration in a GGUF file's metadata: llama.cpp's architectures `chatglm` and `glm4`.

use std::collections::HashMap;
use std::path::Path;

use super::validate::{FieldNames, check, config_error};
use super::{DenseConfig, ModelConfig, RopeScaling, family, stop_tokens_from_gguf};
use crate::error::LoadError;
use crate::gguf::{Reader, Value};
use crate::names;

/// Shapes by the file's tensor names.
pub(crate) type Shapes<'a> = HashMap<&'a str, &'a [usize]>;

pub(super) fn read(reader: &Reader, tensors: &Shapes<'_>) -> Result<ModelConfig, LoadError> {
    let file = reader.path();
    let architecture = match reader.value("general.architecture") {
        Some(Value::String(name)) => name.as_str(),
        _ => {
            return Err(LoadError::MissingField {
                file: file.to_path_buf(),
                field: "general.architecture".into(),
            });
        }
    };
    let (sections, wrap, names): (_, fn(DenseConfig) -> ModelConfig, _) = match architecture {
        "chatglm" => (
            "chatglm.rope.dimension_sections",
            ModelConfig::Glm,
            &CHATGLM_NAMES,
        ),
        "glm4" => (
            "glm4.rope.dimension_sections",
            ModelConfig::Glm4,
            &GLM4_NAMES,
        ),
        other => return Err(family::unsupported(file, other)),
    };
    if reader.value(sections).is_some() {
        // The converter has reordered the rotary rows of such files, and their positions have three axes.
        return Err(family::not_yet(
            file,
            architecture,
            "the text model of GLM-4.1V and its relatives",
        ));
    }
    let keys = Keys {
        reader,
        file,
        prefix: architecture,
    };
    let dense = dense(&keys, tensors)?;
    check(&dense, names, file)?;
    Ok(wrap(dense))
}

const CHATGLM_NAMES: FieldNames = FieldNames {
    vocab_size: "rows of token_embd.weight",
    hidden_size: "chatglm.embedding_length",
    intermediate_size: "chatglm.feed_forward_length",
    num_hidden_layers: "chatglm.block_count",
    num_attention_heads: "chatglm.attention.head_count",
    num_key_value_heads: "chatglm.attention.head_count_kv",
    head_dim: "chatglm.attention.key_length",
    rotary_dim: "chatglm.rope.dimension_count",
    rope_theta: "chatglm.rope.freq_base",
    rope_scaling: "chatglm.rope.scaling",
    rms_norm_eps: "chatglm.attention.layer_norm_rms_epsilon",
    max_position_embeddings: "chatglm.context_length",
};

const GLM4_NAMES: FieldNames = FieldNames {
    vocab_size: "rows of token_embd.weight",
    hidden_size: "glm4.embedding_length",
    intermediate_size: "glm4.feed_forward_length",
    num_hidden_layers: "glm4.block_count",
    num_attention_heads: "glm4.attention.head_count",
    num_key_value_heads: "glm4.attention.head_count_kv",
    head_dim: "glm4.attention.key_length",
    rotary_dim: "glm4.rope.dimension_count",
    rope_theta: "glm4.rope.freq_base",
    rope_scaling: "glm4.rope.scaling",
    rms_norm_eps: "glm4.attention.layer_norm_rms_epsilon",
    max_position_embeddings: "glm4.context_length",
};

fn dense(keys: &Keys<'_>, tensors: &Shapes<'_>) -> Result<DenseConfig, LoadError> {
    let hidden_size = keys.size("embedding_length")?;
    let num_attention_heads = keys.size("attention.head_count")?;
    let head_dim = head_dim(keys, hidden_size, num_attention_heads)?;
    let max_position_embeddings = keys.size("context_length")?;
    Ok(DenseConfig {
        vocab_size: vocab_size(keys, tensors)?,
        hidden_size,
        intermediate_size: keys.size("feed_forward_length")?,
        num_hidden_layers: keys.size("block_count")?,
        num_attention_heads,
        num_key_value_heads: keys
            .optional_size("attention.head_count_kv")?
            .unwrap_or(num_attention_heads),
        head_dim,
        attention_bias: names::gguf_has_attention_bias(|name| tensors.contains_key(name)),
        rotary_dim: keys
            .optional_size("rope.dimension_count")?
            .unwrap_or(head_dim),
        rope_theta: keys.float("rope.freq_base")?.unwrap_or(10_000.0),
        rope_scaling: rope_scaling(keys, max_position_embeddings)?,
        rms_norm_eps: keys
            .float("attention.layer_norm_rms_epsilon")?
            .ok_or_else(|| keys.missing("attention.layer_norm_rms_epsilon"))?,
        max_position_embeddings,
        tie_word_embeddings: !tensors.contains_key(names::GGUF_OUTPUT),
        eos_token_ids: stop_tokens_from_gguf(keys.reader),
        pad_token_id: keys
            .reader
            .value("tokenizer.ggml.padding_token_id")
            .and_then(Value::as_u32),
    })
}

fn head_dim(
    keys: &Keys<'_>,
    hidden_size: usize,
    num_attention_heads: usize,
) -> Result<usize, LoadError> {
    let Some(key_length) = keys.optional_size("attention.key_length")? else {
        if num_attention_heads == 0 || !hidden_size.is_multiple_of(num_attention_heads) {
            let expected = format!(
                "a divisor of {}.embedding_length = {hidden_size}",
                keys.prefix
            );
            return Err(config_error(
                keys.file,
                &keys.name("attention.head_count"),
                expected,
                num_attention_heads.to_string(),
            ));
        }
        return Ok(hidden_size / num_attention_heads);
    };
    match keys.optional_size("attention.value_length")? {
        Some(value_length) if value_length != key_length => {
            let expected = format!("{key_length}, as attention.key_length");
            Err(config_error(
                keys.file,
                &keys.name("attention.value_length"),
                expected,
                value_length.to_string(),
            ))
        }
        _ => Ok(key_length),
    }
}

/// The rows of the embedding count; metadata and token list must not contradict them.
fn vocab_size(keys: &Keys<'_>, tensors: &Shapes<'_>) -> Result<usize, LoadError> {
    let Some(&[rows, _]) = tensors.get(names::GGUF_EMBEDDING) else {
        let (file, tensor) = (keys.file.to_path_buf(), "model.embed_tokens.weight".into());
        return Err(LoadError::MissingTensor {
            file,
            tensor,
            expected: Vec::new(),
        });
    };
    let expected = format!("{rows}, the rows of {}", names::GGUF_EMBEDDING);
    if let Some(size) = keys.optional_size("vocab_size")?
        && size != *rows
    {
        return Err(config_error(
            keys.file,
            &keys.name("vocab_size"),
            expected,
            size.to_string(),
        ));
    }
    match keys
        .reader
        .value("tokenizer.ggml.tokens")
        .and_then(Value::as_strings)
    {
        Some(tokens) if tokens.len() > *rows => Err(config_error(
            keys.file,
            "tokenizer.ggml.tokens",
            format!("at most {expected}"),
            format!("{} tokens", tokens.len()),
        )),
        _ => Ok(*rows),
    }
}

fn rope_scaling(keys: &Keys<'_>, max_position_embeddings: usize) -> Result<RopeScaling, LoadError> {
    let kind = keys.text("rope.scaling.type")?;
    let factor = || {
        keys.float("rope.scaling.factor")?
            .ok_or_else(|| keys.missing("rope.scaling.factor"))
    };
    match kind {
        None => match keys.float("rope.scale_linear")? {
            Some(factor) if factor != 1.0 => Ok(RopeScaling::Linear { factor }),
            _ => Ok(RopeScaling::None),
        },
        Some("none") => Ok(RopeScaling::None),
        Some("linear") => Ok(RopeScaling::Linear { factor: factor()? }),
        Some("yarn") => {
            let factor = factor()?;
            // llama.cpp multiplies its attn_factor with 0.1 ln(factor) + 1, which transformers' attention_factor replaces.
            let attention_factor = keys
                .float("rope.scaling.attn_factor")?
                .map(|share| share * default_attention_factor(factor));
            Ok(RopeScaling::Yarn {
                factor,
                original_max_position_embeddings: keys
                    .optional_size("rope.scaling.original_context_length")?
                    .unwrap_or(max_position_embeddings),
                beta_fast: keys.float("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                beta_slow: keys.float("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
                attention_factor,
            })
        }
        Some(other) => {
            let field = keys.name("rope.scaling.type");
            Err(config_error(
                keys.file,
                &field,
                "none, linear or yarn".into(),
                format!("`{other}`"),
            ))
        }
    }
}

/// The factor on cos and sin that the YaRN paper recommends (arXiv:2309.00071, section 3.4).
fn default_attention_factor(factor: f64) -> f64 {
    0.1 * factor.ln() + 1.0
}

/// Metadata of one architecture: `<prefix>.<key>`.
struct Keys<'a> {
    reader: &'a Reader,
    file: &'a Path,
    prefix: &'a str,
}

impl<'a> Keys<'a> {
    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.prefix)
    }

    fn typed<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, LoadError> {
        let name = self.name(key);
        let Some(value) = self.reader.value(&name) else {
            return Ok(None);
        };
        let wrong = || {
            config_error(
                self.file,
                &name,
                expected.to_owned(),
                format!("a value of type {}", value.type_name()),
            )
        };
        read(value).map(Some).ok_or_else(wrong)
    }

    fn optional_size(&self, key: &str) -> Result<Option<usize>, LoadError> {
        self.typed(key, "a whole number, not negative", |value| {
            value.as_u64().and_then(|v| usize::try_from(v).ok())
        })
    }

    fn size(&self, key: &str) -> Result<usize, LoadError> {
        self.optional_size(key)?.ok_or_else(|| self.missing(key))
    }

    fn float(&self, key: &str) -> Result<Option<f64>, LoadError> {
        // f32 metadata of a value such as 1e-5 is meant as that decimal, not as its binary neighbour.
        let decimal = |value: &Value| match value {
            Value::F32(v) => v.to_string().parse().ok(),
            other => other.as_f64(),
        };
        self.typed(key, "a float", decimal)
    }

    fn text(&self, key: &str) -> Result<Option<&'a str>, LoadError> {
        self.typed(key, "a text", Value::as_str)
    }

    fn missing(&self, key: &str) -> LoadError {
        LoadError::MissingField {
            file: self.file.to_path_buf(),
            field: self.name(key),
        }
    }
}

/// The metadata that llama.cpp needs to read a model, without its tokenizer.
pub fn gguf_metadata(config: &ModelConfig) -> Vec<(String, Value)> {
    let dense = config.dense();
    let architecture = match config {
        ModelConfig::Glm(_) => "chatglm",
        ModelConfig::Glm4(_) => "glm4",
    };
    let mut metadata = vec![("general.architecture".to_owned(), Value::from(architecture))];
    let mut put = |key: &str, value: Value| metadata.push((format!("{architecture}.{key}"), value));
    // llama.cpp reads sizes as 32-bit; the configuration's limits keep all of them in range.
    let size = |value: usize| Value::U32(u32::try_from(value).unwrap_or(u32::MAX));
    put("vocab_size", size(dense.vocab_size));
    put("block_count", size(dense.num_hidden_layers));
    put("context_length", size(dense.max_position_embeddings));
    put("embedding_length", size(dense.hidden_size));
    put("feed_forward_length", size(dense.intermediate_size));
    put("attention.head_count", size(dense.num_attention_heads));
    put("attention.head_count_kv", size(dense.num_key_value_heads));
    put("attention.key_length", size(dense.head_dim));
    put("attention.value_length", size(dense.head_dim));
    put(
        "attention.layer_norm_rms_epsilon",
        Value::F32(dense.rms_norm_eps as f32),
    );
    put("rope.dimension_count", size(dense.rotary_dim));
    put("rope.freq_base", Value::F32(dense.rope_theta as f32));
    match dense.rope_scaling {
        RopeScaling::None => {}
        RopeScaling::Linear { factor } => {
            put("rope.scaling.type", Value::from("linear"));
            put("rope.scaling.factor", Value::F32(factor as f32));
        }
        RopeScaling::Yarn {
            factor,
            original_max_position_embeddings,
            beta_fast,
            beta_slow,
            attention_factor,
        } => {
            put("rope.scaling.type", Value::from("yarn"));
            put("rope.scaling.factor", Value::F32(factor as f32));
            put(
                "rope.scaling.original_context_length",
                size(original_max_position_embeddings),
            );
            put("rope.scaling.yarn_beta_fast", Value::F32(beta_fast as f32));
            put("rope.scaling.yarn_beta_slow", Value::F32(beta_slow as f32));
            if let Some(attention) = attention_factor {
                put(
                    "rope.scaling.attn_factor",
                    Value::F32((attention / default_attention_factor(factor)) as f32),
                );
            }
        }
    }
    metadata
}
