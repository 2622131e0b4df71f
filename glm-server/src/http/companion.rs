//! [`accompany`]: what has to know when a response is out.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::response::Response;
use http_body::{Frame, SizeHint};

/// Something that lives for as long as the body of a response: until it has gone out, or its client is gone.
pub(super) trait Companion: Unpin + Send + 'static {
    /// The body has gone out to its end. May be said again.
    fn is_whole(&mut self) {}
}

/// Gives the body of a response a companion.
pub(super) fn accompany(response: Response, mut companion: impl Companion) -> Response {
    response.map(|body| {
        if body.is_end_stream() {
            companion.is_whole();
        }
        Body::new(Accompanied { body, companion })
    })
}

struct Accompanied<C> {
    body: Body,
    companion: C,
}

impl<C: Companion> HttpBody for Accompanied<C> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(polled, Poll::Ready(None)) || self.body.is_end_stream() {
            self.companion.is_whole();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
