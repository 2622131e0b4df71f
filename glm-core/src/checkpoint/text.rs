//! The tokenizer and the chat format of an opened checkpoint.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use super::{Checkpoint, SideFiles};
use crate::chat::{ChatFormat, GenerationHints};
use crate::error::LoadError;
use crate::gguf::{Reader, Value, vocabulary};
use crate::source::SourceFile;
use crate::tokenizer::Tokenizer;

/// Larger than any tokenizer by an order of magnitude.
const MAX_BYTES: u64 = 256 << 20;

/// A file's path and content.
type SideFile = (PathBuf, Cow<'static, [u8]>);

impl SideFiles {
    /// A small file beside the weights.
    fn read(&self, root: &Path, name: &str) -> Result<Option<SideFile>, LoadError> {
        let path = root.join(name);
        match self {
            Self::Gguf(_) => Ok(None),
            Self::Embedded(files) => {
                let file = files.iter().find(|file| file.name == name);
                Ok(file.map(|file| (path, Cow::Borrowed(file.bytes))))
            }
            Self::Directory(directory) => {
                let path = directory.join(name);
                if !path.exists() {
                    return Ok(None);
                }
                let file = SourceFile::open(&path)?;
                if file.len() > MAX_BYTES {
                    return Err(LoadError::Header {
                        file: path,
                        field: "length in bytes".into(),
                        expected: format!("at most {MAX_BYTES}"),
                        found: file.len().to_string(),
                    });
                }
                Ok(Some((path, Cow::Owned(file.bytes().to_vec()))))
            }
        }
    }

    fn has(&self, root: &Path, name: &str) -> bool {
        match self {
            Self::Gguf(_) => false,
            Self::Embedded(files) => files.iter().any(|file| file.name == name),
            Self::Directory(_) => root.join(name).exists(),
        }
    }

    fn text(&self, root: &Path, name: &str) -> Result<Option<(PathBuf, String)>, LoadError> {
        let Some((path, bytes)) = self.read(root, name)? else {
            return Ok(None);
        };
        match String::from_utf8(bytes.into_owned()) {
            Ok(text) => Ok(Some((path, text))),
            Err(error) => Err(LoadError::Header {
                file: path,
                field: "content".into(),
                expected: "UTF-8 text".into(),
                found: format!("an invalid byte at {}", error.utf8_error().valid_up_to()),
            }),
        }
    }
}

pub(super) fn tokenizer(checkpoint: &Checkpoint) -> Result<Tokenizer, LoadError> {
    let inner = &checkpoint.0;
    let tokenizer = match &inner.side {
        SideFiles::Gguf(reader) => gguf_tokenizer(reader)?,
        side => directory_tokenizer(side, &inner.path)?,
    };
    tokenizer.check_vocab(inner.config.dense().vocab_size)?;
    Ok(tokenizer)
}

fn gguf_tokenizer(reader: &Reader) -> Result<Tokenizer, LoadError> {
    match vocabulary(reader)? {
        Some(vocabulary) => Ok(Tokenizer::from_gguf(vocabulary, reader.path())?),
        None => Err(LoadError::NoTokenizer {
            path: reader.path().to_path_buf(),
            looked_for: "tokenizer.ggml.tokens",
        }),
    }
}

fn directory_tokenizer(side: &SideFiles, root: &Path) -> Result<Tokenizer, LoadError> {
    if let Some((path, bytes)) = side.read(root, "tokenizer.json")? {
        return Ok(Tokenizer::from_hf_json(&bytes, &path)?);
    }
    let Some((path, bytes)) = side.read(root, "tokenizer.model")? else {
        let looked_for = "tokenizer.json, tokenizer.model";
        return Err(LoadError::NoTokenizer {
            path: root.to_path_buf(),
            looked_for,
        });
    };
    let config = side
        .text(root, "tokenizer_config.json")?
        .map(|(_, text)| text);
    if is_rank_file(&bytes) {
        Ok(Tokenizer::from_tiktoken(&bytes, config.as_deref(), &path)?)
    } else {
        Ok(Tokenizer::from_sentencepiece(
            &bytes,
            config.as_deref(),
            &path,
        )?)
    }
}

/// Two formats share the name `tokenizer.model`: lines of a base64 token, a blank and a rank, or a sentencepiece protobuf, whose
/// first bytes are the tag and length of its first piece.
fn is_rank_file(bytes: &[u8]) -> bool {
    let line = bytes.split(|&b| b == b'\n').next().unwrap_or_default();
    let mut parts = line.trim_ascii_end().split(|&b| b == b' ');
    let is_base64 = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(token), Some(rank), None) => {
            !token.is_empty()
                && token.iter().all(is_base64)
                && !rank.is_empty()
                && rank.iter().all(u8::is_ascii_digit)
        }
        _ => false,
    }
}

pub(super) fn chat_format(checkpoint: &Checkpoint) -> Result<ChatFormat, LoadError> {
    let inner = &checkpoint.0;
    let hints = GenerationHints {
        architecture: inner.config.architecture(),
        name: &inner.name,
        ..GenerationHints::default()
    };
    if let SideFiles::Gguf(reader) = &inner.side {
        return gguf_chat_format(reader, hints);
    }
    let (side, root) = (&inner.side, inner.path.as_path());
    let config = side.text(root, "tokenizer_config.json")?;
    let template = side.text(root, "chat_template.jinja")?;
    let sentencepiece = !side.has(root, "tokenizer.json")
        && side
            .read(root, "tokenizer.model")?
            .is_some_and(|(_, bytes)| !is_rank_file(&bytes));
    let file = template
        .as_ref()
        .or(config.as_ref())
        .map_or(root, |(path, _)| path);
    let text = |file: &Option<(PathBuf, String)>| file.as_ref().map(|(_, text)| text.clone());
    let hints = GenerationHints {
        sentencepiece,
        ..hints
    };
    Ok(ChatFormat::from_checkpoint(
        text(&template).as_deref(),
        text(&config).as_deref(),
        hints,
        file,
    )?)
}

fn gguf_chat_format(reader: &Reader, hints: GenerationHints<'_>) -> Result<ChatFormat, LoadError> {
    let text = |key| reader.value(key).and_then(Value::as_str);
    let name = format!(
        "{} {}",
        text("general.name").unwrap_or_default(),
        hints.name
    );
    let sentencepiece = text("tokenizer.ggml.model") == Some("llama");
    let hints = GenerationHints {
        name: &name,
        sentencepiece,
        ..hints
    };
    Ok(ChatFormat::from_checkpoint(
        text("tokenizer.chat_template"),
        None,
        hints,
        reader.path(),
    )?)
}
