//! [`Pending`]: an answer that the engine thread gives once.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;

use crate::error::EngineError;
use crate::sync::channel::Receiver;

/// An answer on its way, from [`EngineHandle::embed`](crate::EngineHandle::embed) or
/// [`EngineHandle::begin_prompt_logprobs`](crate::EngineHandle::begin_prompt_logprobs): to wait for, or to await under any async runtime.
/// Dropping it gives it up.
#[derive(Debug)]
pub struct Pending<T>(Pin<Box<Receiver<Result<T, EngineError>>>>);

/// An embedding on its way: `[hidden_size]`, not normalised.
pub type PendingEmbedding = Pending<Vec<f32>>;

impl<T> Pending<T> {
    pub(super) fn new(answer: Receiver<Result<T, EngineError>>) -> Self {
        Self(Box::pin(answer))
    }

    /// Waits for it.
    ///
    /// # Errors
    /// [`EngineError::NotFinite`], and whatever ends an engine.
    pub fn wait(self) -> Result<T, EngineError> {
        self.0.recv_blocking().unwrap_or(Err(EngineError::Stopped))
    }
}

impl<T> Future for Pending<T> {
    type Output = Result<T, EngineError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(self.0.as_mut().poll_next(cx));
        Poll::Ready(answer.unwrap_or(Err(EngineError::Stopped)))
    }
}
