//! How much a key may ask for, and who is next when more is asked for than can be computed.
//!
//! - [`Account`]: requests and tokens a minute of one key, as leaky credit; a middleware, [`apply`], refuses who has none left, and says in
//!   every response what is left, in OpenAI's headers.
//! - [`Fair`]: as many requests as the engine computes together are let through to it; the rest waits here, and the tenant who
//!   has had the fewest tokens is next.
//! - [`Backlog`]: how long what waits will take, for `Retry-After`.

mod account;
mod backlog;
mod fair;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::caller::Caller;
use super::error::Refusal;
use super::state::Service;
use crate::openai::ApiError;

pub(super) use account::{Account, Accounts};
pub(super) use backlog::Backlog;
pub(super) use fair::{Fair, Full, Turn, Wish};

/// What one key may ask for in a minute. `None`: no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RateLimits {
    /// Requests.
    pub requests_per_minute: Option<u32>,
    /// Tokens, of prompts and generated ones together.
    pub tokens_per_minute: Option<u32>,
}

/// What is left of one limit.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Left {
    limit: u32,
    left: u32,
    /// Until all of it is there again.
    reset: Duration,
}

/// What is left of both.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Allowance {
    requests: Option<Left>,
    tokens: Option<Left>,
}

impl Allowance {
    /// In the words of OpenAI's headers.
    fn write(&self, headers: &mut HeaderMap) {
        let names = [
            (
                self.requests,
                HeaderName::from_static("x-ratelimit-limit-requests"),
                HeaderName::from_static("x-ratelimit-remaining-requests"),
                HeaderName::from_static("x-ratelimit-reset-requests"),
            ),
            (
                self.tokens,
                HeaderName::from_static("x-ratelimit-limit-tokens"),
                HeaderName::from_static("x-ratelimit-remaining-tokens"),
                HeaderName::from_static("x-ratelimit-reset-tokens"),
            ),
        ];
        for (left, limit, remaining, reset) in names {
            let Some(left) = left else { continue };
            headers.insert(limit, left.limit.into());
            headers.insert(remaining, left.left.into());
            // A duration as Go prints it, which is what OpenAI's clients parse.
            let time = format!("{}ms", left.reset.as_millis());
            headers.insert(
                reset,
                HeaderValue::try_from(time).unwrap_or(HeaderValue::from_static("0ms")),
            );
        }
    }
}

/// One of the limits is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Exhausted {
    /// `requests` or `tokens`, which is also the type of the error.
    what: &'static str,
    limit: u32,
    wait: Duration,
}

impl From<Exhausted> for Refusal {
    fn from(exhausted: Exhausted) -> Self {
        let Exhausted { what, limit, wait } = exhausted;
        let error = ApiError {
            status: 429,
            kind: what,
            param: None,
            code: Some("rate_limit_exceeded"),
            message: format!(
                "this key may use {limit} {what} a minute, and has: try again in {:.1} s",
                wait.as_secs_f64()
            ),
        };
        Self::from(error).retry_after(wait)
    }
}

/// Whether a path leads to the engine's answers, for which requests have to wait their turn.
pub(super) fn asks_for_answers(path: &str) -> bool {
    const PATHS: [&str; 5] = [
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/messages",
        "/v1/responses",
        "/v1/embeddings",
    ];
    PATHS.contains(&path)
}

/// Refuses requests of those who have nothing left, and says what is left. What only reads is free.
pub(super) async fn apply(
    State(service): State<Arc<Service>>,
    request: Request,
    next: Next,
) -> Response {
    if request.method() != Method::POST {
        return next.run(request).await;
    }
    let caller = Caller::current();
    let own = caller.identity().and_then(|identity| identity.limits);
    let limits = own.unwrap_or_else(|| service.live().limits);
    let name = caller
        .identity()
        .map_or("anonymous", |identity| &*identity.name);
    let account = service.accounts.find(name);
    let admitted = account.request(limits, Instant::now());
    let mut response = match admitted {
        Ok(()) => {
            caller.pays_from(Arc::clone(&account));
            next.run(request).await
        }
        Err(exhausted) => Refusal::from(exhausted).into_response(),
    };
    account.left(Instant::now()).write(response.headers_mut());
    response
}
