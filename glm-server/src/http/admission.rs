//! Which requests are let in, and how long they count as being inside.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body::{Frame, SizeHint};

use super::error::{Refusal, error};
use super::state::{Phase, Service};

/// Lets a request in unless the service starts or drains. It is inside until its response has gone out to its end, or its client
/// has gone away.
pub(super) async fn admit(
    State(service): State<Arc<Service>>,
    request: Request,
    next: Next,
) -> Response {
    // Before the look at the phase: who drains must not miss a request that is let in.
    let inside = Inside::enter(&service);
    if let Phase::Draining { until } = service.phase() {
        let message = "the service is stopping and takes no new requests";
        let error = error(StatusCode::SERVICE_UNAVAILABLE, "draining", message);
        let left = until.saturating_duration_since(Instant::now());
        return Refusal::from(error).retry_after(left).into_response();
    }
    if let Err(starting) = service.engine() {
        return Refusal::from(starting).into_response();
    }
    let response = next.run(request).await;
    response.map(|body| {
        Body::new(Counted {
            body,
            _inside: inside,
        })
    })
}

/// A request inside.
struct Inside(Arc<Service>);

impl Inside {
    fn enter(service: &Arc<Service>) -> Self {
        service.entered();
        Self(Arc::clone(service))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.left();
    }
}

/// A body whose request is inside for as long as it lives.
struct Counted {
    body: Body,
    _inside: Inside,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
