//! `tokenizer.json`, the format of Hugging Face's `tokenizers`.
//!
//! The file can describe any pipeline; GLM models use one: byte-level BPE without a normaliser. That one is read and everything
//! else is refused by name, so a file of another family is an error and not wrong ids.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;

use super::added::{AddedToken, AddedTokens};
use super::byte_level::ByteBpe;
use super::vocab::{TokenKind, Vocab};
use super::{Inner, Model, Tokenizer, TokenizerError};

#[derive(Deserialize)]
struct TokenizerFile {
    #[serde(default)]
    added_tokens: Vec<AddedTokenEntry>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<Value>,
    decoder: Option<Value>,
    model: BpeModel,
}

/// An added token in `tokenizer.json` (with `id`) or in `tokenizer_config.json` (where the id is the key).
#[derive(Deserialize)]
pub(crate) struct AddedTokenEntry {
    #[serde(default)]
    pub id: u64,
    pub content: String,
    #[serde(default)]
    pub special: bool,
    #[serde(default)]
    pub lstrip: bool,
    #[serde(default)]
    pub rstrip: bool,
    #[serde(default)]
    pub single_word: bool,
}

impl AddedTokenEntry {
    pub fn kind(&self) -> TokenKind {
        if self.special {
            TokenKind::Control
        } else {
            TokenKind::UserDefined
        }
    }

    /// The token under an id that [`Vocab::insert`] has accepted.
    pub fn into_token(self, id: u32) -> AddedToken {
        let Self {
            content,
            special,
            lstrip,
            rstrip,
            single_word,
            ..
        } = self;
        AddedToken {
            id,
            content,
            special,
            lstrip,
            rstrip,
            single_word,
        }
    }
}

#[derive(Deserialize)]
struct BpeModel {
    #[serde(rename = "type")]
    kind: Option<String>,
    vocab: HashMap<String, u32>,
    #[serde(default)]
    merges: Vec<Merge>,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(default)]
    byte_fallback: bool,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    dropout: Option<f32>,
}

/// `"left right"` in older files, `["left", "right"]` in newer ones.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Line(String),
    Pair(String, String),
}

impl Tokenizer {
    /// Reads a `tokenizer.json` with a byte-level BPE, as GLM-4 and later models in Hugging Face form have.
    ///
    /// `file` is only named in errors.
    ///
    /// # Errors
    /// [`TokenizerError`] if the bytes are not such a file, or it contradicts itself.
    ///
    /// ```
    /// use glm_core::tokenizer::{SpecialTokens, Tokenizer};
    /// let json = r#"{"added_tokens": [{"id": 3, "content": "<|user|>", "special": true}],
    ///     "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
    ///     "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
    ///     "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}}"#;
    /// let tokenizer = Tokenizer::from_hf_json(json.as_bytes(), "tokenizer.json".as_ref())?;
    /// assert_eq!(tokenizer.encode("aab<|user|>", SpecialTokens::Parse)?, [0, 2, 3]);
    /// # Ok::<(), glm_core::tokenizer::TokenizerError>(())
    /// ```
    pub fn from_hf_json(bytes: &[u8], file: &Path) -> Result<Self, TokenizerError> {
        let json_error = |source| TokenizerError::Json {
            file: file.into(),
            source,
        };
        let parsed: TokenizerFile = serde_json::from_slice(bytes).map_err(json_error)?;
        check_pipeline(&parsed, file)?;

        let mut vocab = Vocab::default();
        for (text, &id) in &parsed.model.vocab {
            vocab.insert(id.into(), text, TokenKind::Normal, file)?;
        }
        let mut added = Vec::with_capacity(parsed.added_tokens.len());
        for entry in parsed.added_tokens {
            vocab.insert(entry.id, &entry.content, entry.kind(), file)?;
            let id = entry.id as u32; // insert has refused anything larger
            added.push(entry.into_token(id));
        }
        let added = AddedTokens::new(added);
        let prefix = template_prefix(parsed.post_processor.as_ref(), &added);

        let pre_tokenizer = parsed.pre_tokenizer.unwrap_or_default();
        let pre_tokenizer: PreTokenizerWrapper =
            serde_json::from_value(pre_tokenizer).map_err(json_error)?;
        let merges = split_merges(parsed.model.merges, file)?;
        let bpe = ByteBpe::new(
            parsed.model.vocab,
            merges,
            parsed.model.ignore_merges,
            pre_tokenizer,
            file,
        )?;
        Inner {
            vocab,
            added,
            model: Model::ByteBpe(bpe),
            prefix,
            file: file.into(),
        }
        .finish()
    }
}

/// Refuses every pipeline that is not GLM's, naming the first part that differs.
fn check_pipeline(parsed: &TokenizerFile, file: &Path) -> Result<(), TokenizerError> {
    let refuse = |field, expected, found: String| {
        Err(TokenizerError::Unsupported {
            file: file.into(),
            field,
            expected,
            found,
        })
    };
    let model = &parsed.model;
    // Files older than the `type` field hold a BPE exactly when they have merges.
    if model.kind.as_deref().is_some_and(|kind| kind != "BPE") {
        return refuse("model.type", "BPE", model.kind.clone().unwrap_or_default());
    }
    let decorations = [&model.continuing_subword_prefix, &model.end_of_word_suffix];
    if let Some(text) = decorations
        .into_iter()
        .flatten()
        .find(|text| !text.is_empty())
    {
        return refuse(
            "model.continuing_subword_prefix or end_of_word_suffix",
            "none",
            format!("`{text}`"),
        );
    }
    if let Some(unk) = &model.unk_token {
        return refuse(
            "model.unk_token",
            "null: bytes are never unknown",
            format!("`{unk}`"),
        );
    }
    if model.byte_fallback {
        return refuse("model.byte_fallback", "false", "true".into());
    }
    if let Some(dropout) = model.dropout.filter(|&dropout| dropout != 0.0) {
        return refuse("model.dropout", "none", dropout.to_string());
    }
    if let Some(normalizer) = parsed.normalizer.as_ref().filter(|value| !value.is_null()) {
        return refuse("normalizer", "null", type_name(normalizer));
    }
    if !has_byte_level(parsed.decoder.as_ref(), "decoders") {
        return refuse(
            "decoder",
            "ByteLevel",
            parsed.decoder.as_ref().map_or("null".into(), type_name),
        );
    }
    let pre_tokenizer = parsed.pre_tokenizer.as_ref();
    if !has_byte_level(pre_tokenizer, "pretokenizers")
        || !is_known_split(pre_tokenizer.unwrap_or(&Value::Null))
    {
        let expected = "Split by a regular expression, then ByteLevel";
        return refuse(
            "pre_tokenizer",
            expected,
            pre_tokenizer.map_or("null".into(), type_name),
        );
    }
    Ok(())
}

fn type_name(part: &Value) -> String {
    part["type"].as_str().unwrap_or("of no type").to_owned()
}

/// Whether a pipeline part is `ByteLevel` or a sequence that ends in it.
fn has_byte_level(part: Option<&Value>, list: &str) -> bool {
    let Some(part) = part else { return false };
    match part["type"].as_str() {
        Some("ByteLevel") => true,
        Some("Sequence") => part[list]
            .as_array()
            .and_then(|parts| parts.last())
            .is_some_and(|last| last["type"] == "ByteLevel"),
        _ => false,
    }
}

fn is_known_split(part: &Value) -> bool {
    match part["type"].as_str() {
        Some("ByteLevel" | "Split" | "Digits") => true,
        // one level is what files have; deeper nesting would only serve to exhaust the stack
        Some("Sequence") => part["pretokenizers"].as_array().is_some_and(|parts| {
            parts
                .iter()
                .all(|part| part["type"] != "Sequence" && is_known_split(part))
        }),
        _ => false,
    }
}

fn split_merges(merges: Vec<Merge>, file: &Path) -> Result<Vec<(String, String)>, TokenizerError> {
    let pairs = merges
        .into_iter()
        .enumerate()
        .map(|(rank, merge)| match merge {
            Merge::Pair(left, right) => Ok((left, right)),
            Merge::Line(line) => split_merge_line(&line, rank, file),
        });
    pairs.collect()
}

/// Splits `left right`; the tokens themselves hold no blank, since the byte-level table has none.
pub(crate) fn split_merge_line(
    line: &str,
    rank: usize,
    file: &Path,
) -> Result<(String, String), TokenizerError> {
    match line.split_once(' ') {
        Some((left, right)) if !right.contains(' ') => Ok((left.to_owned(), right.to_owned())),
        _ => {
            let (left, missing) = (line.to_owned(), line.to_owned());
            Err(TokenizerError::Merge {
                file: file.into(),
                rank,
                left,
                right: String::new(),
                missing,
            })
        }
    }
}

/// The special tokens that a `TemplateProcessing` post-processor puts before a single text.
fn template_prefix(post_processor: Option<&Value>, added: &AddedTokens) -> Vec<u32> {
    let Some(post_processor) = post_processor else {
        return Vec::new();
    };
    match post_processor["type"].as_str() {
        Some("TemplateProcessing") => {
            let pieces = post_processor["single"]
                .as_array()
                .map_or(&[][..], Vec::as_slice);
            let before_text = pieces
                .iter()
                .map_while(|piece| piece["SpecialToken"]["id"].as_str());
            before_text
                .filter_map(|content| added.id(content))
                .collect()
        }
        Some("Sequence") => {
            let parts = post_processor["processors"]
                .as_array()
                .map_or(&[][..], Vec::as_slice);
            let template = parts
                .iter()
                .find(|part| part["type"] == "TemplateProcessing");
            template_prefix(template, added)
        }
        _ => Vec::new(),
    }
}
