//! A `.gguf` file, or all parts of a split one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Format, Parts, SideFiles};
use crate::config::{GenerationConfig, ModelConfig, stop_tokens_from_gguf};
use crate::error::LoadError;
use crate::gguf::{Reader, Value};
use crate::tensor::RawTensor;

/// llama.cpp numbers parts with 16 bits.
const MAX_PARTS: u64 = u16::MAX as u64;

/// Opens a file; of a split model any part will do.
pub(super) fn open(path: &Path) -> Result<Parts, LoadError> {
    let mut readers = open_parts(path)?;
    let shapes = readers
        .iter()
        .flat_map(|r| r.tensors())
        .map(|t| (t.name.as_str(), t.shape.as_slice()))
        .collect();
    let config = ModelConfig::from_gguf_parts(&readers[0], &shapes)?;
    let generation = GenerationConfig {
        eos_token_ids: stop_tokens_from_gguf(&readers[0]),
        pad_token_id: config.dense().pad_token_id,
        ..GenerationConfig::default()
    };
    let raw = |(file, reader): (usize, &Reader)| {
        let entry = move |t: &crate::gguf::TensorEntry| RawTensor {
            name: t.name.clone(),
            shape: t.shape.clone(),
            ty: Ok(t.ty),
            file,
            offset: t.offset,
            bytes: t.bytes,
        };
        reader.tensors().iter().map(entry).collect::<Vec<_>>()
    };
    let tensors = readers.iter().enumerate().flat_map(raw).collect();
    let files = readers
        .iter()
        .map(|reader| Arc::clone(reader.source()))
        .collect();
    let warnings = warnings(&readers[0], &config);
    let name = path
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    Ok(Parts {
        name,
        path: path.to_path_buf(),
        embedded: false,
        format: Format::Gguf,
        config,
        generation,
        note: None,
        warnings,
        files,
        tensors,
        side: SideFiles::Gguf(Box::new(readers.swap_remove(0))),
    })
}

/// All parts in order; the first carries the metadata.
fn open_parts(path: &Path) -> Result<Vec<Reader>, LoadError> {
    let reader = Reader::open(path)?;
    let count = split_value(&reader, "split.count")?.unwrap_or(1);
    if count <= 1 {
        return Ok(vec![reader]);
    }
    let stem = split_stem(path, count).ok_or_else(|| LoadError::Header {
        file: path.to_path_buf(),
        field: "file name".into(),
        expected: format!("NAME-00001-of-{count:05}.gguf, as split.count is {count}"),
        found: path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
    })?;
    let part = |number: u64| part_path(path, &stem, number, count);
    let readers = (1..=count)
        .map(|number| Reader::open(part(number)))
        .collect::<Result<Vec<_>, _>>()?;
    for (index, reader) in readers.iter().enumerate() {
        for (key, expected) in [("split.no", index as u64), ("split.count", count)] {
            let found = split_value(reader, key)?;
            if found != Some(expected) {
                let found = found.map_or("absent".into(), |found| found.to_string());
                return Err(split_error(reader, key, expected.to_string(), found));
            }
        }
    }
    let total = readers
        .iter()
        .map(|reader| reader.tensors().len() as u64)
        .sum::<u64>();
    match split_value(&readers[0], "split.tensors.count")? {
        Some(expected) if expected != total => Err(split_error(
            &readers[0],
            "split.tensors.count",
            format!("{total}, the tensors of all parts"),
            expected.to_string(),
        )),
        _ => Ok(readers),
    }
}

fn split_value(reader: &Reader, key: &str) -> Result<Option<u64>, LoadError> {
    match reader.value(key) {
        None => Ok(None),
        Some(value) => match value
            .as_u64()
            .filter(|&value| key == "split.tensors.count" || value <= MAX_PARTS)
        {
            Some(value) => Ok(Some(value)),
            None => Err(split_error(
                reader,
                key,
                format!("a number up to {MAX_PARTS}"),
                value.describe(),
            )),
        },
    }
}

fn split_error(reader: &Reader, field: &str, expected: String, found: String) -> LoadError {
    LoadError::Header {
        file: reader.path().to_path_buf(),
        field: field.to_owned(),
        expected,
        found,
    }
}

/// `model` of `model-00002-of-00003.gguf`.
fn split_stem(path: &Path, count: u64) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let numbered = name.strip_suffix(&format!("-of-{count:05}.gguf"))?;
    let (stem, number) = numbered.split_at_checked(numbered.len().checked_sub(6)?)?;
    let is_number = number
        .strip_prefix('-')
        .is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
    is_number.then(|| stem.to_owned())
}

fn part_path(path: &Path, stem: &str, number: u64, count: u64) -> PathBuf {
    path.with_file_name(format!("{stem}-{number:05}-of-{count:05}.gguf"))
}

/// llama.cpp's converter looks for the remote code's keys in configurations of `GlmForCausalLM` and falls back silently.
fn warnings(reader: &Reader, config: &ModelConfig) -> Vec<String> {
    let dense = config.dense();
    let fallback =
        matches!(config, ModelConfig::Glm(_)) && dense.max_position_embeddings == dense.hidden_size;
    let text = || {
        format!(
            "{}: context_length equals embedding_length, which converters write when they do not find the real one; \
             then eps ({}) and rope base ({}) are guesses too, and answers may be wrong",
            reader.path().display(),
            dense.rms_norm_eps,
            dense.rope_theta
        )
    };
    let mut warnings = fallback.then(text).into_iter().collect::<Vec<_>>();
    if let Some(Value::String(pre)) = reader.value("tokenizer.ggml.pre")
        && pre == "default"
        && dense.vocab_size > 100_000
    {
        warnings.push(format!(
            "{}: tokenizer.ggml.pre is `default`: converted before its pre-tokenizer was known",
            reader.path().display()
        ));
    }
    warnings
}
