//! `generation_config.json` and the rules for stop tokens.

use std::path::Path;

use serde_json::Value;

use super::validate::config_error;
use crate::error::LoadError;
use crate::gguf::Reader;

/// What a checkpoint says about sampling.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationConfig {
    /// Tokens that end a reply: from `generation_config.json`, else from the model's configuration; in a GGUF file its eos, eot
    /// and eom tokens.
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

impl GenerationConfig {
    /// Reads the text of a `generation_config.json`; `file` is named in errors.
    ///
    /// # Errors
    /// [`LoadError::Json`], or [`LoadError::Config`] if a field has the wrong type.
    pub fn from_json(text: &str, file: &Path) -> Result<Self, LoadError> {
        let root: Value = serde_json::from_str(text).map_err(|source| LoadError::Json {
            file: file.to_path_buf(),
            source,
        })?;
        if !root.is_object() {
            let found = root.to_string().chars().take(40).collect();
            return Err(config_error(
                file,
                "generation_config",
                "a JSON object".into(),
                found,
            ));
        }
        fn field<T>(
            root: &Value,
            file: &Path,
            name: &str,
            expected: &str,
            read: impl Fn(&Value) -> Option<T>,
        ) -> Result<Option<T>, LoadError> {
            match root.get(name) {
                None | Some(Value::Null) => Ok(None),
                Some(value) => {
                    let wrong = || config_error(file, name, expected.to_owned(), value.to_string());
                    read(value).map(Some).ok_or_else(wrong)
                }
            }
        }
        let positive = |value: &Value| value.as_f64().filter(|v| *v >= 0.0);
        Ok(Self {
            eos_token_ids: field(
                &root,
                file,
                "eos_token_id",
                "a token id or a list of them",
                token_ids,
            )?
            .unwrap_or_default(),
            pad_token_id: field(&root, file, "pad_token_id", "a token id", token_ids)?
                .and_then(|ids| ids.first().copied()),
            do_sample: field(&root, file, "do_sample", "true or false", Value::as_bool)?,
            temperature: field(
                &root,
                file,
                "temperature",
                "a number, not negative",
                positive,
            )?,
            top_p: field(&root, file, "top_p", "a number from 0 to 1", |v| {
                positive(v).filter(|v| *v <= 1.0)
            })?,
            top_k: field(&root, file, "top_k", "a whole number, not negative", |v| {
                v.as_u64()?.try_into().ok()
            })?,
            repetition_penalty: field(
                &root,
                file,
                "repetition_penalty",
                "a number above 0",
                |v| v.as_f64().filter(|v| *v > 0.0),
            )?,
        })
    }
}

/// A token id or a list of them.
pub(super) fn token_ids(value: &Value) -> Option<Vec<u32>> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Value::Array(items) => items.iter().map(id).collect(),
        single => id(single).map(|id| vec![id]),
    }
}

/// Stop tokens of a Hugging Face directory: `generation_config.json` first, else `config.json`.
pub(crate) fn stop_tokens_from_json(
    mut generation: GenerationConfig,
    config: &super::ModelConfig,
) -> GenerationConfig {
    if generation.eos_token_ids.is_empty() {
        generation
            .eos_token_ids
            .clone_from(&config.dense().eos_token_ids);
    }
    generation.pad_token_id = generation.pad_token_id.or(config.dense().pad_token_id);
    generation
}

/// Stop tokens of a GGUF file: the ends of a text, of a turn and of a message.
pub(crate) fn stop_tokens_from_gguf(reader: &Reader) -> Vec<u32> {
    let keys = [
        "tokenizer.ggml.eos_token_id",
        "tokenizer.ggml.eot_token_id",
        "tokenizer.ggml.eom_token_id",
    ];
    let mut ids = Vec::new();
    for id in keys.iter().filter_map(|key| reader.value(key)?.as_u32()) {
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    ids
}
