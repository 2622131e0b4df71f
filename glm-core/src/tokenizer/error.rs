//! Why a tokenizer could not be built, or text not be encoded.

use std::path::{Path, PathBuf};

use super::MAX_VOCAB_SIZE;

/// Why a tokenizer could not be built from its files, or a text not be encoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// A JSON file does not parse, or a field has the wrong type.
    #[error("{file} is not a readable tokenizer file: {source}", file = file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// Position and reason.
        source: serde_json::Error,
    },
    /// The file is well formed and describes a tokenizer that no GLM model has.
    #[error("{file}: {field} is {found}, expected {expected}", file = file.display())]
    Unsupported {
        /// The file.
        file: PathBuf,
        /// The field that differs.
        field: &'static str,
        /// What GLM tokenizers have there.
        expected: &'static str,
        /// What the file has.
        found: String,
    },
    /// A line of a tiktoken rank file is not `base64 rank`.
    #[error("{file}:{line}: {reason}; every line is a base64 token, a blank and its rank", file = file.display())]
    RankLine {
        /// The file.
        file: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A sentencepiece model file breaks off or contradicts itself.
    #[error("{file}: byte {offset}: {reason}; not a sentencepiece model", file = file.display())]
    Protobuf {
        /// The file.
        file: PathBuf,
        /// Where the reader stopped.
        offset: usize,
        /// What is wrong there.
        reason: &'static str,
    },
    /// One token of the vocabulary cannot be what the file says.
    #[error("{file}: token {id} `{token}`: {reason}", file = file.display())]
    Token {
        /// The file.
        file: PathBuf,
        /// Token id.
        id: u64,
        /// Token text.
        token: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A merge names a token that is not in the vocabulary, or makes one that is not.
    #[error("{file}: merge {rank} (`{left}` + `{right}`): `{missing}` is not in the vocabulary", file = file.display())]
    Merge {
        /// The file.
        file: PathBuf,
        /// Position in the list of merges, from 0.
        rank: usize,
        /// Left token.
        left: String,
        /// Right token.
        right: String,
        /// The token that is missing.
        missing: String,
    },
    /// The vocabulary has no token, or more than [`MAX_VOCAB_SIZE`](super::MAX_VOCAB_SIZE) ids.
    #[error("{file}: {found} token ids, expected 1 to {limit}", file = file.display())]
    VocabSize {
        /// The file.
        file: PathBuf,
        /// Ids the file would need.
        found: u64,
        /// Largest number accepted.
        limit: u64,
    },
    /// The tokenizer has an id for which the model has no row in its embedding table.
    #[error("{file}: token {id} `{token}` does not fit the model, which has {rows} vocabulary rows: the tokenizer belongs to another model", file = file.display())]
    VocabMismatch {
        /// The tokenizer's file.
        file: PathBuf,
        /// Largest token id.
        id: u32,
        /// Its text.
        token: String,
        /// Rows of the embedding table.
        rows: usize,
    },
    /// A chat format needs a token that this vocabulary lacks.
    #[error("the tokenizer has no token `{token}`, which the chat format needs")]
    MissingToken {
        /// Text of the token.
        token: String,
    },
    /// The vocabulary has no token for a byte of the text, and none for unknown text.
    #[error("the text cannot be encoded: the vocabulary has no token for byte 0x{byte:02x}")]
    Unencodable {
        /// The byte.
        byte: u8,
    },
    /// The `tokenizers` crate refused.
    #[error("the text cannot be encoded: {0}")]
    Encode(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl TokenizerError {
    /// A file without any token.
    pub(super) fn empty(file: &Path) -> Self {
        Self::VocabSize {
            file: file.into(),
            found: 0,
            limit: MAX_VOCAB_SIZE as u64,
        }
    }
}
