//! Byte-level BPE, the tokenizer of GLM-4 and later: text is cut by a regular expression, every byte becomes a printable
//! character (GPT-2's table), and merges join the characters of each piece.

use std::collections::HashMap;
use std::path::Path;
use std::sync::LazyLock;

use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{Model, OffsetType, PreTokenizedString, PreTokenizer, SplitDelimiterBehavior};

use super::TokenizerError;

/// The pre-split of every byte-level GLM vocabulary (`chatglm-bpe` and `glm4` in llama.cpp, `pat_str` in GLM-4's own tokenizer).
const GLM_SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// GPT-2's table: printable Latin-1 bytes stand for themselves, the rest for characters from U+0100 on, in order.
static BYTE_TO_CHAR: LazyLock<[char; 256]> = LazyLock::new(|| {
    let mut table = ['\0'; 256];
    let mut next = 0x100;
    for byte in 0..=255u8 {
        table[byte as usize] = match byte {
            b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => byte as char,
            _ => {
                let stand_in = char::from_u32(next).expect("U+0100 to U+0143 are characters");
                next += 1;
                stand_in
            }
        };
    }
    table
});

static CHAR_TO_BYTE: LazyLock<HashMap<char, u8>> = LazyLock::new(|| {
    BYTE_TO_CHAR
        .iter()
        .zip(0..=255u8)
        .map(|(&c, byte)| (c, byte))
        .collect()
});

/// Writes bytes in GPT-2's characters.
pub(crate) fn to_chars(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|&byte| BYTE_TO_CHAR[byte as usize])
        .collect()
}

/// Reads GPT-2's characters back; a token with any other character stands for its own text, as in the `tokenizers` crate.
pub(crate) fn to_bytes(token: &str) -> Vec<u8> {
    let bytes: Option<Vec<u8>> = token
        .chars()
        .map(|c| CHAR_TO_BYTE.get(&c).copied())
        .collect();
    bytes.unwrap_or_else(|| token.as_bytes().to_vec())
}

/// The model behind a byte-level tokenizer.
pub(crate) struct ByteBpe {
    model: BPE,
    pre_tokenizer: PreTokenizerWrapper,
    /// Bytes the vocabulary has no token for; empty in every real vocabulary.
    missing: Vec<u8>,
}

impl ByteBpe {
    /// Builds the model from its vocabulary (in GPT-2's characters) and merges, most important first.
    ///
    /// `ignore_merges`: a whole piece that is a token is that token, whatever the merges would make of it.
    ///
    /// # Errors
    /// [`TokenizerError::Merge`] if a merge uses or makes a token outside the vocabulary.
    pub fn new(
        vocab: HashMap<String, u32>,
        merges: Vec<(String, String)>,
        ignore_merges: bool,
        pre_tokenizer: PreTokenizerWrapper,
        file: &Path,
    ) -> Result<Self, TokenizerError> {
        // The crate's builder writes past its buffer (and panics) on a merge that is longer than every token: check first.
        for (rank, (left, right)) in merges.iter().enumerate() {
            let joined = format!("{left}{right}");
            if let Some(missing) = [left, right, &joined]
                .into_iter()
                .find(|token| !vocab.contains_key(*token))
            {
                let (left, right, missing) = (left.clone(), right.clone(), missing.clone());
                return Err(TokenizerError::Merge {
                    file: file.into(),
                    rank,
                    left,
                    right,
                    missing,
                });
            }
        }
        let missing = (0..=255u8)
            .filter(|&byte| !vocab.contains_key(&to_chars(&[byte])))
            .collect();
        let model = BPE::builder()
            .vocab_and_merges(
                vocab
                    .into_iter()
                    .collect::<tokenizers::models::bpe::Vocab>(),
                merges,
            )
            .ignore_merges(ignore_merges)
            .build()
            .map_err(TokenizerError::Encode)?;
        Ok(Self {
            model,
            pre_tokenizer,
            missing,
        })
    }

    /// The pre-split of GLM's own vocabularies, for files that do not carry it.
    pub fn glm_pre_tokenizer() -> Result<PreTokenizerWrapper, TokenizerError> {
        let pattern = SplitPattern::Regex(GLM_SPLIT.into());
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
            .map_err(TokenizerError::Encode)?;
        let byte_level = ByteLevel::new(false, true, false);
        Ok(Sequence::new(vec![split.into(), byte_level.into()]).into())
    }

    /// Appends the ids of `text`, in which no added token is looked for.
    pub fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        // The model drops characters it has no token for; an answer to half a question is worse than an error.
        if let Some(byte) = text.bytes().find(|byte| self.missing.contains(byte)) {
            return Err(TokenizerError::Unencodable { byte });
        }
        let mut pieces = PreTokenizedString::from(text);
        self.pre_tokenizer
            .pre_tokenize(&mut pieces)
            .map_err(TokenizerError::Encode)?;
        pieces
            .tokenize(|piece| self.model.tokenize(piece.get()))
            .map_err(TokenizerError::Encode)?;
        let encoding = pieces
            .into_encoding(None, 0, OffsetType::None)
            .map_err(TokenizerError::Encode)?;
        ids.extend_from_slice(encoding.get_ids());
        Ok(())
    }

    /// The id of a token in GPT-2's characters.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.model.token_to_id(token)
    }

    /// The merges as `left right` lines, most important first.
    pub fn merges(&self) -> Vec<String> {
        // The crate keeps them private and shows them only by serialising itself.
        #[derive(serde::Deserialize)]
        struct Merges {
            merges: Vec<(String, String)>,
        }
        serde_json::to_value(&self.model)
            .and_then(serde_json::from_value::<Merges>)
            .map(|model| {
                model
                    .merges
                    .into_iter()
                    .map(|(left, right)| format!("{left} {right}"))
                    .collect()
            })
            .unwrap_or_default()
    }
}

impl std::fmt::Debug for ByteBpe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ByteBpe")
            .field("vocab_size", &self.model.get_vocab_size())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_gpt2s() {
        assert_eq!(to_chars(b" \n\x7f\xadA~"), "ĠĊġŃA~");
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(to_bytes(&to_chars(&all)), all);
        assert_eq!(to_bytes("图"), "图".as_bytes());
    }
}
