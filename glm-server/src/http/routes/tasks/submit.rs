//! `POST /v1/tasks`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::super::blocking;
use super::view;
use crate::http::body::JsonObject;
use crate::http::caller::Caller;
use crate::http::error::{Refusal, json};
use crate::http::runner;
use crate::http::state::Service;
use crate::http::tenant::Owner;
use crate::openai::ApiError;
use crate::queue::Timestamp;

/// Makes a submission repeatable, as the field `idempotency_key` does.
const KEY_HEADER: HeaderName = HeaderName::from_static("idempotency-key");
/// Most attempts after the first.
const MAX_RETRIES: u32 = 100;

/// What a task is submitted with.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    endpoint: String,
    body: Map<String, Value>,
    priority: Option<i32>,
    deadline: Option<Value>,
    max_retries: Option<u32>,
    idempotency_key: Option<String>,
}

pub(in super::super) async fn submit(
    State(service): State<Arc<Service>>,
    Owner(tenant): Owner,
    headers: HeaderMap,
    JsonObject(fields): JsonObject,
) -> Result<Response, Refusal> {
    let wanted = read(fields)?;
    let key = idempotency_key(wanted.idempotency_key, &headers)?;
    let deadline = wanted.deadline.as_ref().map(deadline).transpose()?;
    if let Some(retries) = wanted.max_retries.filter(|retries| *retries > MAX_RETRIES) {
        let message = format!("`max_retries` must be at most {MAX_RETRIES}, found {retries}");
        return Err(ApiError::invalid("max_retries", message).into());
    }
    let (endpoint, body) = (wanted.endpoint, wanted.body);
    let (endpoint, body) = {
        let service = Arc::clone(&service);
        let check = move || {
            let checked = runner::check(&service, &endpoint, &body);
            checked.map(|()| (endpoint, body))
        };
        blocking(check).await??
    };
    let jobs = service.jobs()?;
    let model = &service.engine()?.model_info().name;
    let mut task = jobs.new_task(&tenant, model, &endpoint);
    task.body = Value::Object(body);
    task.priority = wanted.priority.unwrap_or(task.priority);
    task.max_retries = wanted.max_retries.unwrap_or(task.max_retries);
    task.deadline = deadline;
    task.idempotency_key = key;
    task.payer = Caller::current().payer();
    let submitted = jobs.submit_if_room(task).await?;
    Ok(json(StatusCode::ACCEPTED, &view::info(&submitted.task)))
}

fn read(fields: Map<String, Value>) -> Result<Wanted, ApiError> {
    for name in ["endpoint", "body"] {
        if fields.get(name).is_none_or(Value::is_null) {
            return Err(ApiError::missing(name));
        }
    }
    let wanted = Wanted::deserialize(Value::Object(fields));
    wanted.map_err(|error| ApiError {
        param: None,
        ..ApiError::invalid("", error.to_string())
    })
}

fn idempotency_key(field: Option<String>, headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    const FIELD: &str = "idempotency_key";
    let Some(header) = headers.get(KEY_HEADER) else {
        return Ok(field);
    };
    let header = header
        .to_str()
        .map_err(|_| ApiError::invalid(FIELD, "the header `Idempotency-Key` must be plain text"))?;
    match field {
        Some(field) if field != header => {
            let message = "the field `idempotency_key` and the header `Idempotency-Key` differ: give one of them";
            Err(ApiError::invalid(FIELD, message))
        }
        _ => Ok(Some(header.to_owned())),
    }
}

/// A moment that is still to come: seconds since 1970, or as RFC 3339 has it.
fn deadline(value: &Value) -> Result<Timestamp, ApiError> {
    const KINDS: &str =
        "a number of seconds since 1970, or a time as in RFC 3339, such as `2031-05-17T12:00:00Z`";
    let wrong = |message: &str| {
        let message = format!("`deadline` {message} {KINDS}; found {value}");
        ApiError::invalid("deadline", message)
    };
    let millis = match value {
        Value::Number(seconds) => seconds.as_f64().map(|seconds| (seconds * 1000.0) as i64),
        Value::String(text) => OffsetDateTime::parse(text, &Rfc3339)
            .ok()
            .and_then(|time| i64::try_from(time.unix_timestamp_nanos() / 1_000_000).ok()),
        _ => None,
    };
    let millis = millis.ok_or_else(|| wrong("must be"))?;
    let time = Timestamp::from_millis(millis);
    match time > Timestamp::now() {
        true => Ok(time),
        false => Err(wrong("has passed; it is")),
    }
}
