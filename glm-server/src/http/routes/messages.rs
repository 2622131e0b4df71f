//! Anthropic's `POST /v1/messages` and `POST /v1/messages/count_tokens`.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::Response;

use super::generate::{answer, blocking};
use crate::anthropic;
use crate::http::body::JsonObject;
use crate::http::error::{self, Refusal};
use crate::http::request_id::RequestId;
use crate::http::state::Service;
use crate::openai::{ApiError, Endpoint};

const PATH: &str = "/v1/messages";
/// Where Anthropic's clients look for the name of a request.
const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");

pub(super) async fn messages(
    State(service): State<Arc<Service>>,
    Extension(id): Extension<RequestId>,
    JsonObject(body): JsonObject,
) -> Result<Response, Refusal> {
    answer(&service, Endpoint::Messages, id, body).await
}

pub(super) async fn count_tokens(
    State(service): State<Arc<Service>>,
    JsonObject(body): JsonObject,
) -> Result<Response, Refusal> {
    service.check_model(&body)?;
    let engine = service.engine()?.clone();
    let counted = blocking(move || anthropic::count_tokens(&engine, &body)).await??;
    Ok(error::json(StatusCode::OK, &counted))
}

/// Gives the errors under this path Anthropic's shape, wherever they come from, and its responses their name.
pub(super) async fn in_their_shape(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let below = path.strip_prefix(PATH);
    if !below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
        return next.run(request).await;
    }
    let id = request.extensions().get::<RequestId>();
    let id = id.map(|RequestId(id)| format!("req_{id}"));
    let mut response = next.run(request).await;
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        let shaped = error::json(
            response.status(),
            &anthropic::error_body(&error, id.as_deref()),
        );
        let (_, body) = shaped.into_parts();
        let (mut head, _) = response.into_parts();
        head.headers.remove(axum::http::header::CONTENT_LENGTH);
        response = Response::from_parts(head, body);
    }
    if let Some(id) = id.and_then(|id| HeaderValue::from_str(&id).ok()) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}
