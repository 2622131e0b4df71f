//! What is answered later: tasks that wait in the durable [`queue`](crate::queue) until the engine has room for them.
//!
//! [`Jobs`] is what handlers call: it submits, looks up and cancels. [`Jobs::work`] claims tasks and has them run by a [`Runner`],
//! which is the service's own interface, so a task is answered exactly as a request is. [`Jobs::keep`] keeps the queue in order:
//! it puts back what dead workers left, deletes what is old, and knows how the queue is ([`Jobs::health`]).
//!
//! Several services may share a queue. Each takes the tasks of its own model, which is what the pools of the queue are here.

mod batches;
mod bound;
mod contents;
mod error;
mod files;
mod keeper;
mod kept;
mod metrics;
mod options;
mod runner;
#[cfg(test)]
mod tests;
mod workers;

use std::path::Path;
use std::sync::Arc;

use tokio::sync::{broadcast, watch};
use uuid::Uuid;

pub(crate) use self::batches::{Batch, Driver, MAX_DRIVEN, NewBatch, POOL as BATCHES};
use self::bound::Bound;
pub(crate) use self::bound::NotTaken;
use self::contents::Contents;
pub(crate) use self::contents::Incoming;
pub use self::error::JobsError;
pub(crate) use self::error::{JobFailure, refusal};
pub(crate) use self::files::{FileInfo, NewFile, PURPOSES};
use self::keeper::Observed;
pub(crate) use self::metrics::{Depth, TaskMetrics};
pub use self::options::{JobsOptions, QueuePlace};
pub(crate) use self::runner::{Runner, Running};
use self::workers::Held;
use crate::queue::{
    Cancellation, Filter, NewTask, Page, Paging, SqliteOptions, SqliteStore, Store, StoreError,
    Submitted, Task, TaskId, TaskInfo, Timestamp,
};
#[cfg(feature = "postgres")]
use crate::queue::{PostgresOptions, PostgresStore};

/// Changes that a watcher may be behind before it has to look at its task again.
const MAX_BEHIND: usize = 256;

/// The queue of a service, and its part in the work.
#[derive(Debug)]
pub(crate) struct Jobs {
    store: Arc<dyn Store>,
    contents: Contents,
    options: JobsOptions,
    /// What this process is called in the queue.
    worker: String,
    /// Tasks that this process runs.
    held: Held,
    /// Changes when there may be something to claim.
    wake: watch::Sender<()>,
    /// Tasks that this process has changed.
    changes: broadcast::Sender<TaskId>,
    observed: Observed,
    bound: Bound,
    metrics: TaskMetrics,
}

impl Jobs {
    /// Opens the queue.
    ///
    /// # Errors
    /// [`JobsError`]: a directory cannot be created, or [`StoreError`] for the queue itself.
    pub(crate) fn open(options: JobsOptions) -> Result<Self, JobsError> {
        let sqlite = SqliteOptions::default();
        let store: Arc<dyn Store> = match &options.queue {
            QueuePlace::Memory => Arc::new(SqliteStore::in_memory(sqlite)?),
            QueuePlace::File(path) => {
                create_private(path.parent().unwrap_or(Path::new(".")))?;
                Arc::new(SqliteStore::open(path, sqlite)?)
            }
            #[cfg(feature = "postgres")]
            QueuePlace::Postgres(url) => {
                Arc::new(PostgresStore::open(url, PostgresOptions::default())?)
            }
        };
        Ok(Self {
            store,
            contents: Contents::open(options.files.clone())?,
            options,
            worker: format!("{}", Uuid::now_v7().simple()),
            held: Held::default(),
            wake: watch::Sender::new(()),
            changes: broadcast::Sender::new(MAX_BEHIND),
            observed: Observed::default(),
            bound: Bound::default(),
            metrics: TaskMetrics::default(),
        })
    }

    /// Deletes files that were not to stay. To be called when the service has ended.
    pub(crate) fn close(&self) {
        self.contents.close();
    }

    pub(crate) fn options(&self) -> &JobsOptions {
        &self.options
    }

    pub(crate) fn metrics(&self) -> &TaskMetrics {
        &self.metrics
    }

    /// A task of the kind that this service takes, for a model.
    pub(crate) fn new_task(&self, tenant: &str, model: &str, endpoint: &str) -> NewTask {
        NewTask {
            pool: model.to_owned(),
            retention: self.options.retention,
            ..NewTask::new(tenant, endpoint, serde_json::Value::Null)
        }
    }

    /// Takes a task into the queue, however long that is. It is on the disk when this answers.
    ///
    /// # Errors
    /// Those of [`Store::submit`].
    pub(crate) async fn submit(&self, task: NewTask) -> Result<Submitted, StoreError> {
        let mut submitted = self.submit_all(vec![task]).await?;
        // One for each.
        submitted.pop().ok_or(StoreError::Closed {
            at: "the queue".to_owned(),
        })
    }

    async fn submit_all(&self, tasks: Vec<NewTask>) -> Result<Vec<Submitted>, StoreError> {
        self.bound.submitted(&tasks);
        let submitted = self.store.submit(tasks, Timestamp::now()).await?;
        self.wake.send_replace(());
        Ok(submitted)
    }

    /// A task of this tenant, with body and result.
    pub(crate) async fn get(&self, tenant: &str, id: TaskId) -> Result<Option<Task>, StoreError> {
        self.store.get(id, Some(tenant)).await
    }

    /// A task of this tenant.
    pub(crate) async fn info(
        &self,
        tenant: &str,
        id: TaskId,
    ) -> Result<Option<TaskInfo>, StoreError> {
        self.store.info(id, Some(tenant)).await
    }

    /// A part of the list of tasks.
    ///
    /// # Errors
    /// Those of [`Store::list`].
    pub(crate) async fn list(&self, filter: Filter, paging: Paging) -> Result<Page, StoreError> {
        self.store.list(filter, paging).await
    }

    /// Asks for the end of a task of this tenant. If it runs here it is stopped at once.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub(crate) async fn cancel(
        &self,
        tenant: &str,
        id: TaskId,
    ) -> Result<Cancellation, StoreError> {
        let done = self
            .store
            .cancel(id, Some(tenant), Timestamp::now())
            .await?;
        match done {
            Cancellation::Requested => self.held.cancel(id),
            Cancellation::Cancelled => self.changed(id),
            Cancellation::TooLate(_) => {}
        }
        Ok(done)
    }

    /// Deletes a task of this tenant that has ended, with its result. Answers whether there was one.
    pub(crate) async fn remove(&self, tenant: &str, id: TaskId) -> Result<bool, StoreError> {
        self.store.remove(id, Some(tenant)).await
    }

    /// Tasks that this process changes from now on.
    pub(crate) fn changes(&self) -> broadcast::Receiver<TaskId> {
        self.changes.subscribe()
    }

    fn changed(&self, id: TaskId) {
        // Nobody need be watching.
        let _ = self.changes.send(id);
    }
}

/// Creates a directory for this user only, unless it is there.
fn create_private(path: &Path) -> Result<(), JobsError> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(|source| JobsError::Directory {
        path: path.to_owned(),
        source,
    })
}
