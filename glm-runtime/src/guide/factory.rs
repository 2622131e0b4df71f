//! [`GuideFactory`]: grammars compiled once, guides cut from them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use glm_core::Tokenizer;
use llguidance::Matcher;

use super::vocabulary::Vocabulary;
use super::{EndRules, Grammar, GrammarError, Guide, ThoughtLimit};

/// Compiled grammars that are kept, the last used first. A large schema takes a few megabytes.
const MAX_COMPILED: usize = 32;

/// Makes guides for one model. Nothing is built before the first grammar is asked for.
pub(crate) struct GuideFactory {
    tokenizer: Tokenizer,
    vocab_size: usize,
    eos_token_ids: Vec<u32>,
    thinks: bool,
    vocabulary: OnceLock<Result<Arc<Vocabulary>, GrammarError>>,
    compiled: Mutex<VecDeque<(Grammar, Matcher)>>,
}

impl GuideFactory {
    /// `vocab_size`: length of a row of logits.
    pub(crate) fn new(tokenizer: Tokenizer, vocab_size: usize, eos_token_ids: Vec<u32>) -> Self {
        Self {
            tokenizer,
            vocab_size,
            eos_token_ids,
            thinks: true,
            vocabulary: OnceLock::new(),
            compiled: Mutex::new(VecDeque::new()),
        }
    }

    /// Whether the model begins its answers with a thought where the prompt leaves that open. Default: it may.
    pub(crate) fn thinking(mut self, thinks: bool) -> Self {
        self.thinks = thinks;
        self
    }

    /// Compiles a grammar unless that has been done: for the thread of the caller, who hears at once what is wrong.
    ///
    /// # Errors
    /// Every [`GrammarError`] but [`GrammarError::Stuck`].
    pub(crate) fn check(&self, grammar: &Grammar) -> Result<(), GrammarError> {
        self.matcher(grammar).map(drop)
    }

    /// A guide for the answer to `prompt`.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub(crate) fn guide(
        &self,
        grammar: &Grammar,
        prompt: &[u32],
        end: EndRules,
    ) -> Result<Guide, GrammarError> {
        let matcher = self.matcher(grammar)?;
        let vocabulary = self.vocabulary()?.clone();
        Ok(Guide::new(grammar.kind(), matcher, vocabulary, prompt, end))
    }

    /// A limit on the thought that the answer to `prompt` begins with, if it does.
    ///
    /// # Errors
    /// [`GrammarError`] if there is nothing to be known of the model's tokens.
    pub(crate) fn thought_limit(
        &self,
        prompt: &[u32],
        max_tokens: usize,
    ) -> Result<ThoughtLimit, GrammarError> {
        let vocabulary = self.vocabulary()?.clone();
        Ok(ThoughtLimit::new(vocabulary, prompt, max_tokens))
    }

    /// A matcher at the beginning of `grammar`, which shares nothing that it changes.
    fn matcher(&self, grammar: &Grammar) -> Result<Matcher, GrammarError> {
        if let Some(matcher) = self.find(grammar) {
            return Ok(matcher);
        }
        // Not under the lock: others need not wait for this one.
        let matcher = self.compile(grammar)?;
        let copy = matcher.deep_clone();
        let mut compiled = self.compiled();
        compiled.truncate(MAX_COMPILED - 1);
        compiled.push_front((grammar.clone(), matcher));
        Ok(copy)
    }

    fn find(&self, grammar: &Grammar) -> Option<Matcher> {
        let mut compiled = self.compiled();
        let at = compiled.iter().position(|(known, _)| known == grammar)?;
        let entry = compiled.remove(at)?;
        let matcher = entry.1.deep_clone();
        compiled.push_front(entry);
        Some(matcher)
    }

    fn compile(&self, grammar: &Grammar) -> Result<Matcher, GrammarError> {
        let kind = grammar.kind();
        let vocabulary = self.vocabulary()?;
        let parser = vocabulary
            .parsers
            .create_parser(grammar.compile(|text| vocabulary.has_token(text))?)
            .map_err(|error| GrammarError::invalid(kind, format_args!("{error:#}")))?;
        let mut matcher = Matcher::new(Ok(parser));
        // A grammar that no token begins is refused here, and every guide starts with what finding out has taught the lexer.
        matcher
            .compute_mask_or_eos()
            .map_err(|error| GrammarError::invalid(kind, error))?;
        Ok(matcher)
    }

    pub(super) fn vocabulary(&self) -> Result<&Arc<Vocabulary>, GrammarError> {
        let build = || {
            let mut vocabulary =
                Vocabulary::new(&self.tokenizer, self.vocab_size, &self.eos_token_ids)?;
            vocabulary.think = vocabulary.think.filter(|_| self.thinks);
            Ok(Arc::new(vocabulary))
        };
        let vocabulary = self.vocabulary.get_or_init(build);
        vocabulary.as_ref().map_err(Clone::clone)
    }

    /// The list is whole even if a thread panicked while it held the lock.
    fn compiled(&self) -> MutexGuard<'_, VecDeque<(Grammar, Matcher)>> {
        self.compiled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
