//! Answers as server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::Value;

use super::answers::Answers;
use crate::openai::{ApiError, Chunks};

/// A stream of chunks that ends with `[DONE]`, or with an error. While nothing comes, a comment every `keep_alive` says that the
/// connection is alive; clients ignore it.
pub(super) fn response(answers: Answers, chunks: Chunks, keep_alive: Duration) -> Response {
    let streaming = Streaming {
        answers,
        chunks: Some(chunks),
        ready: VecDeque::new(),
    };
    let events = stream::unfold(streaming, |mut streaming| async {
        let event = streaming.next().await?;
        Some((Ok::<_, Infallible>(event), streaming))
    });
    let keep_alive = KeepAlive::new().interval(keep_alive).text("keep-alive");
    Sse::new(events).keep_alive(keep_alive).into_response()
}

struct Streaming {
    answers: Answers,
    /// `None` when the last event is ready.
    chunks: Option<Chunks>,
    ready: VecDeque<Event>,
}

impl Streaming {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let chunks = self.chunks.as_mut()?;
            match self.answers.next().await {
                Some((answer, event)) => match chunks.push(answer, event) {
                    Ok(chunks) => self.ready.extend(chunks.iter().map(data)),
                    Err(error) => {
                        self.ready.push_back(data(&ApiError::from(error).body()));
                        self.chunks = None;
                    }
                },
                None => {
                    self.ready.extend(chunks.finish().as_ref().map(data));
                    self.ready.push_back(Event::default().data("[DONE]"));
                    self.chunks = None;
                }
            }
        }
    }
}

fn data(value: &Value) -> Event {
    Event::default().data(value.to_string())
}
