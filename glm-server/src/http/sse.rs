//! Answers as server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{FutureExt, stream};
use serde_json::Value;
use tokio::time::Instant;

use super::answers::Answers;
use crate::openai::{ApiError, Chunks};

/// Time between two writes of a stream. What comes sooner goes out together: a small model says more than people can see, and
/// waking a task and writing to a socket for each token of each stream would take more of the processor than the token itself.
const PACE: Duration = Duration::from_millis(10);
/// Most events that are made into text at once, for a client that has not read for long.
const MAX_AT_ONCE: usize = 256;

/// What is done before a chunk goes out.
pub(super) type Keeping = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A stream of chunks that ends with `[DONE]` where chunks have no names, or with an error. While nothing comes, a comment (or what the
/// dialect has for it) says every `keep_alive` that the connection is alive; clients ignore it.
pub(super) fn response(
    answers: Answers,
    chunks: Chunks,
    keep_alive: Duration,
    watch: impl FnMut(&Value) -> Option<Keeping> + Send + 'static,
) -> Response {
    let ping = match chunks.ping() {
        Some(ping) => event(&ping, true),
        None => Event::default().comment("keep-alive"),
    };
    let mut streaming = Streaming {
        answers,
        chunks: Some(chunks),
        ready: VecDeque::new(),
        not_before: Instant::now(),
        watch: Box::new(watch),
        keeping: None,
    };
    streaming.begin();
    let events = stream::unfold(streaming, |mut streaming| async {
        let event = streaming.next().await?;
        Some((Ok::<_, Infallible>(event), streaming))
    });
    let keep_alive = KeepAlive::new().interval(keep_alive).event(ping);
    Sse::new(events).keep_alive(keep_alive).into_response()
}

type Watch = Box<dyn FnMut(&Value) -> Option<Keeping> + Send>;

struct Streaming {
    answers: Answers,
    /// `None` when the last event is ready.
    chunks: Option<Chunks>,
    ready: VecDeque<Event>,
    /// When the engine is asked again.
    not_before: Instant,
    /// Sees every chunk.
    watch: Watch,
    keeping: Option<Keeping>,
}

impl Streaming {
    fn begin(&mut self) {
        if let Some(chunks) = &mut self.chunks {
            let named = chunks.has_names();
            let begin = chunks.begin();
            self.say(&begin, named);
        }
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(keeping) = self.keeping.take() {
                keeping.await;
            }
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            self.chunks.as_ref()?;
            if self.not_before > Instant::now() {
                // Not for a moment that is over: that would last until the clock's next tick.
                tokio::time::sleep_until(self.not_before).await;
            }
            let mut next = Some(self.answers.next().await);
            // What there is besides goes with it.
            while let Some(said) = next {
                self.take(said);
                let goes_on = self.chunks.is_some() && self.ready.len() < MAX_AT_ONCE;
                next = goes_on
                    .then(|| self.answers.next().now_or_never())
                    .flatten();
            }
            // Tokens that say nothing yet, as many a first one, keep nobody waiting.
            if (1..MAX_AT_ONCE).contains(&self.ready.len()) {
                self.not_before = Instant::now() + PACE;
            }
        }
    }

    /// Makes events of what the engine says; `None`: it is done.
    fn take(&mut self, next: Option<(usize, glm_runtime::Event)>) {
        let Some(chunks) = &mut self.chunks else {
            return;
        };
        let named = chunks.has_names();
        let is_whole = next.is_none();
        let (said, is_last) = match next.map(|(answer, event)| chunks.push(answer, event)) {
            Some(Ok(said)) => (said, false),
            Some(Err(error)) => (chunks.fail(&ApiError::from(error)), true),
            None => (chunks.finish(), true),
        };
        self.say(&said, named);
        if is_whole && !named {
            self.ready.push_back(Event::default().data("[DONE]"));
        }
        if is_last {
            self.chunks = None;
        }
    }

    fn say(&mut self, chunks: &[Value], named: bool) {
        for chunk in chunks {
            if let Some(keeping) = (self.watch)(chunk) {
                self.keeping = Some(keeping);
            }
            self.ready.push_back(event(chunk, named));
        }
    }
}

/// A chunk as an event; `named`: under the name that is its `type`.
fn event(chunk: &Value, named: bool) -> Event {
    let event = match chunk["type"].as_str().filter(|_| named) {
        // Before the data, as everybody writes it.
        Some(name) => Event::default().event(name),
        None => Event::default(),
    };
    event.data(chunk.to_string())
}
