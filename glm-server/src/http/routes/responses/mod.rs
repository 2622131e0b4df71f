//! `/v1/responses`: answers that can be asked for again, and gone on from.

mod background;
mod kept;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::generate::{self, blocking};
use crate::http::body::JsonObject;
use crate::http::error::{self, Refusal};
use crate::http::query;
use crate::http::request_id::RequestId;
use crate::http::sse::Keeping;
use crate::http::state::Service;
use crate::http::tenant::Owner;
use crate::openai::ApiError;
use crate::responses::{self, Stored};

pub(super) async fn create(
    State(service): State<Arc<Service>>,
    Owner(tenant): Owner,
    Extension(id): Extension<RequestId>,
    JsonObject(body): JsonObject,
) -> Result<Response, Refusal> {
    let earlier = earlier(&service, &tenant, &body).await?;
    if background::is_wanted(&body)? {
        return background::submit(&service, &tenant, body, earlier).await;
    }
    let engine = service.engine()?.clone();
    let call = blocking(move || responses::read_after(&engine, &body, earlier)).await??;
    let kept = call.form.response_form().filter(|form| form.is_stored());
    let Some(form) = kept.cloned() else {
        return generate::answer_call(&service, id, call, |_| None).await;
    };
    let keeper = Arc::clone(&service);
    let keep = move |said: &Value| {
        let response = match said["object"] == "response" {
            true => said,
            // The last event of a stream has all of it.
            false => &said["response"],
        };
        let has_ended = !matches!(response["status"].as_str(), None | Some("in_progress"));
        has_ended.then(|| -> Keeping {
            let stored = Stored {
                response: response.clone(),
                items: form.items().to_vec(),
            };
            let (keeper, tenant) = (Arc::clone(&keeper), Arc::clone(&tenant));
            Box::pin(async move { kept::keep(&keeper, &tenant, stored).await })
        })
    };
    generate::answer_call(&service, id, call, keep).await
}

/// The conversation that a request goes on from.
async fn earlier(
    service: &Service,
    tenant: &Arc<str>,
    body: &Map<String, Value>,
) -> Result<Vec<Value>, ApiError> {
    const FIELD: &str = "previous_response_id";
    let id = match body.get(FIELD) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::String(id)) => id,
        Some(_) => {
            let message = format!("`{FIELD}` must be a text");
            return Err(ApiError::invalid(FIELD, message));
        }
    };
    let stored = find(service, tenant, id)
        .await
        .map_err(|error| match error.status {
            404 => ApiError {
                code: Some("previous_response_not_found"),
                ..ApiError::invalid(FIELD, format!("there is no response `{id}`"))
            },
            _ => error,
        })?;
    match stored.response["status"].as_str() {
        Some("completed" | "incomplete") => Ok(stored.conversation()),
        _ => {
            let message = format!("response `{id}` has no answer (yet) to go on from");
            Err(ApiError::invalid(FIELD, message))
        }
    }
}

/// One that was kept, or one that is made in the background.
async fn find(service: &Service, tenant: &Arc<str>, id: &str) -> Result<Arc<Stored>, ApiError> {
    match kept::find(service, tenant, id).await? {
        Some(stored) => Ok(stored),
        None => background::find(service, tenant, id).await.map(Arc::new),
    }
}

fn no_response(id: &str) -> ApiError {
    let message = format!("there is no response `{id}`: it was not stored, or is gone");
    error::error(StatusCode::NOT_FOUND, "response_not_found", message)
}

pub(super) async fn get(
    State(service): State<Arc<Service>>,
    Owner(tenant): Owner,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    let stored = find(&service, &tenant, &id).await?;
    if query.is_some_and(|query| query.split('&').any(|pair| pair == "stream=true")) {
        let message = "a response that has ended is not streamed again: leave `stream` out";
        return Err(ApiError::not_supported("stream", message).into());
    }
    Ok(error::json(StatusCode::OK, &stored.response))
}

pub(super) async fn delete(
    State(service): State<Arc<Service>>,
    Owner(tenant): Owner,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    if !kept::delete(&service, &tenant, &id).await? {
        background::delete(&service, &tenant, &id).await?;
    }
    let deleted = json!({"id": id, "object": "response", "deleted": true});
    Ok(error::json(StatusCode::OK, &deleted))
}

pub(super) async fn cancel(
    State(service): State<Arc<Service>>,
    Owner(tenant): Owner,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    if kept::find(&service, &tenant, &id).await?.is_some() {
        let message = "only responses that are made in the background can be cancelled";
        return Err(error::error(StatusCode::BAD_REQUEST, "not_in_background", message).into());
    }
    let cancelled = background::cancel(&service, &tenant, &id).await?;
    Ok(error::json(StatusCode::OK, &cancelled.response))
}

/// What a response was an answer to, the latest item first.
pub(super) async fn input_items(
    State(service): State<Arc<Service>>,
    Owner(tenant): Owner,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    let stored = find(&service, &tenant, &id).await?;
    let items = stored.items.iter().enumerate().rev();
    let items: Vec<Value> = items.map(|(index, item)| named(item, &id, index)).collect();
    Ok(error::json(StatusCode::OK, &query::list(items, false)))
}

/// An item with an id and a type, which those that clients write may lack.
fn named(item: &Value, response: &str, index: usize) -> Value {
    let mut item = item.clone();
    if item["id"].is_null() {
        item["id"] = format!("item_{response}-{index}").into();
    }
    if item["type"].is_null() {
        item["type"] = "message".into();
    }
    if let Value::String(text) = &item["content"] {
        let kind = match item["role"] == "assistant" {
            true => "output_text",
            false => "input_text",
        };
        item["content"] = json!([{"type": kind, "text": text}]);
    }
    item
}
