//! `x-request-id`: the name that client and service call a request by.

use std::sync::Arc;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use uuid::Uuid;

const HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// Longer ones are replaced: they go into headers and logs.
const MAX_LENGTH: usize = 128;

/// The service's own name for a request; ids in its response begin with it.
#[derive(Debug, Clone)]
pub(super) struct RequestId(pub(super) Arc<str>);

/// Gives every request an id, and every response the client's own name for it, or else the id.
pub(super) async fn name(mut request: Request, next: Next) -> Response {
    let id: Arc<str> = Uuid::now_v7().simple().to_string().into();
    let shown = given(request.headers())
        .cloned()
        .or_else(|| HeaderValue::from_str(&id).ok());
    request.extensions_mut().insert(RequestId(id));
    let mut response = next.run(request).await;
    if let Some(shown) = shown {
        response.headers_mut().insert(HEADER, shown);
    }
    response
}

/// The client's own name for a request, if it is one that can be shown.
pub(super) fn given(headers: &HeaderMap) -> Option<&HeaderValue> {
    headers.get(HEADER).filter(|name| is_plain(name))
}

fn is_plain(name: &HeaderValue) -> bool {
    (1..=MAX_LENGTH).contains(&name.len()) && name.as_bytes().iter().all(u8::is_ascii_graphic)
}
