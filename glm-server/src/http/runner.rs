//! Runs tasks of the queue on the engine, the way requests are run.

use std::fmt;
use std::sync::Arc;

use glm_runtime::{EngineHandle, MAX_PRIORITY};
use serde_json::{Map, Value};

use super::answers::Answers;
use super::health::Health;
use super::routes::blocking;
use super::state::Service;
use crate::jobs::{Runner, Running};
use crate::openai::{ApiError, Call, Endpoint, Form, Stamp};
use crate::queue::Claimed;

/// Runs tasks for the queue of a service.
pub(super) struct TaskRunner(Arc<Service>);

impl fmt::Debug for TaskRunner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TaskRunner")
    }
}

impl TaskRunner {
    pub(super) fn new(service: &Arc<Service>) -> Self {
        Self(Arc::clone(service))
    }
}

impl Runner for TaskRunner {
    fn room(&self, running: usize) -> usize {
        let Ok(engine) = self.0.engine() else {
            return 0;
        };
        if self.0.health() != Health::Well {
            return 0;
        }
        let stats = engine.stats();
        // The statistics do not know yet of what has just been submitted.
        let busy = running.max(stats.running + stats.waiting);
        engine.max_num_seqs().saturating_sub(busy)
    }

    fn run(&self, task: &Claimed) -> Running {
        let service = Arc::clone(&self.0);
        let stamp = Stamp {
            id: task.info.id.to_string().replace('-', ""),
            created: task.info.created.as_millis().unsigned_abs() / 1000,
        };
        let (path, body) = (task.info.endpoint.clone(), task.body.clone());
        let priority = engine_priority(task.info.priority);
        Box::pin(async move {
            let (answers, form) = {
                let service = Arc::clone(&service);
                blocking(move || ask(&service, &path, body, priority)).await??
            };
            let answers = answers.whole().await?;
            Ok(form.response(service.engine()?, &stamp, &answers))
        })
    }
}

/// Refuses what could never be run: to be called before a task is submitted, where it may take its time.
///
/// # Errors
/// 400, or 404 for another model; 503 while the model is being loaded.
pub(super) fn check(
    service: &Service,
    path: &str,
    body: &Map<String, Value>,
) -> Result<(), ApiError> {
    read(service.engine()?, path, body)?;
    service.check_model(body)
}

fn read(engine: &EngineHandle, path: &str, body: &Map<String, Value>) -> Result<Call, ApiError> {
    let endpoint = Endpoint::from_path(path).map_err(|error| ApiError {
        status: 400,
        param: Some("endpoint".to_owned()),
        ..error
    })?;
    let call = Call::read(engine, endpoint, body)?;
    match call.stream {
        true => Err(ApiError::not_supported(
            "stream",
            "what is answered later has no stream: leave `stream` out",
        )),
        false => Ok(call),
    }
}

fn ask(
    service: &Arc<Service>,
    path: &str,
    body: Value,
    priority: i32,
) -> Result<(Answers, Form), ApiError> {
    let Value::Object(body) = body else {
        return Err(ApiError::invalid("body", "`body` must be an object"));
    };
    let engine = service.engine()?;
    let call = read(engine, path, &body)?;
    let mut streams = Vec::new();
    for mut request in call.requests {
        request.options.priority = priority;
        let submitted = engine.submit_n(request, call.n);
        streams.extend(submitted.inspect_err(|error| service.note(error))?);
    }
    Ok((Answers::new(service, streams), call.form))
}

/// Tasks among themselves in their order, and all of them but the most urgent behind requests that somebody waits for.
fn engine_priority(priority: i32) -> i32 {
    (priority - MAX_PRIORITY) / 2
}
