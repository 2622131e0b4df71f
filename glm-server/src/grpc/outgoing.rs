//! [`stay`]: when an answer has gone out.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http_body::Frame;

use crate::http::Inside;

/// A request stays inside until its client has room for the last of the answer: what HTTP said has been read long before that.
pub(super) async fn stay(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    match response.extensions_mut().remove::<Arc<Inside>>() {
        Some(inside) => response.map(|body| {
            Body::new(Outgoing {
                body,
                last: None,
                _inside: inside,
            })
        }),
        None => response,
    }
}

/// A body of which hyper takes the end only when all the rest has gone out. It takes a part as soon as there is room for one byte, and what
/// follows the last part at once; so the last byte of each part is one of its own.
struct Outgoing {
    body: Body,
    last: Option<Bytes>,
    _inside: Arc<Inside>,
}

impl HttpBody for Outgoing {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Some(last) = self.last.take() {
            return Poll::Ready(Some(Ok(Frame::data(last))));
        }
        let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            end => return Poll::Ready(end),
        };
        let frame = match frame.into_data() {
            Ok(mut data) if data.len() > 1 => {
                self.last = Some(data.split_off(data.len() - 1));
                Frame::data(data)
            }
            Ok(data) => Frame::data(data),
            Err(trailers) => trailers,
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.last.is_none() && self.body.is_end_stream()
    }
}
