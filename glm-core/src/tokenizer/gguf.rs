//! The vocabulary inside a GGUF file, read and written.

use std::collections::HashMap;
use std::path::Path;

use super::added::{AddedToken, AddedTokens};
use super::byte_level::ByteBpe;
use super::huggingface::split_merge_line;
use super::sentencepiece::{NormalizerSpec, SentencePiece};
use super::vocab::{MAX_VOCAB_SIZE, TokenKind, Vocab};
use super::{Inner, Model, Tokenizer, TokenizerError};

/// What a GGUF file says about its tokenizer, in plain data: the `tokenizer.ggml.*` keys.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GgufVocab {
    /// `model`: `gpt2` (byte-level BPE) or `llama` (sentencepiece).
    pub model: String,
    /// `pre`: `chatglm-bpe`, `glm4` or `chatglm-spm`; absent in old files.
    pub pre: Option<String>,
    /// `tokens`: text of every id.
    pub tokens: Vec<String>,
    /// `token_type`: [`TokenKind`] numbers; empty means all normal.
    pub token_types: Vec<i32>,
    /// `merges`: `left right`, most important first (`gpt2` only).
    pub merges: Vec<String>,
    /// `scores`: one per token (`llama` only).
    pub scores: Vec<f32>,
    /// `bos_token_id`.
    pub bos: Option<u32>,
    /// `eos_token_id`.
    pub eos: Option<u32>,
    /// `eot_token_id`: ends a turn.
    pub eot: Option<u32>,
    /// `eom_token_id`: ends a message that calls a tool.
    pub eom: Option<u32>,
    /// `unknown_token_id`.
    pub unk: Option<u32>,
    /// `padding_token_id`.
    pub pad: Option<u32>,
    /// `add_space_prefix`: sentencepiece's dummy blank; absent means yes.
    pub add_space_prefix: Option<bool>,
}

impl Tokenizer {
    /// Builds the tokenizer of a GGUF file.
    ///
    /// # Errors
    /// [`TokenizerError`] if the kind of tokenizer is not one of GLM's, or its lists contradict each other.
    ///
    /// ```
    /// use glm_core::tokenizer::{GgufVocab, SpecialTokens, Tokenizer};
    /// let vocab = GgufVocab {
    ///     model: "gpt2".into(),
    ///     pre: Some("glm4".into()),
    ///     tokens: ["a", "b", "ab", "<|user|>"].map(String::from).to_vec(),
    ///     token_types: vec![1, 1, 1, 3],
    ///     merges: vec!["a b".into()],
    ///     ..GgufVocab::default()
    /// };
    /// let tokenizer = Tokenizer::from_gguf(vocab, "model.gguf".as_ref())?;
    /// assert_eq!(tokenizer.encode("aab<|user|>", SpecialTokens::Parse)?, [0, 2, 3]);
    /// # Ok::<(), glm_core::tokenizer::TokenizerError>(())
    /// ```
    pub fn from_gguf(parts: GgufVocab, file: &Path) -> Result<Self, TokenizerError> {
        let refuse = |field, expected, found| {
            Err(TokenizerError::Unsupported {
                file: file.into(),
                field,
                expected,
                found,
            })
        };
        let (tokens, limit) = (parts.tokens.len() as u64, MAX_VOCAB_SIZE as u64);
        if tokens == 0 || tokens > limit {
            return Err(TokenizerError::VocabSize {
                file: file.into(),
                found: tokens,
                limit,
            });
        }
        let types = parts.token_types.len();
        if types != 0 && types != parts.tokens.len() {
            return refuse(
                "tokenizer.ggml.token_type",
                "one entry per token",
                format!("{types} for {tokens} tokens"),
            );
        }
        match (parts.model.as_str(), parts.pre.as_deref()) {
            ("gpt2", None | Some("chatglm-bpe" | "glm4")) => byte_bpe_from_gguf(parts, file),
            ("llama", None | Some("chatglm-spm" | "default")) => {
                sentencepiece_from_gguf(parts, file)
            }
            ("gpt2" | "llama", pre) => refuse(
                "tokenizer.ggml.pre",
                "chatglm-bpe, glm4 or chatglm-spm",
                pre.unwrap_or_default().to_owned(),
            ),
            (model, _) => refuse("tokenizer.ggml.model", "gpt2 or llama", model.to_owned()),
        }
    }

    /// The vocabulary as a GGUF file holds it, padded with unused tokens to `rows`, the rows of the embedding table.
    /// [`from_gguf`](Self::from_gguf) reads it back, and so does llama.cpp.
    ///
    /// ```
    /// use glm_core::tokenizer::Tokenizer;
    /// let tokenizer = Tokenizer::from_tiktoken(b"YQ== 0\nYg== 1\nYWI= 2\n", None, "tokenizer.model".as_ref())?;
    /// let vocab = tokenizer.to_gguf(20);
    /// assert_eq!((vocab.model.as_str(), vocab.tokens.len(), vocab.eot), ("gpt2", 20, Some(10)));
    /// # Ok::<(), glm_core::tokenizer::TokenizerError>(())
    /// ```
    pub fn to_gguf(&self, rows: usize) -> GgufVocab {
        let inner = &*self.0;
        let len = inner.vocab.len().max(rows);
        let mut parts = GgufVocab {
            tokens: Vec::with_capacity(len),
            token_types: Vec::with_capacity(len),
            ..GgufVocab::default()
        };
        for id in 0..len as u32 {
            let (text, kind) = match inner.vocab.text(id) {
                Some(text) => (text.to_owned(), inner.vocab.kind(id)),
                None => (padding_text(id as usize), TokenKind::Unused),
            };
            parts.tokens.push(text);
            parts.token_types.push(kind as i32);
        }
        match &inner.model {
            Model::ByteBpe(bpe) => {
                parts.model = "gpt2".into();
                // llama.cpp gives both names the same split; the files of GLM-4-9B carry the first, later ones the second.
                parts.pre = Some("glm4".into());
                parts.merges = bpe.merges();
                parts.eos = self.token_to_id("<|endoftext|>");
                (parts.pad, parts.unk) = (parts.eos, parts.eos);
                parts.bos = self.token_to_id("[gMASK]");
                parts.eot = self.token_to_id("<|user|>");
                parts.eom = self.token_to_id("<|observation|>");
            }
            Model::SentencePiece(model) => {
                parts.model = "llama".into();
                parts.pre = Some("chatglm-spm".into());
                parts.scores = (0..len as u32).map(|id| model.score(id)).collect();
                parts.unk = Some(model.unk_id());
                parts.pad = Some(model.unk_id());
                (parts.bos, parts.eos) = (model.bos_id, model.eos_id);
                parts.add_space_prefix = Some(model.adds_dummy_prefix());
            }
        }
        parts
    }
}

/// What llama.cpp's converter writes for rows of the embedding table that no token uses.
fn padding_text(id: usize) -> String {
    format!("[PAD{id}]")
}

/// The kind of token `id`; `None` for a number that names no kind.
fn kind_of(parts: &GgufVocab, id: usize) -> Option<TokenKind> {
    parts
        .token_types
        .get(id)
        .map_or(Some(TokenKind::Normal), |&code| TokenKind::from_code(code))
}

/// Fills the table of tokens and collects those that are found in text before the model sees it.
fn read_tokens(
    parts: &GgufVocab,
    file: &Path,
    is_added: impl Fn(u32, TokenKind) -> bool,
) -> Result<(Vocab, AddedTokens), TokenizerError> {
    let mut vocab = Vocab::default();
    let mut added = Vec::new();
    for (index, token) in parts.tokens.iter().enumerate() {
        let id = index as u32; // from_gguf has bounded the list
        let Some(kind) = kind_of(parts, index) else {
            let reason = "its type is not one of GGUF's (1 to 6)";
            return Err(TokenizerError::Token {
                file: file.into(),
                id: id.into(),
                token: token.clone(),
                reason,
            });
        };
        let is_padding = kind == TokenKind::Unused && *token == padding_text(index);
        let text = if is_padding { "" } else { token.as_str() };
        vocab.insert(id.into(), text, kind, file)?;
        if is_added(id, kind) {
            added.push(AddedToken {
                id,
                content: token.clone(),
                special: kind.is_special(),
                ..AddedToken::default()
            });
        }
    }
    Ok((vocab, AddedTokens::new(added)))
}

fn byte_bpe_from_gguf(parts: GgufVocab, file: &Path) -> Result<Tokenizer, TokenizerError> {
    let is_added = |_, kind| matches!(kind, TokenKind::Control | TokenKind::UserDefined);
    let (vocab, added) = read_tokens(&parts, file, is_added)?;
    let prefix = ["[gMASK]", "<sop>"]
        .iter()
        .filter_map(|content| added.id(content))
        .collect();

    // Added tokens stay out of the model: text that spells one (`/nothink` is one piece of the pre-split) must not become it.
    let mut by_text = HashMap::with_capacity(parts.tokens.len());
    for (id, text, _) in vocab
        .iter()
        .filter(|(_, _, kind)| *kind == TokenKind::Normal)
    {
        if by_text.insert(text.to_owned(), id).is_some() {
            let reason = "an earlier token has the same text";
            return Err(TokenizerError::Token {
                file: file.into(),
                id: id.into(),
                token: text.into(),
                reason,
            });
        }
    }
    let lines = parts.merges.iter().enumerate();
    let merges = lines
        .map(|(rank, line)| split_merge_line(line, rank, file))
        .collect::<Result<_, _>>()?;
    let bpe = ByteBpe::new(by_text, merges, true, ByteBpe::glm_pre_tokenizer()?, file)?;
    Inner {
        vocab,
        added,
        model: Model::ByteBpe(bpe),
        prefix,
        file: file.into(),
    }
    .finish()
}

fn sentencepiece_from_gguf(parts: GgufVocab, file: &Path) -> Result<Tokenizer, TokenizerError> {
    let (scores, tokens) = (parts.scores.len(), parts.tokens.len());
    if scores != tokens {
        let (field, found) = (
            "tokenizer.ggml.scores",
            format!("{scores} for {tokens} tokens"),
        );
        return Err(TokenizerError::Unsupported {
            file: file.into(),
            field,
            expected: "one entry per token",
            found,
        });
    }
    // `<s>`, `</s>` and `<unk>` are never text; ChatGLM3's files call the first two `<bos>` and `<eos>`.
    let own = [
        parts.bos.unwrap_or(1),
        parts.eos.unwrap_or(2),
        parts.unk.unwrap_or(0),
    ];
    let is_added = |id, kind| {
        matches!(kind, TokenKind::Control | TokenKind::UserDefined) && !own.contains(&id)
    };
    let (vocab, added) = read_tokens(&parts, file, is_added)?;
    let prefix = ["[gMASK]", "sop"]
        .iter()
        .filter_map(|content| added.id(content))
        .collect();
    let spec = NormalizerSpec {
        add_dummy_prefix: parts.add_space_prefix.unwrap_or(true),
        remove_extra_whitespaces: false,
        ..NormalizerSpec::default()
    };
    let mut model =
        SentencePiece::new_bpe(&vocab, &added, parts.scores, parts.unk.unwrap_or(0), spec);
    (model.bos_id, model.eos_id) = (parts.bos, parts.eos);
    Inner {
        vocab,
        added,
        model: Model::SentencePiece(model),
        prefix,
        file: file.into(),
    }
    .finish()
}
