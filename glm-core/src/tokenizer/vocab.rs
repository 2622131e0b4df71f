//! The table of tokens: id to text and kind.

use std::path::Path;

use super::TokenizerError;

/// Largest number of token ids a tokenizer may have; GLM vocabularies end below 160,000.
pub const MAX_VOCAB_SIZE: usize = 1 << 20;

/// What a token is for. The numbers are those of GGUF's `tokenizer.ggml.token_type`, which took them from sentencepiece.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum TokenKind {
    /// A piece of text.
    Normal = 1,
    /// Stands for text the vocabulary cannot express (sentencepiece only).
    Unknown = 2,
    /// A special token: left out when special tokens are skipped.
    Control = 3,
    /// An added token that stays visible, such as `<think>`.
    UserDefined = 4,
    /// Padding: an id without text.
    Unused = 5,
    /// One byte, written `<0x0A>` (sentencepiece only).
    Byte = 6,
}

impl TokenKind {
    /// The kind with this number in a GGUF or sentencepiece file.
    ///
    /// ```
    /// use glm_core::tokenizer::TokenKind;
    /// assert_eq!(TokenKind::from_code(3), Some(TokenKind::Control));
    /// assert_eq!(TokenKind::from_code(7), None);
    /// ```
    pub fn from_code(code: i32) -> Option<Self> {
        Some(match code {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }

    /// Whether tokens of this kind are left out of text meant for people.
    pub(crate) fn is_special(self) -> bool {
        matches!(self, Self::Control | Self::Unknown)
    }
}

/// Text and kind of every id; ids that no token has are [`TokenKind::Unused`] with empty text.
#[derive(Debug, Default)]
pub(crate) struct Vocab {
    texts: Vec<Box<str>>,
    kinds: Vec<TokenKind>,
}

impl Vocab {
    /// Puts a token at `id`.
    ///
    /// # Errors
    /// [`TokenizerError::VocabSize`] if `id` is absurdly large; [`TokenizerError::Token`] if another text has it.
    pub fn insert(
        &mut self,
        id: u64,
        text: &str,
        kind: TokenKind,
        file: &Path,
    ) -> Result<(), TokenizerError> {
        if id >= MAX_VOCAB_SIZE as u64 {
            let limit = MAX_VOCAB_SIZE as u64;
            return Err(TokenizerError::VocabSize {
                file: file.into(),
                found: id.saturating_add(1),
                limit,
            });
        }
        let index = id as usize;
        if index >= self.texts.len() {
            self.texts.resize(index + 1, Box::default());
            self.kinds.resize(index + 1, TokenKind::Unused);
        }
        let taken = self.kinds[index] != TokenKind::Unused;
        if taken && *self.texts[index] != *text {
            let reason = "another token has this id";
            return Err(TokenizerError::Token {
                file: file.into(),
                id,
                token: text.into(),
                reason,
            });
        }
        self.texts[index] = text.into();
        self.kinds[index] = kind;
        Ok(())
    }

    /// One more than the largest id.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Text of `id` as the file writes it; `None` where no token is.
    pub fn text(&self, id: u32) -> Option<&str> {
        let text = self.texts.get(id as usize)?;
        (!text.is_empty()).then_some(text)
    }

    /// Kind of `id`.
    pub fn kind(&self, id: u32) -> TokenKind {
        self.kinds
            .get(id as usize)
            .copied()
            .unwrap_or(TokenKind::Unused)
    }

    /// All ids with text and kind, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &str, TokenKind)> {
        self.texts
            .iter()
            .zip(&self.kinds)
            .zip(0u32..)
            .map(|((text, kind), id)| (id, &**text, *kind))
    }
}
