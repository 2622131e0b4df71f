//! What the engine says to one request of a client: the events of all its answers.

use std::sync::Arc;
use std::time::Instant;

use futures_util::StreamExt;
use futures_util::stream::{self, Repeat, SelectAll, Zip};
use glm_runtime::{Completion, EngineError, Event, RequestStream, Token};

use super::caller::Caller;
use super::state::Service;

/// Answers on their way. Dropping them cancels those that have not ended.
pub(super) struct Answers {
    events: SelectAll<Zip<Repeat<usize>, RequestStream>>,
    num_answers: usize,
    /// When each had its latest token.
    latest: Vec<Option<Instant>>,
    /// How many have not ended.
    unended: usize,
    unanswered: Option<Unanswered>,
    caller: Arc<Caller>,
    service: Arc<Service>,
}

/// As long as the engine has said nothing.
struct Unanswered(Arc<Service>);

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.0.answered();
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        for _ in 0..self.unended {
            self.service.metrics.ended("cancelled");
        }
    }
}

impl Answers {
    pub(super) fn new(service: &Arc<Service>, streams: Vec<RequestStream>) -> Self {
        service.asked();
        let caller = Caller::current();
        // Several answers to one prompt come one after the other; it is computed once.
        let mut before: &[u32] = &[];
        for prompt in streams.iter().map(RequestStream::prompt_token_ids) {
            if prompt != before {
                caller.prompt(prompt.len());
            }
            before = prompt;
        }
        let num_answers = streams.len();
        let numbered = streams.into_iter().enumerate();
        Self {
            events: stream::select_all(numbered.map(|(i, events)| stream::repeat(i).zip(events))),
            num_answers,
            latest: vec![None; num_answers],
            unended: num_answers,
            unanswered: Some(Unanswered(Arc::clone(service))),
            caller,
            service: Arc::clone(service),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.num_answers
    }

    /// The next event, and the number of its answer; `None` when all have ended.
    pub(super) async fn next(&mut self) -> Option<(usize, Event)> {
        let mut next = self.events.next().await;
        self.unanswered = None;
        // The engine knows only what was left of it.
        if let Some((_, Event::Failed(EngineError::TimedOut { timeout, .. }))) = &mut next {
            *timeout = self.service.options.request_timeout.unwrap_or(*timeout);
        }
        if let Some((answer, event)) = &next {
            self.measure(*answer, event);
        }
        next
    }

    fn measure(&mut self, answer: usize, event: &Event) {
        let metrics = &self.service.metrics;
        match event {
            Event::Token(token) => {
                self.caller.generated();
                if let Some(before) = self.latest[answer].replace(token.at) {
                    metrics.between_tokens(token.at.saturating_duration_since(before));
                }
                return;
            }
            Event::Finished(finished) => {
                metrics.finished(finished);
                self.service.spans.answer(finished, &self.caller);
            }
            Event::Failed(error) => {
                metrics.ended("failed");
                self.service.note(error);
            }
        }
        self.unended -= 1;
        if self.unended == 0 {
            self.caller.lets_go();
        }
    }

    /// Waits for the whole of all answers.
    ///
    /// # Errors
    /// The first failure; the others are cancelled.
    pub(super) async fn whole(mut self) -> Result<Vec<Completion>, EngineError> {
        let mut tokens: Vec<Vec<Token>> = vec![Vec::new(); self.num_answers];
        let mut ends = vec![None; self.num_answers];
        while let Some((answer, event)) = self.next().await {
            match event {
                Event::Token(token) => tokens[answer].push(token),
                Event::Finished(finished) => ends[answer] = Some(finished),
                Event::Failed(error) => return Err(error),
            }
        }
        let completion = |(tokens, end): (Vec<Token>, Option<_>)| {
            let text = tokens.iter().map(|token| token.text.as_str()).collect();
            let finished = end.ok_or(EngineError::Stopped)?;
            Ok(Completion {
                text,
                tokens,
                finished,
            })
        };
        tokens.into_iter().zip(ends).map(completion).collect()
    }
}
