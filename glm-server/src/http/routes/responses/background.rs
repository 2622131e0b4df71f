//! Responses that are made in the background: tasks of the durable queue, under the name of a response.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value};
use tokio::time::{Instant, timeout_at};

use super::super::generate::blocking;
use super::no_response;
use crate::http::caller::Caller;
use crate::http::error::{Refusal, error, json};
use crate::http::state::Service;
use crate::jobs::refusal;
use crate::openai::{ApiError, Endpoint};
use crate::queue::{Status, Task, TaskId, TaskInfo};
use crate::responses::{self, Stored, Unanswered};

const PREFIX: &str = "resp_";
/// How long a client waits that deletes what has to be stopped first.
const PATIENCE: Duration = Duration::from_secs(5);
/// Where the body of a task says what the response goes on from: the items themselves are in its input.
const CONTINUES: &str = "continues";
const PREVIOUS: &str = "previous_response_id";

/// Whether a body asks for it.
///
/// # Errors
/// It asks for something that does not go with it.
pub(super) fn is_wanted(body: &Map<String, Value>) -> Result<bool, ApiError> {
    const FIELD: &str = "background";
    let is_true = |name: &str| body.get(name) == Some(&Value::Bool(true));
    match body.get(FIELD) {
        None | Some(Value::Null | Value::Bool(false)) => Ok(false),
        Some(Value::Bool(true)) if is_true("stream") => {
            let message = "what is made in the background has no stream: ask for it with GET";
            Err(ApiError::not_supported("stream", message))
        }
        Some(Value::Bool(true)) if body.get("store") == Some(&Value::Bool(false)) => {
            let message =
                "what is made in the background is kept until it is asked for: leave `store` out";
            Err(ApiError::invalid("store", message))
        }
        Some(Value::Bool(true)) => Ok(true),
        Some(_) => {
            let message = "`background` must be true or false";
            Err(ApiError::invalid(FIELD, message))
        }
    }
}

/// Puts a response into the queue that goes on from `earlier` items.
pub(super) async fn submit(
    service: &Arc<Service>,
    tenant: &Arc<str>,
    mut body: Map<String, Value>,
    earlier: Vec<Value>,
) -> Result<Response, Refusal> {
    body.remove("background");
    if let Some(previous) = body.remove(PREVIOUS).filter(|id| !id.is_null()) {
        body.insert(CONTINUES.to_owned(), previous);
    }
    let engine = service.engine()?.clone();
    let body = blocking(move || {
        let call = responses::read_after(&engine, &body, earlier)?;
        if let Some(form) = call.form.response_form() {
            body.insert("input".to_owned(), form.items().into());
        }
        Ok::<_, ApiError>(body)
    });
    let body = body.await??;
    let jobs = service.jobs()?;
    let model = &service.engine()?.model_info().name;
    let mut task = jobs.new_task(tenant, model, Endpoint::Responses.path());
    task.body = Value::Object(body.clone());
    task.payer = Caller::current().payer();
    let submitted = jobs.submit_if_room(task).await?;
    let response = unanswered(service, &submitted.task, &body)?.waiting("queued");
    Ok(json(StatusCode::OK, &in_background(response, &body)))
}

/// A response that was put there.
///
/// # Errors
/// 404 if there is none of this name.
pub(super) async fn find(
    service: &Service,
    tenant: &Arc<str>,
    id: &str,
) -> Result<Stored, ApiError> {
    let task = task_id(id)?;
    // Without a queue nothing is in it.
    let jobs = service.jobs().map_err(|_| no_response(id))?;
    let found = jobs.get(tenant, task).await;
    let task = found.map_err(|error| refusal(&error))?;
    let is_response = |task: &Task| task.info.endpoint == Endpoint::Responses.path();
    let task = task.filter(is_response).ok_or_else(|| no_response(id))?;
    view(service, task)
}

/// Stops a response that was put there.
///
/// # Errors
/// 404 if there is none of this name.
pub(super) async fn cancel(
    service: &Service,
    tenant: &Arc<str>,
    id: &str,
) -> Result<Stored, ApiError> {
    find(service, tenant, id).await?;
    let cancelled = service.jobs()?.cancel(tenant, task_id(id)?).await;
    cancelled.map_err(|error| refusal(&error))?;
    find(service, tenant, id).await
}

/// Deletes a response that was put there, and stops it first if it has not ended.
///
/// # Errors
/// 404 if there is none of this name; 409 if another service makes it, and has not yet heard that it is to stop.
pub(super) async fn delete(service: &Service, tenant: &Arc<str>, id: &str) -> Result<(), Refusal> {
    find(service, tenant, id).await?;
    let (jobs, task) = (service.jobs()?, task_id(id)?);
    let mut changes = jobs.changes();
    let cancelled = jobs.cancel(tenant, task).await;
    cancelled.map_err(|error| refusal(&error))?;
    let until = Instant::now() + PATIENCE;
    loop {
        let removed = jobs.remove(tenant, task).await;
        if removed.map_err(|error| refusal(&error))? {
            return Ok(());
        }
        // Which task it is that has changed shows when this one is looked at again.
        if timeout_at(until, changes.recv()).await.is_err() {
            // Unless somebody else has deleted it meanwhile.
            find(service, tenant, id).await?;
            let message = "the response is still being stopped: delete it again in a moment";
            return Err(error(StatusCode::CONFLICT, "still_running", message).into());
        }
    }
}

fn task_id(id: &str) -> Result<TaskId, ApiError> {
    let task = id.strip_prefix(PREFIX).and_then(|id| id.parse().ok());
    task.ok_or_else(|| no_response(id))
}

fn view(service: &Service, task: Task) -> Result<Stored, ApiError> {
    let Value::Object(body) = task.body else {
        return Err(no_response(&task.info.id.to_string()));
    };
    let unanswered = unanswered(service, &task.info, &body)?;
    let response = match (task.info.status, task.result) {
        (Status::Completed, Some(result)) => result,
        (Status::Queued, _) => unanswered.waiting("queued"),
        (Status::Cancelled, _) => unanswered.waiting("cancelled"),
        (Status::Running, _) if task.info.cancel_requested => unanswered.waiting("cancelled"),
        (Status::Running, _) => unanswered.waiting("in_progress"),
        (Status::Completed | Status::Failed | Status::Expired, _) => {
            let error = task.info.error.unwrap_or_default();
            let message = error["message"].as_str();
            unanswered.failed(message.unwrap_or("the time for it was over"))
        }
    };
    let items = body.get("input").and_then(Value::as_array);
    Ok(Stored {
        items: items.cloned().unwrap_or_default(),
        response: in_background(response, &body),
    })
}

fn unanswered(
    service: &Service,
    task: &TaskInfo,
    body: &Map<String, Value>,
) -> Result<Unanswered, ApiError> {
    let id = task.id.to_string().replace('-', "");
    let created = task.created.as_millis().unsigned_abs() / 1000;
    let model = &service.engine()?.model_info().name;
    Ok(Unanswered::new(body, model, id, created))
}

fn in_background(mut response: Value, body: &Map<String, Value>) -> Value {
    response["background"] = true.into();
    if let Some(previous) = body.get(CONTINUES) {
        response[PREVIOUS] = previous.clone();
    }
    response
}
