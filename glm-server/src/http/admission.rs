//! Which requests are let in, and how long they count as being inside.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use glm_runtime::EngineError;

use super::caller::Caller;
use super::companion::{Companion, accompany};
use super::dashboard::Running;
use super::error::{Busy, Refusal, come_back_after, error};
use super::limits::{Full, Wish};
use super::state::{Phase, Service};
use crate::openai::ApiError;

/// Beside a request that came over a port that this process alone has, whatever it shares.
#[derive(Debug, Clone, Copy)]
pub(super) struct OwnPort;

/// Lets a request in unless the service starts or drains. It is inside until its response has gone out to its end, or its client
/// has gone away.
pub(super) async fn admit(
    State(service): State<Arc<Service>>,
    request: Request,
    next: Next,
) -> Response {
    // Nobody takes over the port of its own.
    let hands_over = service.hands_over() && request.extensions().get::<OwnPort>().is_none();
    if hands_over {
        // The connection would have waited in the socket, if it had not been taken from there for the probes.
        service.begun().await;
    }
    // Before the look at the phase: who drains must not miss a request that is let in.
    let inside = Inside::enter(&service);
    let draining = match service.phase() {
        Phase::Draining { until } => Some(until),
        Phase::Starting | Phase::Ready => None,
    };
    if let Some(until) = draining.filter(|_| !hands_over) {
        let message = "the service is stopping and takes no new requests";
        let error = error(StatusCode::SERVICE_UNAVAILABLE, "draining", message);
        let left = until.saturating_duration_since(Instant::now());
        return Refusal::from(error).retry_after(left).into_response();
    }
    if let Err(starting) = service.engine() {
        let soon = Duration::from_secs(1);
        return Refusal::from(starting).retry_after(soon).into_response();
    }
    let mut response = next.run(request).await;
    if draining.is_some() {
        // The next one is for whoever has taken over.
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
    if response.extensions().get::<Busy>().is_some() {
        let backlog = service.backlog();
        come_back_after(&mut response, backlog);
    }
    #[cfg(feature = "grpc")]
    response.extensions_mut().insert(Arc::clone(&inside));
    accompany(response, inside)
}

/// Waits until it is the caller's turn to use the engine: when others have had more than their share, soon. The place is free again when
/// the last answer has ended.
///
/// # Errors
/// 429 when as many wait as may; 504 when the time for the answer is over before.
pub(super) async fn turn(service: &Service, wish: Wish) -> Result<(), Refusal> {
    let caller = Caller::current();
    caller.comes();
    let tenant = caller.tenant();
    let turn = in_time(service, service.fair.turn(&tenant, wish)).await?;
    let turn = turn.map_err(|Full { waiting }| {
        let message = format!("{waiting} requests are waiting already: try again later");
        ApiError {
            kind: "rate_limit_error",
            ..error(StatusCode::TOO_MANY_REQUESTS, "engine_overloaded", message)
        }
    })?;
    caller.holds(turn);
    Ok(())
}

/// Waits for what an answer takes, as long as it may: how long it has waited already counts.
///
/// # Errors
/// [`EngineError::TimedOut`].
pub(super) async fn in_time<T>(
    service: &Service,
    work: impl Future<Output = T>,
) -> Result<T, EngineError> {
    let Some(timeout) = service.options.request_timeout else {
        return Ok(work.await);
    };
    let left = Caller::current().time_left(timeout);
    let done = tokio::time::timeout(left, work).await;
    done.map_err(|_| EngineError::TimedOut {
        timeout,
        completion_tokens: 0,
    })
}

/// A request inside. Its response has it among its extensions, for those who make another of it: as long as that is on its way, the
/// request has to stay.
pub(crate) struct Inside {
    service: Arc<Service>,
    running: Running,
}

impl Inside {
    fn enter(service: &Arc<Service>) -> Arc<Self> {
        service.entered();
        Arc::new(Self {
            running: service.requests.enter(Caller::current()),
            service: Arc::clone(service),
        })
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.service.requests.leave(&self.running);
        self.service.left();
    }
}

impl Companion for Arc<Inside> {}
