//! The tiktoken rank file `tokenizer.model` of GLM-4-9B's own (remote code) form: one `base64-token rank` per line, ids by
//! rank; the special tokens stand in `tokenizer_config.json`.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::added::{AddedToken, AddedTokens};
use super::byte_level::{self, ByteBpe};
use super::huggingface::AddedTokenEntry;
use super::vocab::{TokenKind, Vocab};
use super::{Inner, Model, Tokenizer, TokenizerError};

/// Special tokens after the last rank where no configuration lists them, in id order (GLM-4-9B: 151329 to 151342).
const GLM4_SPECIAL_TOKENS: [&str; 14] = [
    "<|endoftext|>",
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "<sop>",
    "<eop>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
    "<|begin_of_image|>",
    "<|end_of_image|>",
    "<|begin_of_video|>",
    "<|end_of_video|>",
];

/// Longest token accepted, in bytes. Real ones end at 128; every split of a token is looked up once.
const MAX_TOKEN_BYTES: usize = 1024;

/// The part of `tokenizer_config.json` that carries added tokens.
#[derive(Deserialize, Default)]
pub(crate) struct TokenizerConfig {
    #[serde(default)]
    pub added_tokens_decoder: BTreeMap<u64, AddedTokenEntry>,
}

impl TokenizerConfig {
    pub fn parse(json: Option<&str>, file: &Path) -> Result<Self, TokenizerError> {
        let Some(json) = json else {
            return Ok(Self::default());
        };
        let file = file.with_file_name("tokenizer_config.json");
        serde_json::from_str(json).map_err(|source| TokenizerError::Json { file, source })
    }
}

impl Tokenizer {
    /// Reads a tiktoken rank file; `config_json` is the text of `tokenizer_config.json`, whose `added_tokens_decoder` gives the
    /// special tokens (without it GLM-4's fourteen follow the last rank).
    ///
    /// # Errors
    /// [`TokenizerError`] if there is no line, a line is malformed, a rank or token is given twice, or an added token takes the id of a rank.
    ///
    /// ```
    /// use glm_core::tokenizer::{SpecialTokens, Tokenizer};
    /// let ranks = "YQ== 0\nYg== 1\nYWI= 2\n"; // a, b, ab
    /// let tokenizer = Tokenizer::from_tiktoken(ranks.as_bytes(), None, "tokenizer.model".as_ref())?;
    /// assert_eq!(tokenizer.encode("ab<|user|>", SpecialTokens::Parse)?, [2, 10]);
    /// # Ok::<(), glm_core::tokenizer::TokenizerError>(())
    /// ```
    pub fn from_tiktoken(
        bytes: &[u8],
        config_json: Option<&str>,
        file: &Path,
    ) -> Result<Self, TokenizerError> {
        let ranks = parse_ranks(bytes, file)?;
        if ranks.is_empty() {
            return Err(TokenizerError::empty(file));
        }
        let merges = merges_from_ranks(&ranks);
        let mut vocab = Vocab::default();
        let mut by_text = HashMap::with_capacity(ranks.len());
        for (token, &rank) in &ranks {
            let text = byte_level::to_chars(token);
            vocab.insert(rank.into(), &text, TokenKind::Normal, file)?;
            by_text.insert(text, rank);
        }

        let config = TokenizerConfig::parse(config_json, file)?;
        let added = added_tokens(config, &mut vocab, file)?;
        let pre_tokenizer = ByteBpe::glm_pre_tokenizer()?;
        // tiktoken looks a whole piece up before it merges
        let bpe = ByteBpe::new(by_text, merges, true, pre_tokenizer, file)?;
        let prefix = ["[gMASK]", "<sop>"]
            .iter()
            .filter_map(|content| added.id(content))
            .collect();
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

fn added_tokens(
    config: TokenizerConfig,
    vocab: &mut Vocab,
    file: &Path,
) -> Result<AddedTokens, TokenizerError> {
    let mut tokens = Vec::new();
    if config.added_tokens_decoder.is_empty() {
        for content in GLM4_SPECIAL_TOKENS {
            let id = vocab.len() as u32;
            vocab.insert(id.into(), content, TokenKind::Control, file)?;
            tokens.push(AddedToken {
                id,
                content: content.into(),
                special: true,
                ..AddedToken::default()
            });
        }
    }
    for (id, entry) in config.added_tokens_decoder {
        vocab.insert(id, &entry.content, entry.kind(), file)?;
        tokens.push(entry.into_token(id as u32)); // insert has refused anything larger
    }
    Ok(AddedTokens::new(tokens))
}

/// Token bytes and ranks of every line.
fn parse_ranks(bytes: &[u8], file: &Path) -> Result<HashMap<Vec<u8>, u32>, TokenizerError> {
    let mut ranks = HashMap::new();
    for (number, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            continue;
        }
        let error = |reason| TokenizerError::RankLine {
            file: file.into(),
            line: number + 1,
            reason,
        };
        let (token, rank) = parse_rank_line(line).map_err(error)?;
        if ranks.insert(token, rank).is_some() {
            return Err(error("this token was there before"));
        }
    }
    if ranks.is_empty() {
        return Err(TokenizerError::RankLine {
            file: file.into(),
            line: 1,
            reason: "the file has no ranks",
        });
    }
    Ok(ranks)
}

fn parse_rank_line(line: &[u8]) -> Result<(Vec<u8>, u32), &'static str> {
    let line = std::str::from_utf8(line).map_err(|_| "not text")?;
    let (token, rank) = line.split_once(' ').ok_or("no blank")?;
    let token = STANDARD
        .decode(token)
        .map_err(|_| "the token is not base64")?;
    if token.is_empty() || token.len() > MAX_TOKEN_BYTES {
        return Err("the token is empty or longer than 1024 bytes");
    }
    Ok((
        token,
        rank.trim()
            .parse()
            .map_err(|_| "the rank is not a number")?,
    ))
}

/// The merges a rank file implies: every split of a token into two tokens, the lowest rank first, as transformers' own conversion
/// orders them.
fn merges_from_ranks(ranks: &HashMap<Vec<u8>, u32>) -> Vec<(String, String)> {
    let mut merges = Vec::new();
    for (token, &rank) in ranks {
        for at in 1..token.len() {
            let (left, right) = token.split_at(at);
            if let (Some(&left_rank), Some(&right_rank)) = (ranks.get(left), ranks.get(right)) {
                merges.push((rank, left_rank, right_rank, left, right));
            }
        }
    }
    merges.sort_unstable();
    let in_chars = |bytes| byte_level::to_chars(bytes);
    merges
        .into_iter()
        .map(|(_, _, _, left, right)| (in_chars(left), in_chars(right)))
        .collect()
}
