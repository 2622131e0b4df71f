//! A tokenizer's metadata: the `tokenizer.ggml.*` keys of llama.cpp.

use super::{Array, Reader, Value};
use crate::error::LoadError;
use crate::tokenizer::{GgufVocab, Tokenizer};

const PREFIX: &str = "tokenizer.ggml.";

/// The vocabulary in a file's metadata; `None` if it has none.
///
/// # Errors
/// [`LoadError::Header`] if a key has a value of the wrong type.
pub fn vocabulary(reader: &Reader) -> Result<Option<GgufVocab>, LoadError> {
    let Some(tokens) = typed(reader, "tokens", "a list of texts", |v| {
        v.as_strings().map(<[String]>::to_vec)
    })?
    else {
        return Ok(None);
    };
    let text = |key| typed(reader, key, "a text", |v| v.as_str().map(str::to_owned));
    let id = |key| typed(reader, key, "a token id", Value::as_u32);
    Ok(Some(GgufVocab {
        model: text("model")?.unwrap_or_default(),
        pre: text("pre")?,
        tokens,
        token_types: typed(reader, "token_type", "a list of i32", |v| {
            v.as_i32s().map(<[i32]>::to_vec)
        })?
        .unwrap_or_default(),
        merges: typed(reader, "merges", "a list of texts", |v| {
            v.as_strings().map(<[String]>::to_vec)
        })?
        .unwrap_or_default(),
        scores: typed(reader, "scores", "a list of f32", |v| {
            v.as_f32s().map(<[f32]>::to_vec)
        })?
        .unwrap_or_default(),
        bos: id("bos_token_id")?,
        eos: id("eos_token_id")?,
        eot: id("eot_token_id")?,
        eom: id("eom_token_id")?,
        unk: id("unknown_token_id")?,
        pad: id("padding_token_id")?,
        add_space_prefix: typed(reader, "add_space_prefix", "true or false", Value::as_bool)?,
    }))
}

fn typed<T>(
    reader: &Reader,
    key: &str,
    expected: &str,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<Option<T>, LoadError> {
    let key = format!("{PREFIX}{key}");
    let Some(value) = reader.value(&key) else {
        return Ok(None);
    };
    let wrong = || LoadError::Header {
        file: reader.path().to_path_buf(),
        field: key.clone(),
        expected: expected.to_owned(),
        found: format!("a value of type {}", value.type_name()),
    };
    read(value).map(Some).ok_or_else(wrong)
}

/// The metadata that llama.cpp needs to tokenize as this tokenizer does, padded to `rows`, the rows of the embedding.
///
/// Without a tokenizer, the key that tells llama.cpp so; `<architecture>.vocab_size` gives it the size then.
pub fn tokenizer_metadata(tokenizer: Option<&Tokenizer>, rows: usize) -> Vec<(String, Value)> {
    let mut metadata = Vec::new();
    let mut put = |key: &str, value: Option<Value>| {
        metadata.extend(value.map(|value| (format!("{PREFIX}{key}"), value)))
    };
    let Some(tokenizer) = tokenizer else {
        put("model", Some(Value::from("no_vocab")));
        return metadata;
    };
    let vocabulary = tokenizer.to_gguf(rows);
    put("model", Some(Value::String(vocabulary.model)));
    put("pre", vocabulary.pre.map(Value::String));
    put(
        "tokens",
        Some(Value::Array(Array::String(vocabulary.tokens))),
    );
    put(
        "token_type",
        Some(Value::Array(Array::I32(vocabulary.token_types))),
    );
    put(
        "merges",
        (!vocabulary.merges.is_empty()).then_some(Value::Array(Array::String(vocabulary.merges))),
    );
    put(
        "scores",
        (!vocabulary.scores.is_empty()).then_some(Value::Array(Array::F32(vocabulary.scores))),
    );
    put("bos_token_id", vocabulary.bos.map(Value::U32));
    put("eos_token_id", vocabulary.eos.map(Value::U32));
    put("eot_token_id", vocabulary.eot.map(Value::U32));
    put("eom_token_id", vocabulary.eom.map(Value::U32));
    put("unknown_token_id", vocabulary.unk.map(Value::U32));
    put("padding_token_id", vocabulary.pad.map(Value::U32));
    put(
        "add_space_prefix",
        vocabulary.add_space_prefix.map(Value::Bool),
    );
    // Chat templates write the prefix themselves; llama.cpp must not add a second one.
    put("add_bos_token", Some(Value::Bool(false)));
    metadata
}
