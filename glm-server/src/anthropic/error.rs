//! Errors as Anthropic's clients understand them.

use serde_json::{Value, json};

use crate::openai::ApiError;

/// `{"type": "error", "error": {"type", "message"}}`, with the name of the request if it has one.
pub(crate) fn body(error: &ApiError, request_id: Option<&str>) -> Value {
    let mut body = json!({
        "type": "error",
        "error": {"type": kind(error.status), "message": error.message},
    });
    if let Some(id) = request_id {
        body["request_id"] = id.into();
    }
    body
}

fn kind(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        403 => "permission_error",
        404 | 405 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        408 | 504 => "timeout_error",
        503 => "overloaded_error",
        400..=499 => "invalid_request_error",
        _ => "api_error",
    }
}
