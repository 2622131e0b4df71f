//! What a request must satisfy to be accepted: checked at the handle, so that the caller hears at once, and again in the
//! engine.

use std::time::Duration;

use super::EngineStats;
use crate::beam::BeamError;
use crate::error::EngineError;
use crate::request::{MAX_PRIORITY, Request};
use crate::scheduler::SchedulerConfig;

/// The facts about a model that requests are checked against.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    pub(super) model: String,
    pub(super) vocab_size: usize,
    pub(super) scheduler: SchedulerConfig,
    pub(super) has_tokenizer: bool,
}

impl Limits {
    pub(super) fn check(&self, request: &Request) -> Result<(), EngineError> {
        let options = &request.options;
        options.sampling.validate()?;
        if options.beams.is_some() {
            return Err(BeamError::NoThread.into());
        }
        if request.prompt.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        if request.prompt.len() >= self.scheduler.max_model_len {
            return Err(self.too_long(request.prompt.len()));
        }
        if options.max_tokens == Some(0) {
            return Err(EngineError::MaxTokens);
        }
        if let Some(max_tokens) = options.max_tokens
            && options.min_tokens > max_tokens
        {
            return Err(EngineError::MinTokens {
                min_tokens: options.min_tokens,
                max_tokens,
            });
        }
        if !(-MAX_PRIORITY..=MAX_PRIORITY).contains(&options.priority) {
            return Err(EngineError::Priority(options.priority));
        }
        if let Some(timeout) = options.timeout.filter(Duration::is_zero) {
            return Err(EngineError::TimedOut {
                timeout,
                completion_tokens: 0,
            });
        }
        if options.stop.iter().any(String::is_empty) {
            return Err(EngineError::EmptyStop);
        }
        if !options.stop.is_empty() && !self.has_tokenizer {
            return Err(EngineError::NoTokenizer {
                model: self.model.clone(),
            });
        }
        self.check_ids(options.sampling.logit_bias.keys())?;
        self.check_ids(&options.prediction)?;
        self.check_ids(&request.prompt)
    }

    /// Whether the queue has room for a request with a prompt of this length beside what the engine said last, and `unseen`
    /// requests that it does not know of yet. The engine decides; this spares a caller the wait for it.
    pub(super) fn check_queue(
        &self,
        prompt_len: usize,
        stats: &EngineStats,
        unseen: usize,
    ) -> Result<(), EngineError> {
        let requests = stats.waiting + stats.running + unseen;
        let full = self
            .scheduler
            .is_full(requests, stats.waiting_tokens, prompt_len);
        if full {
            return Err(EngineError::QueueFull {
                waiting: stats.waiting + unseen,
                waiting_tokens: stats.waiting_tokens,
            });
        }
        Ok(())
    }

    /// A text to score may fill the context: nothing is generated after it.
    pub(super) fn check_score(&self, ids: &[u32]) -> Result<(), EngineError> {
        match ids.len() {
            0 => Err(EngineError::EmptyPrompt),
            len if len > self.scheduler.max_model_len => Err(self.too_long(len)),
            _ => self.check_ids(ids),
        }
    }

    pub(super) fn too_long(&self, prompt_tokens: usize) -> EngineError {
        EngineError::ContextLength {
            prompt_tokens,
            max_model_len: self.scheduler.max_model_len,
        }
    }

    fn check_ids<'a>(&self, ids: impl IntoIterator<Item = &'a u32>) -> Result<(), EngineError> {
        let mut ids = ids.into_iter();
        match ids.find(|&&id| id as usize >= self.vocab_size) {
            Some(&id) => Err(EngineError::TokenId {
                id,
                vocab_size: self.vocab_size,
            }),
            None => Ok(()),
        }
    }
}
