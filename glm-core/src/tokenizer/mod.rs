//! Text to token ids and back.
//!
//! Three kinds of vocabulary, four containers, one [`Tokenizer`]:
//!
//! | container | models | read by |
//! |---|---|---|
//! | `tokenizer.json` | GLM-4 and later in Hugging Face form | [`Tokenizer::from_hf_json`] |
//! | `tokenizer.model`, tiktoken ranks | GLM-4-9B in its own form | [`Tokenizer::from_tiktoken`] |
//! | `tokenizer.model`, sentencepiece | ChatGLM2, ChatGLM3 | [`Tokenizer::from_sentencepiece`] |
//! | GGUF metadata | all of them, converted | [`Tokenizer::from_gguf`] |
//!
//! Special tokens in a text are found only where the caller says so ([`SpecialTokens::Parse`]): what a user typed is encoded with
//! [`SpecialTokens::Plain`] and can not become a control token.

mod added;
mod byte_level;
mod error;
mod gguf;
mod huggingface;
mod sentencepiece;
mod stream;
mod tiktoken;
mod vocab;

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use self::error::TokenizerError;
pub use self::gguf::GgufVocab;
pub use self::stream::DecodeStream;
pub use self::vocab::{MAX_VOCAB_SIZE, TokenKind};

pub(crate) use self::added::AddedToken;
use self::added::{AddedTokens, Segment};
use self::byte_level::ByteBpe;
use self::sentencepiece::SentencePiece;
use self::stream::TextDecoder;
use self::vocab::Vocab;

/// Whether texts like `<|user|>` inside a text are that token, or just those characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SpecialTokens {
    /// Added tokens in the text are recognised: for rendered templates and raw prompts.
    Parse,
    /// Everything is text: for what somebody typed.
    Plain,
}

/// A tokenizer of the GLM family. Cheap to clone; can be shared between threads.
///
/// ```
/// use glm_core::tokenizer::{SpecialTokens, Tokenizer};
/// let ranks = "YQ== 0\nYg== 1\nYWI= 2\nPA== 3\n"; // a, b, ab, <
/// let tokenizer = Tokenizer::from_tiktoken(ranks.as_bytes(), None, "tokenizer.model".as_ref())?;
/// let ids = tokenizer.encode("ab<sop>a", SpecialTokens::Parse)?;
/// assert_eq!(ids, [2, 8, 0]);
/// assert_eq!(tokenizer.decode(&ids, false), "ab<sop>a");
/// assert_eq!(tokenizer.decode(&ids, true), "aba");
/// assert!(tokenizer.encode("<sop>", SpecialTokens::Plain).is_err()); // this toy has no tokens for s, o, p
/// # Ok::<(), glm_core::tokenizer::TokenizerError>(())
/// ```
#[derive(Clone)]
pub struct Tokenizer(Arc<Inner>);

struct Inner {
    vocab: Vocab,
    added: AddedTokens,
    model: Model,
    prefix: Vec<u32>,
    /// Named in errors.
    file: PathBuf,
}

enum Model {
    ByteBpe(ByteBpe),
    SentencePiece(SentencePiece),
}

impl Inner {
    fn finish(self) -> Result<Tokenizer, TokenizerError> {
        if self.vocab.len() == 0 {
            return Err(TokenizerError::empty(&self.file));
        }
        Ok(Tokenizer(Arc::new(self)))
    }

    fn is_added(&self, id: u32, text: &str) -> bool {
        self.added.id(text) == Some(id)
    }

    /// The bytes that token `id`, written `text`, stands for.
    fn bytes_of(&self, id: u32, text: &str) -> Vec<u8> {
        if self.is_added(id, text) {
            return text.as_bytes().to_vec();
        }
        match (&self.model, self.vocab.kind(id)) {
            (Model::ByteBpe(_), _) => byte_level::to_bytes(text),
            (Model::SentencePiece(_), TokenKind::Byte) => {
                sentencepiece::byte_of(text).into_iter().collect()
            }
            (Model::SentencePiece(_), TokenKind::Control | TokenKind::Unknown) => Vec::new(),
            (Model::SentencePiece(_), _) => text.replace('▁', " ").into_bytes(),
        }
    }
}

impl Tokenizer {
    /// Ids of `text`. Never adds a [`prefix`](Self::prefix).
    ///
    /// In a sentencepiece vocabulary every stretch of text between special tokens gets its own dummy blank, as ChatGLM3 does.
    ///
    /// # Errors
    /// [`TokenizerError::Unencodable`] if the vocabulary cannot express the text; no published vocabulary has such gaps.
    pub fn encode(&self, text: &str, special: SpecialTokens) -> Result<Vec<u32>, TokenizerError> {
        match special {
            SpecialTokens::Parse => self.encode_segments(self.0.added.split(text, |_, _| true)),
            SpecialTokens::Plain => self.encode_segments(vec![Segment::Text(text)]),
        }
    }

    /// As [`SpecialTokens::Parse`], but special tokens that touch one of the `guarded` byte ranges (sorted, disjoint) are text.
    pub(crate) fn encode_guarded(
        &self,
        text: &str,
        guarded: &[Range<usize>],
    ) -> Result<Vec<u32>, TokenizerError> {
        let is_free = |token: &AddedToken, found: Range<usize>| {
            let next = guarded.partition_point(|range| range.end <= found.start);
            !token.special
                || guarded
                    .get(next)
                    .is_none_or(|range| found.end <= range.start)
        };
        self.encode_segments(self.0.added.split(text, is_free))
    }

    /// Where special tokens stand in `text`, in bytes.
    pub(crate) fn special_token_ranges(&self, text: &str) -> Vec<Range<usize>> {
        let ranges = std::cell::RefCell::new(Vec::new());
        self.0.added.split(text, |token, found| {
            if token.special {
                ranges.borrow_mut().push(found);
            }
            true
        });
        ranges.into_inner()
    }

    fn encode_segments(&self, segments: Vec<Segment<'_>>) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = Vec::new();
        for segment in segments {
            match (segment, &self.0.model) {
                (Segment::Token(id), _) => ids.push(id),
                (Segment::Text(text), Model::ByteBpe(bpe)) => bpe.encode(text, &mut ids)?,
                (Segment::Text(text), Model::SentencePiece(model)) => model.encode(text, &mut ids),
            }
        }
        Ok(ids)
    }

    /// What this tokenizer puts before a text when asked to add special tokens: `[gMASK]<sop>` (ChatGLM: `[gMASK]sop`), or nothing.
    /// Chat templates write it themselves.
    pub fn prefix(&self) -> &[u32] {
        &self.0.prefix
    }

    /// Text of `ids`. Bytes that form no character become U+FFFD; ids without a token become nothing.
    ///
    /// `skip_special` leaves out the tokens that the file marks special, and keeps added tokens that it does not, such as `<think>`.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let mut decoder = TextDecoder::new();
        let mut text = String::new();
        for &id in ids {
            decoder.push(&self.0, id, skip_special, &mut text);
        }
        decoder.finish(&self.0, &mut text);
        text
    }

    /// Decodes a growing list of ids; the pieces make up what [`decode`](Self::decode) gives for the whole list.
    ///
    /// ```
    /// use glm_core::tokenizer::Tokenizer;
    /// let ranks = "5A== 0\nvQ== 1\noA== 2\n"; // the three bytes of 你
    /// let tokenizer = Tokenizer::from_tiktoken(ranks.as_bytes(), None, "tokenizer.model".as_ref())?;
    /// let mut stream = tokenizer.decode_stream(true);
    /// assert_eq!((stream.push(0), stream.push(1)), (None, None));
    /// assert_eq!(stream.push(2).as_deref(), Some("你"));
    /// assert_eq!(stream.finish(), None);
    /// # Ok::<(), glm_core::tokenizer::TokenizerError>(())
    /// ```
    pub fn decode_stream(&self, skip_special: bool) -> DecodeStream {
        DecodeStream::new(self.clone(), skip_special)
    }

    /// Text of a token as the vocabulary file writes it (`Ġhello`, `▁hello`, `<|user|>`).
    pub fn id_to_token(&self, id: u32) -> Option<&str> {
        self.0.vocab.text(id)
    }

    /// The id of a token, written as in the vocabulary file.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        let in_model = || match &self.0.model {
            Model::ByteBpe(bpe) => bpe.id(token),
            Model::SentencePiece(model) => model.id(token),
        };
        self.0.added.id(token).or_else(in_model)
    }

    /// The id of a token that a chat format cannot do without.
    ///
    /// # Errors
    /// [`TokenizerError::MissingToken`].
    pub(crate) fn required_id(&self, token: &str) -> Result<u32, TokenizerError> {
        self.token_to_id(token)
            .ok_or_else(|| TokenizerError::MissingToken {
                token: token.to_owned(),
            })
    }

    /// The bytes a token stands for; half a character is possible. Empty for ids without a token.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        self.0
            .vocab
            .text(id)
            .map_or_else(Vec::new, |text| self.0.bytes_of(id, text))
    }

    /// Whether `decode` leaves this id out when special tokens are skipped.
    pub fn is_special(&self, id: u32) -> bool {
        self.0.vocab.kind(id).is_special()
    }

    /// What the token is for.
    pub fn kind_of(&self, id: u32) -> TokenKind {
        self.0.vocab.kind(id)
    }

    /// One more than the largest id; the model's embedding table may have more rows.
    pub fn vocab_size(&self) -> usize {
        self.0.vocab.len()
    }

    /// The added tokens (special or visible) as text and id, in the file's order.
    pub fn added_tokens(&self) -> impl Iterator<Item = (&str, u32)> {
        self.0
            .added
            .iter()
            .map(|token| (token.content.as_str(), token.id))
    }

    /// The kind of vocabulary, for people: "byte-level BPE" or "sentencepiece".
    pub fn kind(&self) -> &'static str {
        match self.0.model {
            Model::ByteBpe(_) => "byte-level BPE",
            Model::SentencePiece(_) => "sentencepiece",
        }
    }

    /// Whether this is a sentencepiece vocabulary, whose chat formats work on tokens and not on text.
    pub fn is_sentencepiece(&self) -> bool {
        matches!(self.0.model, Model::SentencePiece(_))
    }

    /// The file it was read from.
    pub fn file(&self) -> &Path {
        &self.0.file
    }

    /// Checks that a model with `rows` rows in its embedding table has one for every token.
    ///
    /// # Errors
    /// [`TokenizerError::VocabMismatch`].
    pub fn check_vocab(&self, rows: usize) -> Result<(), TokenizerError> {
        let Some((id, token, _)) = self
            .0
            .vocab
            .iter()
            .filter(|(_, text, _)| !text.is_empty())
            .last()
        else {
            return Ok(());
        };
        if (id as usize) < rows {
            return Ok(());
        }
        Err(TokenizerError::VocabMismatch {
            file: self.0.file.clone(),
            id,
            token: token.to_owned(),
            rows,
        })
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, file) = (self.kind(), &self.0.file);
        f.debug_struct("Tokenizer")
            .field("kind", &kind)
            .field("vocab_size", &self.vocab_size())
            .field("file", file)
            .finish()
    }
}
