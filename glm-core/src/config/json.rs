//! `config.json`, as transformers and the remote code of `chatglm` write it.

use std::path::Path;

use serde_json::{Map, Value};

use super::validate::{FieldNames, check, config_error};
use super::{DenseConfig, ModelConfig, RopeScaling, family};
use crate::error::LoadError;

/// Base of the rotary frequencies when the file does not say.
const DEFAULT_ROPE_THETA: f64 = 10_000.0;

pub(super) fn read(text: &str, file: &Path) -> Result<ModelConfig, LoadError> {
    let root = serde_json::from_str(text).map_err(|source| LoadError::Json {
        file: file.to_path_buf(),
        source,
    })?;
    let Value::Object(fields) = root else {
        return Err(config_error(
            file,
            "config",
            "a JSON object".into(),
            type_of(&root).into(),
        ));
    };
    let fields = Fields {
        fields: &fields,
        file,
        prefix: "",
    };
    let config = match fields
        .string("model_type")?
        .ok_or_else(|| fields.missing("model_type"))?
    {
        "chatglm" => ModelConfig::Glm(chatglm(&fields)?),
        "glm" => ModelConfig::Glm(dense(&fields, 1.5625e-7, "glm")?),
        "glm4" => ModelConfig::Glm4(dense(&fields, 1.5625e-7, "glm4")?),
        other => return Err(family::unsupported(file, other)),
    };
    let names = if fields.string("model_type")? == Some("chatglm") {
        &CHATGLM_NAMES
    } else {
        &NAMES
    };
    check(config.dense(), names, file)?;
    Ok(config)
}

const NAMES: FieldNames = FieldNames {
    vocab_size: "vocab_size",
    hidden_size: "hidden_size",
    intermediate_size: "intermediate_size",
    num_hidden_layers: "num_hidden_layers",
    num_attention_heads: "num_attention_heads",
    num_key_value_heads: "num_key_value_heads",
    head_dim: "head_dim",
    rotary_dim: "partial_rotary_factor",
    rope_theta: "rope_theta",
    rope_scaling: "rope_scaling",
    rms_norm_eps: "rms_norm_eps",
    max_position_embeddings: "max_position_embeddings",
};

const CHATGLM_NAMES: FieldNames = FieldNames {
    vocab_size: "padded_vocab_size",
    intermediate_size: "ffn_hidden_size",
    num_hidden_layers: "num_layers",
    num_key_value_heads: "multi_query_group_num",
    head_dim: "kv_channels",
    rotary_dim: "kv_channels",
    rope_theta: "rope_ratio",
    rope_scaling: "rope_ratio",
    rms_norm_eps: "layernorm_epsilon",
    max_position_embeddings: "seq_length",
    ..NAMES
};

/// `glm` and `glm4`; `default_eps` and the other defaults are those of transformers' configuration classes.
fn dense(
    fields: &Fields<'_>,
    default_eps: f64,
    model_type: &str,
) -> Result<DenseConfig, LoadError> {
    if fields.fields.contains_key("vision_config") {
        return Err(family::not_yet(fields.file, model_type, "GLM-Edge-V"));
    }
    fields.require_str("hidden_act", "silu")?;
    fields.refuse_quantization()?;
    let hidden_size = fields.size("hidden_size")?;
    let num_attention_heads = fields.size("num_attention_heads")?;
    let head_dim = match fields.optional_size("head_dim")? {
        Some(head_dim) => head_dim,
        None => fields.divide(
            "hidden_size",
            hidden_size,
            "num_attention_heads",
            num_attention_heads,
        )?,
    };
    // transformers 5 writes one dict; before, the same fields were flat, `rope_scaling` being null or a dict.
    let parameters = fields.object("rope_parameters")?;
    let scaling = match fields.object("rope_scaling")? {
        Some(scaling) => Some(scaling),
        None => fields.object("rope_parameters")?,
    };
    let nested = |name: &str| {
        parameters
            .as_ref()
            .map(|nested| nested.number(name))
            .transpose()
            .map(Option::flatten)
    };
    let rope_theta = nested("rope_theta")?
        .or(fields.number("rope_theta")?)
        .unwrap_or(DEFAULT_ROPE_THETA);
    let factor = nested("partial_rotary_factor")?
        .or(fields.number("partial_rotary_factor")?)
        .unwrap_or(0.5);
    if !(0.0..=1.0).contains(&factor) {
        return Err(config_error(
            fields.file,
            "partial_rotary_factor",
            "a number from 0 to 1".into(),
            factor.to_string(),
        ));
    }
    let max_position_embeddings = fields
        .optional_size("max_position_embeddings")?
        .unwrap_or(131_072);
    Ok(DenseConfig {
        vocab_size: fields.size("vocab_size")?,
        hidden_size,
        intermediate_size: fields.size("intermediate_size")?,
        num_hidden_layers: fields.size("num_hidden_layers")?,
        num_attention_heads,
        num_key_value_heads: fields
            .optional_size("num_key_value_heads")?
            .unwrap_or(num_attention_heads),
        head_dim,
        attention_bias: fields.boolean("attention_bias")?.unwrap_or(true),
        rotary_dim: (head_dim as f64 * factor) as usize,
        rope_theta,
        rope_scaling: rope_scaling(fields, scaling.as_ref(), max_position_embeddings)?,
        rms_norm_eps: fields.number("rms_norm_eps")?.unwrap_or(default_eps),
        max_position_embeddings,
        tie_word_embeddings: fields.boolean("tie_word_embeddings")?.unwrap_or(false),
        eos_token_ids: fields.token_ids("eos_token_id")?,
        pad_token_id: fields.token_ids("pad_token_id")?.first().copied(),
    })
}

/// The remote code of ChatGLM2/3 and GLM-4-9B; defaults are those of its `ChatGLMConfig`.
fn chatglm(fields: &Fields<'_>) -> Result<DenseConfig, LoadError> {
    if fields.fields.contains_key("vision_config") {
        return Err(family::not_yet(
            fields.file,
            "chatglm",
            "GLM-4V-9B, CogAgent-9B",
        ));
    }
    if fields.fields.contains_key("position_encoding_2d")
        || !fields.fields.contains_key("padded_vocab_size")
    {
        return Err(family::not_yet(
            fields.file,
            "chatglm",
            "ChatGLM-6B, the first generation",
        ));
    }
    // The remote code can build other graphs; no published checkpoint asks for one.
    for (field, expected) in [
        ("rmsnorm", true),
        ("post_layer_norm", true),
        ("original_rope", true),
        ("add_bias_linear", false),
        ("apply_residual_connection_post_layernorm", false),
    ] {
        fields.require_bool(field, expected)?;
    }
    if fields
        .optional_size("quantization_bit")?
        .is_some_and(|bits| bits != 0)
    {
        return Err(config_error(
            fields.file,
            "quantization_bit",
            "0 (give the unquantised checkpoint)".into(),
            "a bit count".into(),
        ));
    }
    fields.refuse_quantization()?;
    let num_attention_heads = fields.size("num_attention_heads")?;
    let multi_query = fields.boolean("multi_query_attention")?.unwrap_or(false);
    let head_dim = fields.optional_size("kv_channels")?.unwrap_or(128);
    let rope_ratio = fields.number("rope_ratio")?.unwrap_or(1.0);
    let (rope_theta, rope_scaling) = if rope_ratio != 1.0 && is_chatglm2(fields)? {
        (
            DEFAULT_ROPE_THETA,
            RopeScaling::Linear { factor: rope_ratio },
        )
    } else {
        (DEFAULT_ROPE_THETA * rope_ratio, RopeScaling::None)
    };
    let layers = if fields.fields.contains_key("num_layers") {
        "num_layers"
    } else {
        "num_hidden_layers"
    };
    Ok(DenseConfig {
        vocab_size: fields.size("padded_vocab_size")?,
        hidden_size: fields.size("hidden_size")?,
        intermediate_size: fields.size("ffn_hidden_size")?,
        num_hidden_layers: fields.size(layers)?,
        num_attention_heads,
        num_key_value_heads: if multi_query {
            fields.size("multi_query_group_num")?
        } else {
            num_attention_heads
        },
        head_dim,
        attention_bias: fields.boolean("add_qkv_bias")?.unwrap_or(false),
        rotary_dim: head_dim / 2,
        rope_theta,
        rope_scaling,
        rms_norm_eps: fields.number("layernorm_epsilon")?.unwrap_or(1e-5),
        max_position_embeddings: fields.optional_size("seq_length")?.unwrap_or(2048),
        tie_word_embeddings: fields.boolean("tie_word_embeddings")?.unwrap_or(false),
        eos_token_ids: fields.token_ids("eos_token_id")?,
        pad_token_id: fields.token_ids("pad_token_id")?.first().copied(),
    })
}

/// ChatGLM2-6B-32k divides positions by `rope_ratio`; every later model multiplies the base by it. The configurations differ in
/// nothing but the name they were published under, or the directory where that is missing.
fn is_chatglm2(fields: &Fields<'_>) -> Result<bool, LoadError> {
    let name = match fields.string("_name_or_path")? {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => fields
            .file
            .parent()
            .map(|parent| parent.to_string_lossy().into_owned())
            .unwrap_or_default(),
    };
    Ok(name.to_ascii_lowercase().contains("chatglm2"))
}

/// `rope_scaling` (with `type` or `rope_type`), or the same keys inside `rope_parameters`.
fn rope_scaling(
    fields: &Fields<'_>,
    scaling: Option<&Fields<'_>>,
    max_position_embeddings: usize,
) -> Result<RopeScaling, LoadError> {
    let Some(scaling) = scaling else {
        return Ok(RopeScaling::None);
    };
    if scaling
        .fields
        .get("mrope_section")
        .is_some_and(|section| !section.is_null())
    {
        return Err(family::not_yet(
            fields.file,
            "mrope_section",
            "GLM-4.1V and other models with three position axes",
        ));
    }
    let kind = match scaling.string("rope_type")? {
        Some(kind) => Some(kind),
        None => scaling.string("type")?,
    };
    let factor = || {
        scaling
            .number("factor")?
            .ok_or_else(|| scaling.missing("factor"))
    };
    match kind.unwrap_or("default") {
        "default" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear { factor: factor()? }),
        "yarn" => Ok(RopeScaling::Yarn {
            factor: factor()?,
            original_max_position_embeddings: scaling
                .optional_size("original_max_position_embeddings")?
                .unwrap_or(max_position_embeddings),
            beta_fast: scaling.number("beta_fast")?.unwrap_or(32.0),
            beta_slow: scaling.number("beta_slow")?.unwrap_or(1.0),
            attention_factor: attention_factor(scaling)?,
        }),
        other => {
            let field = format!("{}rope_type", scaling.prefix);
            Err(config_error(
                fields.file,
                &field,
                "default, linear or yarn".into(),
                format!("`{other}`"),
            ))
        }
    }
}

/// YaRN's factor on cos and sin as transformers takes it: given, or from DeepSeek's pair `mscale` and `mscale_all_dim`.
fn attention_factor(scaling: &Fields<'_>) -> Result<Option<f64>, LoadError> {
    scaling.require_bool("truncate", true)?;
    let given = scaling.number("attention_factor")?;
    let (mscale, all_dim) = (scaling.number("mscale")?, scaling.number("mscale_all_dim")?);
    let (Some(factor), Some(mscale), Some(all_dim)) = (scaling.number("factor")?, mscale, all_dim)
    else {
        return Ok(given);
    };
    let share = |mscale: f64| 0.1 * mscale * factor.max(1.0).ln() + 1.0;
    let scales = mscale != 0.0 && all_dim != 0.0;
    Ok(given.or(scales.then(|| share(mscale) / share(all_dim))))
}

/// A JSON object whose values are read with their expected types; null counts as absent.
struct Fields<'a> {
    fields: &'a Map<String, Value>,
    file: &'a Path,
    /// "rope_scaling." for the fields of a nested object.
    prefix: &'static str,
}

impl<'a> Fields<'a> {
    fn get(&self, name: &str) -> Option<&'a Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    fn typed<T>(
        &self,
        name: &str,
        expected: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, LoadError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        read(value)
            .map(Some)
            .ok_or_else(|| self.wrong(name, expected, value))
    }

    fn string(&self, name: &str) -> Result<Option<&'a str>, LoadError> {
        self.typed(name, "a text", Value::as_str)
    }

    fn number(&self, name: &str) -> Result<Option<f64>, LoadError> {
        self.typed(name, "a number", Value::as_f64)
    }

    fn boolean(&self, name: &str) -> Result<Option<bool>, LoadError> {
        self.typed(name, "true or false", Value::as_bool)
    }

    fn object(&self, name: &'static str) -> Result<Option<Fields<'a>>, LoadError> {
        let prefix = if name == "rope_scaling" {
            "rope_scaling."
        } else {
            "rope_parameters."
        };
        let fields = self.typed(name, "an object", Value::as_object)?;
        Ok(fields.map(|fields| Fields {
            fields,
            file: self.file,
            prefix,
        }))
    }

    fn optional_size(&self, name: &str) -> Result<Option<usize>, LoadError> {
        // Some tools write whole numbers as floats (`32768.0`).
        let whole = |value: f64| {
            (value.fract() == 0.0 && (0.0..1e15).contains(&value)).then_some(value as u64)
        };
        let read = |value: &Value| {
            value
                .as_u64()
                .or_else(|| value.as_f64().and_then(whole))
                .and_then(|v| usize::try_from(v).ok())
        };
        self.typed(name, "a whole number, not negative", read)
    }

    fn size(&self, name: &str) -> Result<usize, LoadError> {
        self.optional_size(name)?.ok_or_else(|| self.missing(name))
    }

    /// A token id or a list of them.
    fn token_ids(&self, name: &str) -> Result<Vec<u32>, LoadError> {
        Ok(self
            .typed(
                name,
                "a token id or a list of them",
                super::generation::token_ids,
            )?
            .unwrap_or_default())
    }

    fn divide(
        &self,
        of: &str,
        dividend: usize,
        by: &str,
        divisor: usize,
    ) -> Result<usize, LoadError> {
        if divisor == 0 {
            return Err(self.error(by, "1 or more".into(), "0".into()));
        }
        if !dividend.is_multiple_of(divisor) {
            let expected = format!("a multiple of {by} = {divisor}, as there is no head_dim");
            return Err(self.error(of, expected, dividend.to_string()));
        }
        Ok(dividend / divisor)
    }

    fn require_bool(&self, name: &str, expected: bool) -> Result<(), LoadError> {
        match self.boolean(name)? {
            Some(found) if found != expected => {
                Err(self.error(name, expected.to_string(), found.to_string()))
            }
            _ => Ok(()),
        }
    }

    fn require_str(&self, name: &str, expected: &str) -> Result<(), LoadError> {
        match self.string(name)? {
            Some(found) if found != expected => {
                Err(self.error(name, format!("`{expected}`"), format!("`{found}`")))
            }
            _ => Ok(()),
        }
    }

    /// Weights in the formats of GPTQ, AWQ, bitsandbytes or FP8 have other tensors than the graph needs.
    fn refuse_quantization(&self) -> Result<(), LoadError> {
        match self.object("quantization_config")? {
            Some(quantization) => {
                let method = quantization.string("quant_method")?.unwrap_or("unknown");
                let expected = "none (give the original checkpoint, or a GGUF file)".into();
                Err(self.error("quantization_config", expected, format!("`{method}`")))
            }
            None => Ok(()),
        }
    }

    fn missing(&self, name: &str) -> LoadError {
        LoadError::MissingField {
            file: self.file.to_path_buf(),
            field: format!("{}{name}", self.prefix),
        }
    }

    fn wrong(&self, name: &str, expected: &str, found: &Value) -> LoadError {
        let found = match found {
            Value::Number(_) | Value::Bool(_) => found.to_string(),
            other => type_of(other).to_owned(),
        };
        self.error(name, expected.to_owned(), found)
    }

    fn error(&self, name: &str, expected: String, found: String) -> LoadError {
        config_error(
            self.file,
            &format!("{}{name}", self.prefix),
            expected,
            found,
        )
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
