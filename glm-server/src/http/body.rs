//! Bodies of requests. Those that ask for answers wait for their turn here, where their whole body is there: a slow client holds no
//! place at the engine.

use std::sync::Arc;

use axum::body::{Body, HttpBody};
use axum::extract::{FromRequest, Request};
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use futures_util::StreamExt;
use serde_json::{Map, Value};

use super::admission;
use super::error::{Refusal, error};
use super::limits::{self, Wish};
use super::state::Service;
use crate::openai::ApiError;

/// The JSON object that a request brings.
pub(super) struct JsonObject(pub(super) Map<String, Value>);

impl FromRequest<Arc<Service>> for JsonObject {
    type Rejection = Refusal;

    async fn from_request(request: Request, service: &Arc<Service>) -> Result<Self, Refusal> {
        check_type(request.headers())?;
        check_encoding(request.headers())?;
        let asks_for_answers = limits::asks_for_answers(request.uri().path());
        let options = &service.options;
        let read = read(request.into_body(), options.max_body_bytes);
        let bytes = tokio::time::timeout(options.body_timeout, read).await;
        let bytes = bytes.map_err(|_| {
            let message = format!("the body was not there after {:?}", options.body_timeout);
            error(StatusCode::REQUEST_TIMEOUT, "body_timeout", message)
        })??;
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(fields)) => {
                if options.log_bodies {
                    tracing::info!(body = &*String::from_utf8_lossy(&bytes), "body");
                }
                if asks_for_answers {
                    admission::turn(service, wish(&fields, bytes.len())).await?;
                }
                Ok(Self(fields))
            }
            Ok(_) => Err(not_json("the body must be a JSON object".to_owned()).into()),
            Err(error) => Err(not_json(format!("the body is not JSON: {error}")).into()),
        }
    }
}

/// What a request says about its place in line: how much of the engine it wants, its priority, and what it will cost, which is not known
/// before its text is.
fn wish(fields: &Map<String, Value>, num_bytes: usize) -> Wish {
    const BYTES_PER_TOKEN: usize = 4;
    let priority = fields.get("priority").and_then(Value::as_i64);
    Wish {
        places: sequences(fields),
        priority: priority.unwrap_or(0),
        tokens: (num_bytes / BYTES_PER_TOKEN) as u64,
    }
}

/// How many sequences are computed for a request: answers to each prompt. What is wrong about these fields is said by others.
fn sequences(fields: &Map<String, Value>) -> usize {
    let count = |name| fields.get(name).and_then(Value::as_u64).unwrap_or(1);
    let answers = count("n").max(count("best_of"));
    let is_prompt = |value: &Value| value.is_string() || value.is_array();
    let prompts = match fields.get("prompt") {
        Some(Value::Array(prompts)) if prompts.iter().all(is_prompt) => prompts.len(),
        _ => 1,
    };
    usize::try_from(answers)
        .unwrap_or(usize::MAX)
        .saturating_mul(prompts)
}

/// A body is what it says: what is packed could be any size unpacked.
fn check_encoding(headers: &HeaderMap) -> Result<(), ApiError> {
    match headers.get(CONTENT_ENCODING) {
        Some(encoding) if !encoding.as_bytes().eq_ignore_ascii_case(b"identity") => {
            let message = "the body must not be compressed";
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            Err(error(status, "unsupported_content_encoding", message))
        }
        _ => Ok(()),
    }
}

/// JSON may also come without saying what it is.
fn check_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(given) = headers.get(CONTENT_TYPE) else {
        return Ok(());
    };
    let media_type = given.as_bytes().split(|byte| *byte == b';').next();
    let media_type = media_type.unwrap_or_default().trim_ascii();
    if media_type.eq_ignore_ascii_case(b"application/json") {
        return Ok(());
    }
    let found = String::from_utf8_lossy(given.as_bytes());
    let message = format!("the body must be application/json, found `{found}`");
    Err(error(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
        message,
    ))
}

async fn read(body: Body, max: usize) -> Result<Vec<u8>, ApiError> {
    let too_large = || {
        let message = format!("the body has more than {max} bytes");
        error(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
    };
    let announced = body.size_hint().lower();
    if announced > max as u64 {
        return Err(too_large());
    }
    let mut bytes = Vec::with_capacity(announced as usize);
    let mut parts = body.into_data_stream();
    while let Some(part) = parts.next().await {
        let part = part.map_err(|_| not_json("the body broke off".to_owned()))?;
        if bytes.len() + part.len() > max {
            return Err(too_large());
        }
        bytes.extend_from_slice(&part);
    }
    Ok(bytes)
}

fn not_json(message: String) -> ApiError {
    error(StatusCode::BAD_REQUEST, "invalid_json", message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sequences_are_answers_to_each_prompt() {
        for (fields, expected) in [
            (json!({"messages": []}), 1),
            (json!({"messages": [], "n": 3}), 3),
            (json!({"prompt": "a", "n": 2, "best_of": 5}), 5),
            (json!({"prompt": ["a", "b"], "n": 2}), 4),
            (json!({"prompt": [[1], [2], [3]]}), 3),
            (json!({"prompt": [1, 2, 3]}), 1),
            (json!({"prompt": "a", "n": "many"}), 1),
        ] {
            assert_eq!(sequences(fields.as_object().unwrap()), expected, "{fields}");
        }
    }
}
