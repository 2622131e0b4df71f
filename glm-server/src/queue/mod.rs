//! The durable queue: what is submitted is answered later, whatever happens in between.
//!
//! ```
//! use std::time::Duration;
//! use glm_server::queue::{DEFAULT_POOL, NewTask, Report, SqliteOptions, SqliteStore, Status, Store, Timestamp};
//! use serde_json::json;
//!
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path().join("queue.db");
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! let store = SqliteStore::open(&path, SqliteOptions::default())?;
//! let task = NewTask::new("someone", "/v1/completions", json!({"prompt": "1, 2,"}));
//! let submitted = store.submit(vec![task], Timestamp::now()).await?;
//!
//! // A worker, here or in another process:
//! let lease = Duration::from_secs(30);
//! for claimed in store.claim(DEFAULT_POOL, "worker 1", 1, lease, Timestamp::now()).await? {
//!     let result = json!({"text": " 3, 4"});
//!     store.finish(claimed.lease, Report::Completed(result), Timestamp::now()).await?;
//! }
//!
//! let task = store.get(submitted[0].task.id, Some("someone")).await?.unwrap();
//! assert_eq!(task.info.status, Status::Completed);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What holds
//!
//! - **What was accepted is there.** [`Store::submit`] answers when the tasks are on the disk, all of them or none.
//! - **Every task ends once.** It becomes `completed`, `failed`, `cancelled` or `expired`, and nothing changes that any more. A worker
//!   has a [`Lease`] with a number that rises each time a task is given out. One that was slow, or cut off, until the task was
//!   given to another one has the wrong number: its report is refused ([`StoreError::LeaseLost`]). Clocks that disagree can
//!   make a task run twice, but never end twice.
//! - **Every task ends.** A worker that dies lets its lease run out, and [`Store::reap`] puts the task back, until it has
//!   had all its attempts.
//! - **A task may be started several times**, so what it does to the world outside must bear that. Generating text does.
//!
//! # Order
//!
//! Higher priority first, but a task that has waited for [`AGING`] is worth one level more, so nobody starves; then the earlier
//! deadline; then the older task. All this is known when a task is submitted, so the order is an index (see `policy::level`).
//!
//! # Who calls what
//!
//! A service calls [`Store::submit`], [`Store::get`], [`Store::list`] and [`Store::cancel`] for its clients; its workers call
//! [`Store::claim`], then [`Store::heartbeat`] a few times per lease, then [`Store::finish`]. Something calls [`Store::reap`] and
//! [`Store::purge`] now and then; several processes may do so at once. Nothing calls back: who waits for a task asks again.

mod error;
mod policy;
#[cfg(feature = "postgres")]
mod postgres;
mod record;
mod rows;
mod sqlite;
mod statements;
mod task;
#[cfg(test)]
mod tests;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

pub use self::error::{ErrorKind, StoreError};
pub use self::policy::{AGING, Backoff, Limits, MAX_PAGE};
#[cfg(feature = "postgres")]
pub use self::postgres::{PostgresOptions, PostgresStore};
pub use self::record::{NewRecord, Record};
pub use self::sqlite::{SqliteOptions, SqliteStore};
pub use self::task::{
    Backlog, Cancellation, Claimed, Counts, DEFAULT_POOL, Filter, Lease, NewTask, NotATaskId, Page,
    Paging, Pulse, Reaped, Report, Status, Submitted, Task, TaskId, TaskInfo, Timestamp,
};

/// What an operation of a [`Store`] answers, later. It needs no particular async runtime.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// A durable queue in some database.
///
/// Each operation happens as a whole or not at all, and is on the disk when it answers. It happens even if its future is
/// dropped; a claim whose answer nobody takes is undone when its leases run out.
///
/// # Errors
/// Besides what is said with each operation: those of [`ErrorKind::Unavailable`] and [`ErrorKind::Broken`].
pub trait Store: fmt::Debug + Send + Sync {
    /// Takes tasks into the queue, in this order among equals. Answers one for each.
    ///
    /// # Errors
    /// Nothing is taken if one of them is beyond the [`Limits`], or has an idempotency key that belongs to a task with another
    /// endpoint or body ([`StoreError::Conflict`]).
    fn submit(&self, tasks: Vec<NewTask>, now: Timestamp) -> StoreFuture<'_, Vec<Submitted>>;

    /// The task that [`submit`](Self::submit) would answer instead of taking this one, because it has its idempotency key.
    ///
    /// # Errors
    /// Those of `submit`.
    fn repeated(&self, task: NewTask, now: Timestamp) -> StoreFuture<'_, Option<Submitted>>;

    /// Gives up to `limit` tasks of `pool` to `worker` for the time `lease`, the first in the queue first.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] or [`StoreError::ControlCharacters`] because of the worker's name.
    fn claim(
        &self,
        pool: &str,
        worker: &str,
        limit: usize,
        lease: Duration,
        now: Timestamp,
    ) -> StoreFuture<'_, Vec<Claimed>>;

    /// Extends leases to `lease` from now on. Answers one for each. A lease that has run out is extended too, unless the task
    /// was put back already.
    fn heartbeat(
        &self,
        leases: &[Lease],
        lease: Duration,
        now: Timestamp,
    ) -> StoreFuture<'_, Vec<Pulse>>;

    /// Reports what came of an attempt. Answers what the task is now: with retries and cancellation that need not be what was
    /// reported.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if the task does not belong to the worker any more; [`StoreError::NotFound`] if it is gone;
    /// [`StoreError::TooLarge`] if result or error are: then report something smaller.
    fn finish(&self, lease: Lease, report: Report, now: Timestamp) -> StoreFuture<'_, Status>;

    /// Asks for the end of a task, of this tenant or, with `None`, of any.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    fn cancel(
        &self,
        id: TaskId,
        tenant: Option<&str>,
        now: Timestamp,
    ) -> StoreFuture<'_, Cancellation>;

    /// Asks for the end of all tasks of a group. Answers how many tasks that ended at once, or will.
    fn cancel_group(
        &self,
        group: &str,
        tenant: Option<&str>,
        now: Timestamp,
    ) -> StoreFuture<'_, u64>;

    /// Puts back tasks whose leases had run out at `lapsed`, and ends those whose deadlines have come, running ones too. `lapsed` is `now`, or
    /// earlier where workers may be alive who could not extend their leases: the default is before all of them.
    fn reap(&self, lapsed: Timestamp, now: Timestamp) -> StoreFuture<'_, Reaped>;

    /// A task of this tenant or, with `None`, of any.
    fn get(&self, id: TaskId, tenant: Option<&str>) -> StoreFuture<'_, Option<Task>>;

    /// The same without body and result, which may be large.
    fn info(&self, id: TaskId, tenant: Option<&str>) -> StoreFuture<'_, Option<TaskInfo>>;

    /// A part of the list of tasks.
    ///
    /// # Errors
    /// [`StoreError::OutOfRange`] because of [`Paging::limit`].
    fn list(&self, filter: Filter, paging: Paging) -> StoreFuture<'_, Page>;

    /// How many tasks of a group are how far.
    fn counts(&self, group: &str, tenant: Option<&str>) -> StoreFuture<'_, Counts>;

    /// What waits and runs in a pool, by priority, the highest first; no entry where there is nothing.
    fn backlog(&self, pool: &str) -> StoreFuture<'_, Vec<Backlog>>;

    /// Deletes a task that has ended, of this tenant or, with `None`, of any. Answers whether there was one: a task that has not ended
    /// stays.
    fn remove(&self, id: TaskId, tenant: Option<&str>) -> StoreFuture<'_, bool>;

    /// Writes a record that has version `expected`, 0 if it is new. Answers its version from now on.
    ///
    /// # Errors
    /// [`StoreError::Changed`] if it has another version, or is not there; those of [`ErrorKind::Invalid`] if it is beyond the
    /// [`Limits`].
    fn put_record(&self, record: NewRecord, expected: u64, now: Timestamp) -> StoreFuture<'_, u64>;

    /// A record of this tenant or, with `None`, of any.
    fn record(&self, kind: &str, id: &str, tenant: Option<&str>)
    -> StoreFuture<'_, Option<Record>>;

    /// A part of the list of the records of a kind, of this tenant or, with `None`, of all.
    ///
    /// # Errors
    /// [`StoreError::OutOfRange`] because of [`Paging::limit`].
    fn records(
        &self,
        kind: &str,
        tenant: Option<&str>,
        paging: Paging<String>,
    ) -> StoreFuture<'_, Page<Record>>;

    /// Deletes a record of this tenant or, with `None`, of any. Answers whether it was there.
    fn remove_record(&self, kind: &str, id: &str, tenant: Option<&str>) -> StoreFuture<'_, bool>;

    /// Deletes up to `limit` tasks whose retention is over, and as many records that have expired. Answers how many of both.
    fn purge(&self, limit: usize, now: Timestamp) -> StoreFuture<'_, u64>;
}

/// A refusal before the database was asked.
fn refused<'a, T: Send + 'a>(error: StoreError) -> StoreFuture<'a, T> {
    Box::pin(std::future::ready(Err(error)))
}
