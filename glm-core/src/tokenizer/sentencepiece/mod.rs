//! sentencepiece, the tokenizer of ChatGLM2 and ChatGLM3: `tokenizer.model` (a protobuf) or the same vocabulary inside a GGUF.

mod bpe;
mod normalizer;
mod proto;
mod unigram;

use std::collections::HashMap;
use std::path::Path;

pub(crate) use self::proto::NormalizerSpec;

use self::normalizer::Normalizer;
use self::proto::ModelProto;
use super::added::{AddedToken, AddedTokens};
use super::tiktoken::TokenizerConfig;
use super::vocab::{TokenKind, Vocab};
use super::{Inner, Model, Tokenizer, TokenizerError};

/// Special tokens that ChatGLM2 and ChatGLM3 put after the pieces, in id order (64789 to 64797). ChatGLM2 has the first five; its
/// embedding table has rows for the other ids too, which text never reaches.
const CHATGLM_SPECIAL_TOKENS: [&str; 9] = [
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "sop",
    "eop",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Unigram,
    Bpe,
}

/// The model behind a sentencepiece tokenizer.
#[derive(Debug)]
pub(crate) struct SentencePiece {
    algorithm: Algorithm,
    normalizer: Normalizer,
    /// Pieces that segmentation may use.
    pieces: HashMap<Box<str>, u32>,
    /// Control, unknown and byte pieces, which no text is cut into.
    reserved: HashMap<Box<str>, u32>,
    /// Distinct lengths of `pieces` in bytes, shortest first.
    piece_lengths: Vec<usize>,
    /// Score of every id; ids past the end score 0.
    scores: Vec<f32>,
    unused: Vec<u32>,
    /// Pieces that are found in the text before anything else and never merged.
    user_defined: AddedTokens,
    /// The token of each byte, when unknown characters fall back to bytes.
    bytes: Option<Box<[u32; 256]>>,
    unk_id: u32,
    pub bos_id: Option<u32>,
    pub eos_id: Option<u32>,
    min_score: f32,
    max_score: f32,
}

impl Tokenizer {
    /// Reads a sentencepiece `tokenizer.model` (BPE or unigram) and appends ChatGLM's special tokens after its pieces.
    ///
    /// `config_json` is the text of `tokenizer_config.json`; the `added_tokens_decoder` of newer files adds to the nine tokens that
    /// every ChatGLM3 has.
    ///
    /// # Errors
    /// [`TokenizerError`] if the bytes are not such a model, or it is of another type.
    pub fn from_sentencepiece(
        bytes: &[u8],
        config_json: Option<&str>,
        file: &Path,
    ) -> Result<Self, TokenizerError> {
        let proto = ModelProto::parse(bytes, file)?;
        let algorithm = match proto.model_type {
            1 => Algorithm::Unigram,
            2 => Algorithm::Bpe,
            other => {
                let found = format!("type {other}");
                let (field, expected) = ("trainer_spec.model_type", "1 (unigram) or 2 (BPE)");
                return Err(TokenizerError::Unsupported {
                    file: file.into(),
                    field,
                    expected,
                    found,
                });
            }
        };
        if proto.pieces.is_empty() {
            return Err(TokenizerError::empty(file));
        }
        let mut vocab = Vocab::default();
        for (id, piece) in (0u64..).zip(&proto.pieces) {
            let invalid = |reason| TokenizerError::Token {
                file: file.into(),
                id,
                token: piece.text.clone(),
                reason,
            };
            let kind = TokenKind::from_code(piece.kind)
                .ok_or_else(|| invalid("its type is not one of sentencepiece's (1 to 6)"))?;
            if piece.text.is_empty() {
                return Err(invalid("the piece is empty"));
            }
            vocab.insert(id, &piece.text, kind, file)?;
        }
        let scores = proto.pieces.iter().map(|piece| piece.score).collect();
        let mut model = SentencePiece::new(
            algorithm,
            &vocab,
            |_| true,
            scores,
            proto.normalizer.clone(),
        );
        model.unk_id = u32::try_from(proto.unk_id).unwrap_or(0);
        model.bos_id = u32::try_from(proto.bos_id).ok();
        model.eos_id = u32::try_from(proto.eos_id).ok();
        if !proto.byte_fallback {
            model.bytes = None;
        }

        let added = appended_tokens(&mut vocab, config_json, file)?;
        let prefix = ["[gMASK]", "sop"]
            .iter()
            .filter_map(|content| added.id(content))
            .collect();
        Inner {
            vocab,
            added,
            model: Model::SentencePiece(model),
            prefix,
            file: file.into(),
        }
        .finish()
    }
}

fn appended_tokens(
    vocab: &mut Vocab,
    config_json: Option<&str>,
    file: &Path,
) -> Result<AddedTokens, TokenizerError> {
    let pieces = vocab.len() as u64;
    let mut tokens = Vec::new();
    for (id, content) in (pieces..).zip(CHATGLM_SPECIAL_TOKENS) {
        vocab.insert(id, content, TokenKind::Control, file)?;
        tokens.push(AddedToken {
            id: id as u32,
            content: content.into(),
            special: true,
            ..AddedToken::default()
        });
    }
    // The configuration repeats pieces such as `</s>` too; those are the model's.
    for (id, entry) in TokenizerConfig::parse(config_json, file)?.added_tokens_decoder {
        if id >= pieces {
            vocab.insert(id, &entry.content, entry.kind(), file)?;
            tokens.push(entry.into_token(id as u32)); // insert has refused anything larger
        }
    }
    Ok(AddedTokens::new(tokens))
}

impl SentencePiece {
    /// A BPE model from a GGUF vocabulary, in which `added` tokens are no pieces.
    pub fn new_bpe(
        vocab: &Vocab,
        added: &AddedTokens,
        scores: Vec<f32>,
        unk_id: u32,
        spec: NormalizerSpec,
    ) -> Self {
        let is_piece = |text: &str| added.id(text).is_none();
        let mut model = Self::new(Algorithm::Bpe, vocab, is_piece, scores, spec);
        model.unk_id = unk_id;
        model
    }

    fn new(
        algorithm: Algorithm,
        vocab: &Vocab,
        is_piece: impl Fn(&str) -> bool,
        scores: Vec<f32>,
        spec: NormalizerSpec,
    ) -> Self {
        let mut pieces: HashMap<Box<str>, u32> = HashMap::new();
        let mut reserved = HashMap::new();
        let mut unused = Vec::new();
        let mut user_defined = Vec::new();
        let mut bytes = [None; 256];
        let (mut min_score, mut max_score) = (f32::MAX, f32::MIN);
        for (id, text, kind) in vocab
            .iter()
            .filter(|(_, text, _)| !text.is_empty() && is_piece(text))
        {
            match kind {
                TokenKind::Byte => {
                    if let Some(byte) = byte_of(text) {
                        bytes[usize::from(byte)] = Some(id);
                    }
                    reserved.insert(text.into(), id);
                    continue;
                }
                TokenKind::Control | TokenKind::Unknown => {
                    reserved.insert(text.into(), id);
                    continue;
                }
                TokenKind::UserDefined => {
                    user_defined.push(AddedToken {
                        id,
                        content: text.into(),
                        ..AddedToken::default()
                    });
                }
                TokenKind::Unused => unused.push(id),
                TokenKind::Normal => {
                    let score = scores.get(id as usize).copied().unwrap_or_default();
                    (min_score, max_score) = (min_score.min(score), max_score.max(score));
                }
            }
            pieces.insert(text.into(), id);
        }
        let mut piece_lengths: Vec<usize> = pieces.keys().map(|piece| piece.len()).collect();
        piece_lengths.sort_unstable();
        piece_lengths.dedup();
        let all_bytes: Option<Vec<u32>> = bytes.into_iter().collect();
        Self {
            algorithm,
            normalizer: Normalizer::new(spec),
            pieces,
            reserved,
            piece_lengths,
            scores,
            unused,
            user_defined: AddedTokens::new(user_defined),
            bytes: all_bytes.and_then(|bytes| bytes.into_boxed_slice().try_into().ok()),
            unk_id: 0,
            bos_id: None,
            eos_id: None,
            min_score,
            max_score,
        }
    }

    /// Appends the ids of `text`, which gets its own dummy prefix.
    pub fn encode(&self, text: &str, ids: &mut Vec<u32>) {
        let normalized = self.normalizer.normalize(text, &self.user_defined);
        let pieces = match self.algorithm {
            Algorithm::Bpe => bpe::segment(self, &normalized),
            Algorithm::Unigram => unigram::segment(self, &normalized),
        };
        let mut after_unknown = false;
        for piece in pieces {
            match (self.pieces.get(piece), &self.bytes) {
                (Some(&id), _) => ids.push(id),
                (None, Some(bytes)) => {
                    ids.extend(piece.bytes().map(|byte| bytes[usize::from(byte)]))
                }
                // neighbouring unknown pieces become one token
                (None, None) if after_unknown => {}
                (None, None) => ids.push(self.unk_id),
            }
            after_unknown = self.bytes.is_none() && !self.pieces.contains_key(piece);
        }
    }

    pub fn id(&self, piece: &str) -> Option<u32> {
        self.pieces
            .get(piece)
            .or_else(|| self.reserved.get(piece))
            .copied()
    }

    pub fn score(&self, id: u32) -> f32 {
        self.scores.get(id as usize).copied().unwrap_or_default()
    }

    pub fn unk_id(&self) -> u32 {
        self.unk_id
    }

    /// Whether decoding drops the first `▁` of a text.
    pub fn strips_dummy_prefix(&self) -> bool {
        let spec = self.normalizer.spec();
        spec.add_dummy_prefix || spec.remove_extra_whitespaces
    }

    pub fn removes_extra_whitespaces(&self) -> bool {
        self.normalizer.spec().remove_extra_whitespaces
    }

    pub fn adds_dummy_prefix(&self) -> bool {
        self.normalizer.spec().add_dummy_prefix
    }

    fn is_unused(&self, id: u32) -> bool {
        self.unused.binary_search(&id).is_ok() // collected in id order
    }
}

/// The byte that a byte piece (`<0x0A>`) stands for.
pub(crate) fn byte_of(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2)
        .then(|| u8::from_str_radix(digits, 16).ok())
        .flatten()
}
