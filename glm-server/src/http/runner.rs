//! Runs tasks of the queue on the engine, the way requests are run.

use std::fmt;
use std::sync::Arc;

use futures_util::future::try_join_all;
use glm_runtime::{EngineHandle, MAX_PRIORITY, PendingEmbedding};
use serde_json::{Map, Value};

use super::answers::Answers;
use super::caller::Caller;
use super::health::Health;
use super::routes::{blocking, scored};
use super::state::Service;
use crate::jobs::{Runner, Running};
use crate::openai::{ApiError, Call, EmbeddingCall, Form, Stamp, Target};
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
        let waiting = stats.waiting + self.0.fair.waiting().0;
        let busy = running.max(stats.running + waiting);
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
        let caller = caller(&self.0, task);
        let answered = async move {
            let mut wanted = {
                let service = Arc::clone(&service);
                blocking(move || wanted(&service, &path, body)).await??
            };
            if let Wanted::Answers(call) = wanted {
                wanted = Wanted::Answers(Box::new(scored(&service, *call).await?));
            }
            let asked = {
                let service = Arc::clone(&service);
                blocking(move || ask(&service, wanted, priority)).await??
            };
            let engine = service.engine()?;
            match asked {
                Asked::Answers(answers, form) => {
                    let answers = answers.whole().await?;
                    Ok::<_, ApiError>(form.response(engine, &stamp, &answers))
                }
                Asked::Embeddings(call, pending) => {
                    Caller::current().prompt(call.num_tokens());
                    let means = try_join_all(pending).await;
                    let means = means.inspect_err(|error| service.note(error))?;
                    Ok(call.response(engine, &means))
                }
            }
        };
        Box::pin(caller.with(answered))
    }
}

/// Whose the work on a task is: whoever submitted it pays for its tokens, and the log knows it by its own name.
fn caller(service: &Service, task: &Claimed) -> Arc<Caller> {
    let caller = Caller::of_request(task.info.id.to_string().into());
    if let Some(payer) = &task.info.payer {
        caller.pays_from(service.accounts.find(payer));
    }
    Arc::new(caller)
}

/// What a task asks for.
enum Wanted {
    Answers(Box<Call>),
    Embeddings(EmbeddingCall),
}

/// What the engine works on for a task. Dropping it stops the work.
enum Asked {
    Answers(Answers, Box<Form>),
    Embeddings(EmbeddingCall, Vec<PendingEmbedding>),
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

fn read(engine: &EngineHandle, path: &str, body: &Map<String, Value>) -> Result<Wanted, ApiError> {
    let call = match Target::from_field("endpoint", path)? {
        Target::Answers(endpoint) => Call::read_unscored(engine, endpoint, body)?,
        Target::Embeddings => return Ok(Wanted::Embeddings(EmbeddingCall::read(engine, body)?)),
    };
    match call.stream {
        true => Err(ApiError::not_supported(
            "stream",
            "what is answered later has no stream: leave `stream` out",
        )),
        false => Ok(Wanted::Answers(Box::new(call))),
    }
}

fn wanted(service: &Service, path: &str, body: Value) -> Result<Wanted, ApiError> {
    let Value::Object(body) = body else {
        return Err(ApiError::invalid("body", "`body` must be an object"));
    };
    service.check_model(&body)?;
    read(service.engine()?, path, &body)
}

fn ask(service: &Arc<Service>, wanted: Wanted, priority: i32) -> Result<Asked, ApiError> {
    let engine = service.engine()?;
    let call = match wanted {
        Wanted::Answers(call) => *call,
        Wanted::Embeddings(call) => {
            let pending = call.submit(engine)?;
            return Ok(Asked::Embeddings(call, pending));
        }
    };
    let mut streams = Vec::new();
    for mut request in call.requests {
        request.options.priority = priority;
        let submitted = engine.submit_n(request, call.n);
        streams.extend(submitted.inspect_err(|error| service.note(error))?);
    }
    Ok(Asked::Answers(
        Answers::new(service, streams),
        Box::new(call.form),
    ))
}

/// Tasks among themselves in their order, and all of them but the most urgent behind requests that somebody waits for.
fn engine_priority(priority: i32) -> i32 {
    (priority - MAX_PRIORITY) / 2
}
