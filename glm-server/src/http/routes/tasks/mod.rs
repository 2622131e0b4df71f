//! `/v1/tasks`: requests that are answered later.

mod events;
mod list;
mod submit;
#[cfg(test)]
mod tests;
mod view;

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;

pub(super) use self::events::events;
pub(super) use self::list::list;
pub(super) use self::submit::submit;
use crate::http::error::{Refusal, error, json};
use crate::http::state::Service;
use crate::http::tenant::Owner;
use crate::jobs::refusal;
use crate::openai::ApiError;
use crate::queue::TaskId;

pub(super) async fn get(
    State(service): State<Arc<Service>>,
    Owner(tenant): Owner,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    let found = service.jobs()?.get(&tenant, parse(&id)?).await;
    let task = found.map_err(|error| refusal(&error))?;
    let task = task.ok_or_else(|| no_task(&id))?;
    Ok(json(StatusCode::OK, &view::whole(&task)))
}

pub(super) async fn cancel(
    State(service): State<Arc<Service>>,
    Owner(tenant): Owner,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    let (jobs, task) = (service.jobs()?, parse(&id)?);
    let cancelled = jobs.cancel(&tenant, task).await;
    cancelled.map_err(|error| refusal(&error))?;
    let found = jobs.info(&tenant, task).await;
    let found = found.map_err(|error| refusal(&error))?;
    let task = found.ok_or_else(|| no_task(&id))?;
    Ok(json(StatusCode::OK, &view::info(&task)))
}

fn parse(id: &str) -> Result<TaskId, ApiError> {
    id.parse().map_err(|_| no_task(id))
}

fn no_task(id: &str) -> ApiError {
    let message = format!("there is no task `{id}`");
    error(StatusCode::NOT_FOUND, "task_not_found", message)
}
