//! `/v1/batches`: files of requests, as OpenAI has them.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::files;
use crate::http::body::JsonObject;
use crate::http::caller::Caller;
use crate::http::error::{self, Refusal, error};
use crate::http::query::{self, Params};
use crate::http::state::Service;
use crate::http::tenant::Owner;
use crate::jobs::{Batch, NewBatch};
use crate::openai::{ApiError, Target};
use crate::queue::Paging;

/// Longest list, as at OpenAI's.
const MAX_LIST: usize = 100;
/// OpenAI's limits on metadata.
const MAX_METADATA: (usize, usize, usize) = (16, 64, 512);
/// How long a batch may be given, in hours.
const WINDOW: std::ops::RangeInclusive<u64> = 1..=30 * 24;
/// How long results may be asked to be kept, in seconds: OpenAI's range.
const EXPIRY: std::ops::RangeInclusive<u64> = 3600..=30 * 24 * 3600;

/// What a batch is made of.
#[derive(Debug, Deserialize)]
struct Wanted {
    input_file_id: String,
    endpoint: String,
    completion_window: String,
    metadata: Option<Map<String, Value>>,
    output_expires_after: Option<Expiry>,
}

#[derive(Debug, Deserialize)]
struct Expiry {
    anchor: String,
    seconds: u64,
}

pub(super) async fn create(
    State(service): State<Arc<Service>>,
    Owner(tenant): Owner,
    JsonObject(fields): JsonObject,
) -> Result<Response, Refusal> {
    let wanted = read(fields)?;
    let endpoint = Target::from_field("endpoint", &wanted.endpoint)?;
    let window = window(&wanted.completion_window)?;
    check_metadata(wanted.metadata.as_ref())?;
    let input = files::find(&service, &tenant, &wanted.input_file_id).await;
    let input = input.map_err(|error| match error.status {
        404 => ApiError::invalid("input_file_id", error.message),
        _ => error,
    })?;
    if input.purpose != "batch" {
        let message = format!(
            "the file {} is for `{}`, not for `batch`",
            input.id, input.purpose
        );
        return Err(ApiError::invalid("input_file_id", message).into());
    }
    let new = NewBatch {
        endpoint: endpoint.path().to_owned(),
        model: service.engine()?.model_info().name.clone(),
        input,
        completion_window: wanted.completion_window,
        window,
        metadata: wanted.metadata,
        output_expires_after: wanted.output_expires_after.map(expiry).transpose()?,
        payer: Caller::current().payer(),
    };
    let created = service.jobs()?.create_batch(&tenant, new).await;
    let batch = created.map_err(ApiError::from)?;
    Ok(error::json(StatusCode::OK, &batch.view()))
}

pub(super) async fn get(
    State(service): State<Arc<Service>>,
    Owner(tenant): Owner,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    let found = service.jobs()?.batch(&tenant, &id).await;
    let batch = found.map_err(ApiError::from)?;
    let batch = batch.ok_or_else(|| no_batch(&id))?;
    Ok(error::json(StatusCode::OK, &batch.view()))
}

pub(super) async fn cancel(
    State(service): State<Arc<Service>>,
    Owner(tenant): Owner,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    let cancelled = service.jobs()?.cancel_batch(&tenant, &id).await;
    let batch = cancelled.map_err(ApiError::from)?;
    let batch = batch.ok_or_else(|| no_batch(&id))?;
    if batch.is_cancelled() {
        return Ok(error::json(StatusCode::OK, &batch.view()));
    }
    let view = batch.view();
    let status = view["status"].as_str().unwrap_or_default();
    let message = format!("the batch is {status} and cannot be cancelled any more");
    Err(error(StatusCode::CONFLICT, "batch_ended", message).into())
}

/// Which part of the list of batches is wanted.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WantedList {
    limit: Option<usize>,
    after: Option<String>,
}

pub(super) async fn list(
    State(service): State<Arc<Service>>,
    Owner(tenant): Owner,
    Params(wanted): Params<WantedList>,
) -> Result<Response, Refusal> {
    let paging = Paging {
        after: wanted.after,
        limit: query::limit(wanted.limit, 20, MAX_LIST)?,
        oldest_first: false,
    };
    let found = service.jobs()?.batches(&tenant, paging).await;
    let (batches, has_more) = found.map_err(ApiError::from)?;
    let views = batches.iter().map(Batch::view).collect();
    Ok(error::json(StatusCode::OK, &query::list(views, has_more)))
}

fn read(fields: Map<String, Value>) -> Result<Wanted, ApiError> {
    for name in ["input_file_id", "endpoint", "completion_window"] {
        if fields.get(name).is_none_or(Value::is_null) {
            return Err(ApiError::missing(name));
        }
    }
    Wanted::deserialize(Value::Object(fields)).map_err(|error| ApiError {
        param: None,
        ..ApiError::invalid("", error.to_string())
    })
}

/// Hours or days, such as `24h`, which is all that OpenAI has.
fn window(text: &str) -> Result<Duration, ApiError> {
    let number = |unit: char| text.strip_suffix(unit)?.parse::<u64>().ok();
    let hours = number('h').or_else(|| number('d')?.checked_mul(24));
    match hours.filter(|hours| WINDOW.contains(hours)) {
        Some(hours) => Ok(Duration::from_hours(hours)),
        None => {
            let message = format!(
                "`completion_window` must be hours or days up to 30 days, such as `24h`, found `{text}`"
            );
            Err(ApiError::invalid("completion_window", message))
        }
    }
}

fn check_metadata(metadata: Option<&Map<String, Value>>) -> Result<(), ApiError> {
    let (pairs, key, value) = MAX_METADATA;
    let fits = |metadata: &Map<String, Value>| {
        let is_short = |(name, text): (&String, &Value)| {
            let text = text.as_str().map(|text| text.chars().count());
            name.chars().count() <= key && text.is_some_and(|length| length <= value)
        };
        metadata.len() <= pairs && metadata.iter().all(is_short)
    };
    match metadata.is_none_or(fits) {
        true => Ok(()),
        false => {
            let message = format!(
                "`metadata` must be at most {pairs} texts of up to {value} characters, with names of up to {key}"
            );
            Err(ApiError::invalid("metadata", message))
        }
    }
}

fn expiry(expiry: Expiry) -> Result<Duration, ApiError> {
    const FIELD: &str = "output_expires_after";
    match expiry.anchor == "created_at" && EXPIRY.contains(&expiry.seconds) {
        true => Ok(Duration::from_secs(expiry.seconds)),
        false => {
            let (first, last) = (EXPIRY.start(), EXPIRY.end());
            let message = format!(
                "`{FIELD}` must have the anchor `created_at` and {first} to {last} seconds"
            );
            Err(ApiError::invalid(FIELD, message))
        }
    }
}

fn no_batch(id: &str) -> ApiError {
    let message = format!("there is no batch `{id}`");
    error(StatusCode::NOT_FOUND, "batch_not_found", message)
}
