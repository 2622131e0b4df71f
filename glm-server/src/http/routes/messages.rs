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

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Request as HttpRequest;
    use serde_json::{Value, json};

    use crate::http::tests::{ask, get, polite, post, send, started, text};

    fn message(fields: Value) -> HttpRequest<Body> {
        let mut body = json!({"max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]});
        let fields = fields.as_object().unwrap().clone();
        body.as_object_mut().unwrap().extend(fields);
        post("/v1/messages", body.to_string())
    }

    #[tokio::test]
    async fn a_message_is_answered_and_has_a_name() {
        let (_, router) = started(polite());
        let (status, body) = ask(&router, message(json!({"max_tokens": 100}))).await;
        assert_eq!(
            (status, &body["stop_reason"]),
            (200, &json!("end_turn")),
            "{body}"
        );
        assert_eq!(
            body["content"],
            json!([{"type": "text", "text": "Hello, world!"}])
        );
        let response = send(&router, message(json!({"stream": true}))).await;
        let name = response.headers()["request-id"]
            .to_str()
            .unwrap()
            .to_owned();
        assert!(name.starts_with("req_"), "{name}");
        let stream = text(response).await;
        assert!(
            stream.starts_with("event: message_start\ndata: {"),
            "{stream}"
        );
        assert!(
            stream.ends_with("event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"),
            "{stream}"
        );
        let count = json!({"messages": [{"role": "user", "content": "Hi"}]}).to_string();
        let (status, counted) = ask(&router, post("/v1/messages/count_tokens", count)).await;
        assert_eq!(
            (status, &counted["input_tokens"]),
            (200, &body["usage"]["input_tokens"])
        );
    }

    #[tokio::test]
    async fn errors_have_anthropics_shape_wherever_they_come_from() {
        let (_, router) = started(polite());
        for (request, status, kind) in [
            (
                message(json!({"messages": []})),
                400,
                "invalid_request_error",
            ),
            (message(json!({"model": "nobody"})), 404, "not_found_error"),
            (
                post("/v1/messages", "no JSON"),
                400,
                "invalid_request_error",
            ),
            (
                post("/v1/messages/count_tokens", "{}"),
                400,
                "invalid_request_error",
            ),
            (get("/v1/messages"), 405, "not_found_error"),
            (get("/v1/messages/batches"), 404, "not_found_error"),
        ] {
            let (found, body) = ask(&router, request).await;
            assert_eq!(
                (found, &body["type"], &body["error"]["type"]),
                (status, &json!("error"), &json!(kind)),
                "{body}"
            );
            assert!(body["request_id"].as_str().unwrap().starts_with("req_"));
        }
        let (_, other) = ask(&router, get("/v1/messagesque")).await;
        assert_eq!(other["error"]["code"], "unknown_url");
    }

    #[tokio::test]
    async fn a_failure_is_the_last_event() {
        let fails = polite().failing(|tokens| tokens.len() > 40);
        let (_, router) = started(fails);
        let long = json!([{"role": "user", "content": "Hi ".repeat(60)}]);
        let response = send(&router, message(json!({"stream": true, "messages": long}))).await;
        let stream = text(response).await;
        let last = stream.trim_end().rsplit("\n\n").next().unwrap();
        assert!(
            last.starts_with("event: error\ndata: {\"type\":\"error\""),
            "{stream}"
        );
    }
}
