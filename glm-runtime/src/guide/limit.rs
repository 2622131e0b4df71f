//! [`ThoughtLimit`]: how long one answer may think.

use std::sync::Arc;

use super::thinking::{self, Phase};
use super::vocabulary::{TokenMask, Vocabulary};

/// Counts the tokens of a thought, and ends it where they are used up: then nothing may come next but `</think>`, whatever the model
/// would rather say. Behind it the answer goes on as any other.
pub(crate) struct ThoughtLimit {
    vocabulary: Arc<Vocabulary>,
    phase: Phase,
    left: usize,
}

impl ThoughtLimit {
    /// For the answer to `prompt`, which may think for `max_tokens` tokens.
    pub(super) fn new(vocabulary: Arc<Vocabulary>, prompt: &[u32], max_tokens: usize) -> Self {
        Self {
            phase: Phase::after(prompt, &vocabulary),
            vocabulary,
            left: max_tokens,
        }
    }

    /// The token that must come next, if the thought has to end.
    pub(crate) fn mask(&self) -> Option<TokenMask> {
        match &self.phase {
            Phase::Thinking(tail) if self.left == 0 => thinking::closing(tail, &self.vocabulary),
            _ => None,
        }
    }

    /// Goes on by the token that was chosen.
    pub(crate) fn advance(&mut self, id: u32) {
        self.phase = match std::mem::replace(&mut self.phase, Phase::Answering) {
            Phase::Before { think, .. } if think == Some(id) => Phase::Thinking(Vec::new()),
            before @ Phase::Before { .. } if self.vocabulary.line_ends.contains(&id) => before,
            Phase::Thinking(tail) => {
                self.left = self.left.saturating_sub(1);
                Phase::think_on(tail, &self.vocabulary.tokenizer.token_bytes(id))
            }
            Phase::Before { .. } | Phase::Answering => Phase::Answering,
        };
    }
}
