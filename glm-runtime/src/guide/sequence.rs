//! [`Guide`]: one answer on its way through a grammar.

use std::collections::VecDeque;
use std::sync::Arc;

use llguidance::Matcher;

use super::GrammarError;
use super::thinking::{self, Phase};
use super::vocabulary::{TokenMask, Vocabulary};
use crate::request::Part;

/// When a request lets its answer end, as far as the grammar leaves a choice.
#[derive(Debug, Clone, Default)]
pub(crate) struct EndRules {
    /// Ids that end the answer, those of the checkpoint included.
    pub(crate) stop_token_ids: Vec<u32>,
    /// None of them before this many tokens.
    pub(crate) min_tokens: usize,
    /// Go on where the grammar could end and could go on as well.
    pub(crate) ignore_eos: bool,
}

/// The grammar's side of one sequence. It belongs to the request, not to its blocks: what is computed again after a preemption
/// was sampled already and does not pass here twice.
pub(crate) struct Guide {
    kind: &'static str,
    vocabulary: Arc<Vocabulary>,
    matcher: Matcher,
    phase: Phase,
    num_tokens: usize,
    end: EndRules,
    /// The mask for the next token, if it has been computed ahead.
    next: Option<Result<TokenMask, GrammarError>>,
    /// Guesses at the next tokens, each with the mask behind it.
    guessed: VecDeque<(u32, TokenMask)>,
}

impl Guide {
    pub(super) fn new(
        kind: &'static str,
        matcher: Matcher,
        vocabulary: Arc<Vocabulary>,
        prompt: &[u32],
        end: EndRules,
    ) -> Self {
        Self {
            kind,
            matcher,
            phase: Phase::after(prompt, &vocabulary),
            vocabulary,
            num_tokens: 0,
            end,
            next: None,
            guessed: VecDeque::new(),
        }
    }

    /// Computes the mask for the next token, so that [`Self::mask`] finds it; then those behind each of `guesses`, as long as there
    /// `is_time`.
    pub(crate) fn prepare(&mut self, guesses: &[u32], is_time: impl Fn() -> bool) {
        if self.next.is_none() {
            self.next = Some(self.compute());
        }
        self.guessed.clear();
        // The mask of a thought is hardly any work.
        if guesses.is_empty() || !matches!(self.phase, Phase::Answering) || !is_time() {
            return;
        }
        let mut ahead = self.deep_clone();
        for &guess in guesses {
            if !is_time() || ahead.advance(guess).is_err() {
                break;
            }
            let Ok(mask) = ahead.compute() else { break };
            self.guessed.push_back((guess, mask));
        }
    }

    /// Guesses with a mask behind them.
    #[cfg(test)]
    pub(super) fn num_guessed(&self) -> usize {
        self.guessed.len()
    }

    /// A guide at the same place that shares nothing: what a wrong guess makes the parser do must neither count against the limits of the
    /// answer nor, where it fails, end it.
    fn deep_clone(&self) -> Self {
        Self {
            kind: self.kind,
            vocabulary: self.vocabulary.clone(),
            matcher: self.matcher.deep_clone(),
            phase: self.phase.clone(),
            num_tokens: self.num_tokens,
            end: self.end.clone(),
            next: None,
            guessed: VecDeque::new(),
        }
    }

    /// The tokens that may come next; never none.
    ///
    /// # Errors
    /// [`GrammarError::Stuck`].
    pub(crate) fn mask(&mut self) -> Result<TokenMask, GrammarError> {
        self.next.take().unwrap_or_else(|| self.compute())
    }

    fn compute(&mut self) -> Result<TokenMask, GrammarError> {
        let mut mask = match &self.phase {
            Phase::Thinking(tail) => thinking::mask(tail, &self.vocabulary),
            Phase::Before { .. } | Phase::Answering => {
                let mask = self.matcher.compute_mask_or_eos();
                TokenMask(mask.map_err(|error| self.stuck(error))?)
            }
        };
        if let Phase::Before { think, line_end } = self.phase {
            think.iter().for_each(|&id| mask.add(id));
            if line_end {
                self.vocabulary
                    .line_ends
                    .iter()
                    .for_each(|&id| mask.add(id));
            }
        }
        if self.num_tokens < self.end.min_tokens {
            mask.remove_if_others_remain(&self.end.stop_token_ids);
        }
        if self.end.ignore_eos {
            mask.remove_if_others_remain(&self.vocabulary.eos_token_ids);
        }
        Ok(mask)
    }

    /// How many of `draft` may come one after the other: as long as the answer thinks, or is about to, that is all.
    pub(crate) fn num_allowed(&mut self, draft: &[u32]) -> usize {
        let is_before = match self.phase {
            Phase::Thinking(_) => true,
            Phase::Before { think, line_end } => draft.first().is_some_and(|&id| {
                think == Some(id) || line_end && self.vocabulary.line_ends.contains(&id)
            }),
            Phase::Answering => false,
        };
        if is_before {
            return draft.len();
        }
        // What a parser in trouble has to say, it says when it is asked for a mask.
        self.matcher.validate_tokens(draft).unwrap_or(0)
    }

    /// Goes on by the token that was chosen; returns what it is a part of.
    ///
    /// # Errors
    /// [`GrammarError::Stuck`] if it is not one of [`Self::mask`], or the parser reaches a limit.
    pub(crate) fn advance(&mut self, id: u32) -> Result<Part, GrammarError> {
        self.next = match self.guessed.pop_front() {
            Some((guess, mask)) if guess == id => Some(Ok(mask)),
            _ => {
                self.guessed.clear();
                None
            }
        };
        let (phase, part) = match std::mem::replace(&mut self.phase, Phase::Answering) {
            Phase::Before { think, .. } if think == Some(id) => {
                (Phase::Thinking(Vec::new()), Part::Thought)
            }
            Phase::Before { think, line_end } if line_end && self.is_before_the_text(id) => {
                let line_end = false;
                (Phase::Before { think, line_end }, Part::Format)
            }
            Phase::Thinking(tail) => {
                let bytes = self.vocabulary.tokenizer.token_bytes(id);
                (Phase::think_on(tail, &bytes), Part::Thought)
            }
            Phase::Before { .. } | Phase::Answering => {
                // The end of the answer is nothing that the parser must know; it may have stopped before.
                if !self.vocabulary.eos_token_ids.contains(&id) {
                    let consumed = self.matcher.consume_token(id);
                    consumed.map_err(|error| self.stuck(error))?;
                }
                (Phase::Answering, Part::Answer)
            }
        };
        self.phase = phase;
        self.num_tokens += 1;
        Ok(part)
    }

    /// Whether this is a line end of the format. Where the grammar allows it, it is the grammar's.
    fn is_before_the_text(&mut self, id: u32) -> bool {
        self.vocabulary.line_ends.contains(&id)
            && self.matcher.validate_tokens(&[id]).unwrap_or(0) == 0
    }

    fn stuck(&self, error: impl std::fmt::Display) -> GrammarError {
        GrammarError::stuck(self.kind, self.num_tokens, error)
    }
}
