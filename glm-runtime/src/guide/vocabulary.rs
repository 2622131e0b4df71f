//! A model's vocabulary as the parser needs it, and the masks over it.

use std::sync::Arc;

use glm_core::Tokenizer;
use glm_core::tokenizer::TokenKind;
use llguidance::ParserFactory;
use llguidance::toktrie::{ApproximateTokEnv, SimpleVob, TokEnv, TokRxInfo, TokTrie};

use super::GrammarError;
use super::thinking;

/// Longest token in bytes that a guided answer may use: the parser's tables stop at 1024, the blanks of the longest token of GLM-4.
const MAX_TOKEN_BYTES: usize = 512;
/// Most bytes of all tokens: the parser's tables count the nodes of a prefix tree in 22 bits. GLM's vocabularies have a million.
const MAX_VOCAB_BYTES: usize = (1 << 22) - 1;
/// States of the lexer that one answer may visit, at one to two kB each: schemas in use stay far below, and one request cannot take
/// more memory than its KV cache does.
const MAX_LEXER_STATES: usize = 50_000;

/// The tokens of a model by their bytes, with the tables that every parser over them shares.
pub(super) struct Vocabulary {
    pub(super) tokenizer: Tokenizer,
    pub(super) size: usize,
    pub(super) eos_token_ids: Vec<u32>,
    pub(super) parsers: ParserFactory,
    /// The token `<think>`, if it is one.
    pub(super) think: Option<u32>,
    /// The tokens of one line end and of two.
    pub(super) line_ends: Vec<u32>,
    /// Tokens that can end a thought with something of the answer behind it.
    pub(super) thought_enders: Vec<(u32, Vec<u8>)>,
    /// Tokens that `</think>` can be written with.
    pub(super) closers: Vec<(u32, Vec<u8>)>,
}

impl Vocabulary {
    /// `size`: length of a row of logits.
    pub(super) fn new(
        tokenizer: &Tokenizer,
        size: usize,
        eos_token_ids: &[u32],
    ) -> Result<Self, GrammarError> {
        let in_range = |&id: &u32| (id as usize) < size;
        let eos_token_ids: Vec<u32> = eos_token_ids.iter().copied().filter(in_range).collect();
        let &[eos, ..] = &eos_token_ids[..] else {
            return Err(GrammarError::NoEndOfSequence);
        };
        let words: Vec<Vec<u8>> = (0..size as u32).map(|id| word(tokenizer, id)).collect();
        let found = words.iter().map(Vec::len).sum();
        if found > MAX_VOCAB_BYTES {
            return Err(GrammarError::Vocabulary {
                found,
                limit: MAX_VOCAB_BYTES,
            });
        }
        let trie = TokTrie::from(&TokRxInfo::new(size as u32, eos), &words);
        // Without forced tokens nothing is tokenised: the model chooses how to split what the grammar demands.
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie.with_eos_tokens(&eos_token_ids)));
        let mut parsers = ParserFactory::new_simple(&env)
            .map_err(|error| GrammarError::invalid("vocabulary", error))?;
        parsers.quiet();
        let limits = parsers.limits_mut();
        limits.max_lexer_states = MAX_LEXER_STATES;
        limits.verbose_errors = false;
        let ids = 0..size as u32;
        let (mut thought_enders, mut closers) = (Vec::new(), Vec::new());
        for id in ids.clone() {
            let bytes = tokenizer.token_bytes(id);
            if thinking::may_close(&bytes) && tokenizer.kind_of(id) != TokenKind::Unused {
                closers.push((id, bytes.clone()));
            }
            if thinking::may_end_a_thought_too_late(&bytes) {
                thought_enders.push((id, bytes));
            }
        }
        let is_line_end = |&id: &u32| matches!(&words[id as usize][..], b"\n" | b"\n\n");
        Ok(Self {
            tokenizer: tokenizer.clone(),
            size,
            eos_token_ids,
            parsers,
            line_ends: ids.filter(is_line_end).collect(),
            think: tokenizer
                .token_to_id(thinking::OPEN)
                .filter(|&id| is_added(tokenizer, id)),
            thought_enders,
            closers,
        })
    }

    /// Whether `text` is an added token, which no other tokens spell.
    pub(super) fn has_token(&self, text: &str) -> bool {
        let id = self.tokenizer.token_to_id(text);
        id.is_some_and(|id| (id as usize) < self.size && is_added(&self.tokenizer, id))
    }

    /// This token and no other.
    pub(super) fn only(&self, id: u32) -> TokenMask {
        let mut mask = TokenMask(SimpleVob::alloc(self.size));
        mask.add(id);
        mask
    }

    /// Every token but those that end the answer.
    pub(super) fn all_but_the_end(&self) -> TokenMask {
        let mut mask = TokenMask(SimpleVob::alloc_ones(self.size));
        mask.remove(&self.eos_token_ids);
        mask
    }
}

/// The bytes of a token for the parser: none for ids that are no text, and a mark before those of special and added tokens.
fn word(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    let bytes = tokenizer.token_bytes(id);
    let kind = tokenizer.kind_of(id);
    if kind == TokenKind::Unused || bytes.is_empty() || bytes.len() > MAX_TOKEN_BYTES {
        Vec::new()
    } else if tokenizer.is_special(id) || is_added(tokenizer, id) {
        [&[TokTrie::SPECIAL_TOKEN_MARKER], &bytes[..]].concat()
    } else {
        bytes
    }
}

fn is_added(tokenizer: &Tokenizer, id: u32) -> bool {
    let is_kind = matches!(
        tokenizer.kind_of(id),
        TokenKind::Control | TokenKind::UserDefined
    );
    is_kind && tokenizer.id_to_token(id).is_some()
}

/// A set of token ids, for one row of logits.
#[derive(Debug, Clone)]
pub(crate) struct TokenMask(pub(super) SimpleVob);

impl TokenMask {
    /// Makes every token outside the set impossible. `logits`: `[V]`.
    pub(crate) fn apply(&self, logits: &mut [f32]) {
        self.0.iter_unset_entries(|id| {
            if let Some(logit) = logits.get_mut(id) {
                *logit = f32::NEG_INFINITY;
            }
        });
    }

    /// The set as bits, those of token `i` in word `i / 32`, for `[V]` logits.
    pub(crate) fn words(&self, len: usize) -> impl Iterator<Item = u32> {
        let words = self.0.as_slice().iter().copied();
        words
            .chain(std::iter::repeat(u32::MAX))
            .take(len.div_ceil(32))
    }

    pub(super) fn add(&mut self, id: u32) {
        self.0.allow_token(id);
    }

    pub(super) fn remove(&mut self, ids: &[u32]) {
        let size = self.0.len();
        for &id in ids.iter().filter(|&&id| (id as usize) < size) {
            self.0.disallow_token(id);
        }
    }

    /// Takes `ids` out unless nothing else is in.
    pub(super) fn remove_if_others_remain(&mut self, ids: &[u32]) {
        let mut others = self.clone();
        others.remove(ids);
        // The parser's sets have a bit more than there are tokens.
        if others.0.first_bit_set().is_some_and(|id| id < self.0.len()) {
            *self = others;
        }
    }
}
