//! What stands behind the `?` of a list: its part and its order.

use axum::extract::FromRequestParts;
use axum::extract::Query;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::error::Refusal;
use crate::openai::ApiError;

/// The parameters of a request; those that `T` does not have are refused.
#[derive(Debug)]
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(params)) => Ok(Self(params)),
            Err(error) => Err(ApiError {
                param: None,
                ..ApiError::invalid("", error.body_text())
            }
            .into()),
        }
    }
}

/// Whether a list begins with the oldest.
///
/// # Errors
/// 400 unless `order` is asc or desc.
pub(super) fn oldest_first(order: Option<&str>) -> Result<bool, ApiError> {
    match order {
        None | Some("desc") => Ok(false),
        Some("asc") => Ok(true),
        Some(other) => {
            let message = format!("`order` must be asc or desc, found `{other}`");
            Err(ApiError::invalid("order", message))
        }
    }
}

/// How long a part of a list may be.
///
/// # Errors
/// 400 unless `limit` is in 1 ..= `max`.
pub(super) fn limit(limit: Option<usize>, default: usize, max: usize) -> Result<usize, ApiError> {
    let limit = limit.unwrap_or(default);
    match (1..=max).contains(&limit) {
        true => Ok(limit),
        false => {
            let message = format!("`limit` must be between 1 and {max}, found {limit}");
            Err(ApiError::invalid("limit", message))
        }
    }
}

/// A part of a list, as OpenAI writes it, of things that have ids.
pub(super) fn list(items: Vec<Value>, has_more: bool) -> Value {
    let id = |item: Option<&Value>| item.map_or(Value::Null, |item| item["id"].clone());
    json!({
        "object": "list",
        "first_id": id(items.first()),
        "last_id": id(items.last()),
        "has_more": has_more,
        "data": items,
    })
}
