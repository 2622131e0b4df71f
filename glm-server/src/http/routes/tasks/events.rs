//! `GET /v1/tasks/{id}/events`: a task each time it changes, until its end.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::Value;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::{no_task, parse, view};
use crate::http::error::Refusal;
use crate::http::state::Service;
use crate::http::tenant::Owner;
use crate::jobs::{Jobs, refusal};
use crate::openai::ApiError;
use crate::queue::{StoreError, TaskId, TaskInfo};

/// How often to look for what other processes have changed.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

pub(in super::super) async fn events(
    State(service): State<Arc<Service>>,
    Owner(tenant): Owner,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    let jobs = Arc::clone(service.jobs()?);
    let task = parse(&id)?;
    // Before the first look: nothing is missed.
    let changes = jobs.changes();
    let found = jobs.info(&tenant, task).await;
    if found.map_err(|error| refusal(&error))?.is_none() {
        return Err(no_task(&id).into());
    }
    let watched = Watched {
        jobs,
        tenant,
        task,
        changes,
        said: None,
        ended: false,
    };
    let drains = Arc::clone(&service);
    let events = stream::unfold(watched, move |mut watched| {
        let service = Arc::clone(&drains);
        async move {
            // Watching must not hold up the end of the service: the client asks the next one.
            let event = tokio::select! {
                event = watched.next() => event?,
                () = service.drains() => return None,
            };
            Some((Ok::<_, Infallible>(event), watched))
        }
    });
    let keep_alive = KeepAlive::new().interval(service.options.keep_alive);
    let keep_alive = keep_alive.text("keep-alive");
    Ok(Sse::new(events).keep_alive(keep_alive).into_response())
}

/// A task that a client watches.
struct Watched {
    jobs: Arc<Jobs>,
    tenant: Arc<str>,
    task: TaskId,
    changes: Receiver<TaskId>,
    /// The state that the client knows.
    said: Option<Value>,
    ended: bool,
}

impl Watched {
    async fn next(&mut self) -> Option<Event> {
        if self.ended {
            return None;
        }
        loop {
            match self.jobs.info(&self.tenant, self.task).await {
                Ok(Some(info)) => {
                    let state = view::info(&info);
                    if self.said.as_ref() != Some(&state) {
                        return Some(self.say(&info, state).await);
                    }
                }
                // It has been deleted: some time after its end, or by its owner.
                Ok(None) => return None,
                Err(error) => return Some(self.fail(&error)),
            }
            self.changed().await;
        }
    }

    async fn say(&mut self, info: &TaskInfo, state: Value) -> Event {
        if !info.status.is_terminal() {
            let event = data(&state);
            self.said = Some(state);
            return event;
        }
        self.ended = true;
        match self.jobs.get(&self.tenant, self.task).await {
            Ok(Some(task)) => data(&view::whole(&task)),
            Ok(None) => data(&state),
            Err(error) => self.fail(&error),
        }
    }

    fn fail(&mut self, error: &StoreError) -> Event {
        self.ended = true;
        let error: ApiError = refusal(error);
        data(&error.body())
    }

    /// Waits until the task may have changed.
    async fn changed(&mut self) {
        let own = async {
            loop {
                match self.changes.recv().await {
                    Ok(id) if id != self.task => {}
                    // Too far behind to know.
                    Ok(_) | Err(RecvError::Lagged(_)) => return,
                    Err(RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        // That nothing was heard in this time says nothing.
        let _ = tokio::time::timeout(LOOK_AGAIN, own).await;
    }
}

fn data(value: &Value) -> Event {
    Event::default().data(value.to_string())
}
