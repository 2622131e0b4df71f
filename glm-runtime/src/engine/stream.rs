//! The receiving end of one request: to iterate over, or a [`futures_core::Stream`].

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;

use super::handle::Command;
use crate::error::EngineError;
use crate::request::{Event, Finished, Part, RequestId, Token};
use crate::sync::channel::{Receiver, WeakSender};

/// The events of one request, ending with exactly one final event whatever happens.
///
/// Iterate over it in ordinary code (`for event in stream`, [`Self::recv`]), or poll it as a [`Stream`] under any async
/// runtime; it brings none of its own. It is no [`Iterator`] itself, because `next()` would then mean two things. Dropping it cancels the request: its blocks are free at the next step.
#[derive(Debug)]
pub struct RequestStream {
    id: RequestId,
    prompt: Arc<[u32]>,
    events: Pin<Box<Receiver<Event>>>,
    /// To the engine; a stream does not keep it alive.
    commands: WeakSender<Command>,
    ended: bool,
}

/// A whole answer, collected.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// The text, empty without a tokenizer.
    pub text: String,
    /// Every token with its log-probabilities, the one that ended the answer included.
    pub tokens: Vec<Token>,
    /// How it ended and what it cost.
    pub finished: Finished,
}

impl Completion {
    /// The ids of all tokens.
    pub fn token_ids(&self) -> Vec<u32> {
        self.tokens.iter().map(|token| token.id).collect()
    }

    /// The text of one part: of an answer that follows a grammar, what the grammar is about, or what the model thought before.
    pub fn text_of(&self, part: Part) -> String {
        let of_part = self.tokens.iter().filter(|token| token.part == part);
        of_part.map(|token| token.text.as_str()).collect()
    }
}

/// An answer on its way.
#[derive(Debug, Default)]
pub(crate) struct PartialCompletion {
    text: String,
    tokens: Vec<Token>,
}

impl PartialCompletion {
    /// Takes the next event; the whole answer, or its error, with the final one.
    pub(crate) fn push(&mut self, event: Event) -> Option<Result<Completion, EngineError>> {
        match event {
            Event::Token(token) => {
                self.text.push_str(&token.text);
                self.tokens.push(token);
                None
            }
            Event::Finished(finished) => Some(Ok(Completion {
                text: std::mem::take(&mut self.text),
                tokens: std::mem::take(&mut self.tokens),
                finished,
            })),
            Event::Failed(error) => Some(Err(error)),
        }
    }
}

impl RequestStream {
    pub(super) fn new(
        id: RequestId,
        prompt: Arc<[u32]>,
        events: Receiver<Event>,
        commands: WeakSender<Command>,
    ) -> Self {
        Self {
            id,
            prompt,
            events: Box::pin(events),
            commands,
            ended: false,
        }
    }

    /// The request's id, for [`EngineHandle::cancel`](crate::EngineHandle::cancel).
    pub fn id(&self) -> RequestId {
        self.id
    }

    /// The token ids that went into the engine, prefix and chat markers included.
    pub fn prompt_token_ids(&self) -> &[u32] {
        &self.prompt
    }

    /// Waits for the next event; `None` after the final one.
    pub fn recv(&mut self) -> Option<Event> {
        if self.ended {
            return None;
        }
        let event = self.events.recv_blocking().ok();
        self.note(event)
    }

    /// Waits for the end and collects the answer.
    ///
    /// # Errors
    /// The error of [`Event::Failed`].
    pub fn wait(self) -> Result<Completion, EngineError> {
        let mut partial = PartialCompletion::default();
        let end = self.into_iter().find_map(|event| partial.push(event));
        end.unwrap_or(Err(EngineError::Stopped))
    }

    /// The pieces of text as they become certain; an error, if any, is the last item.
    pub fn texts(self) -> impl Iterator<Item = Result<String, EngineError>> {
        self.into_iter().filter_map(|event| match event {
            Event::Token(token) if token.text.is_empty() => None,
            Event::Token(token) => Some(Ok(token.text)),
            Event::Finished(_) => None,
            Event::Failed(error) => Some(Err(error)),
        })
    }

    /// Passes an event on and notes the final one; a channel that closes without one means that the engine is gone.
    fn note(&mut self, event: Option<Event>) -> Option<Event> {
        let event = event.unwrap_or(Event::Failed(EngineError::Stopped));
        self.ended = !matches!(event, Event::Token(_));
        Some(event)
    }
}

impl Drop for RequestStream {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // Without a handle the channel is gone; the engine then looks for itself who has left.
        if let Some(commands) = self.commands.upgrade() {
            let _ = commands.try_send(Command::Cancel(self.id));
        }
    }
}

/// Blocks for each event of a [`RequestStream`].
#[derive(Debug)]
pub struct Events(RequestStream);

impl Iterator for Events {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        self.0.recv()
    }
}

impl IntoIterator for RequestStream {
    type Item = Event;
    type IntoIter = Events;

    fn into_iter(self) -> Events {
        Events(self)
    }
}

impl Stream for RequestStream {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let event = std::task::ready!(self.events.as_mut().poll_next(cx));
        Poll::Ready(self.note(event))
    }
}
