//! The queue in a file: SQLite with a write-ahead log, `synchronous=FULL`.
//!
//! One thread per store has the connection. It takes whatever operations wait, does them in one transaction, and answers when
//! that is on the disk: many callers share one wait for the disk. Several processes may open the same file; SQLite lets one
//! of them write at a time, and the others wait up to [`SqliteOptions::busy_timeout`].

mod error;
mod queries;
mod records;
mod reports;
mod rows;
mod schema;
#[cfg(test)]
mod tests;
mod thread;

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use self::error::Failure;
use self::thread::{Access, DbThread};
use super::policy::IdSource;
use super::{
    Backlog, Backoff, Cancellation, Claimed, Counts, Filter, Lease, Limits, NewRecord, NewTask,
    Page, Paging, Pulse, Reaped, Record, Report, Status, Store, StoreError, StoreFuture, Submitted,
    Task, TaskId, TaskInfo, Timestamp, refused,
};

/// What can be chosen about a [`SqliteStore`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SqliteOptions {
    /// How long an operation waits while another process writes; default 10 s.
    pub busy_timeout: Duration,
    /// How much is taken.
    pub limits: Limits,
    /// How long a task waits after an attempt that failed.
    pub backoff: Backoff,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self {
            busy_timeout: Duration::from_secs(10),
            limits: Limits::default(),
            backoff: Backoff::default(),
        }
    }
}

/// A queue in a file.
#[derive(Debug)]
pub struct SqliteStore {
    thread: DbThread,
    ids: IdSource,
    options: SqliteOptions,
}

impl SqliteStore {
    /// Opens a queue. A file that does not exist is created, for this user only; one of an older version is brought up to date.
    ///
    /// Dropping the store waits for the operations that are under way.
    ///
    /// # Errors
    /// [`StoreError`]: the file cannot be opened or written, is no queue, is damaged, or was written by a newer version.
    pub fn open(path: &Path, options: SqliteOptions) -> Result<Self, StoreError> {
        let db = schema::open(path, options.busy_timeout)?;
        Self::start(db, path.display().to_string(), options)
    }

    /// A queue that is gone when it is dropped, for tests and for trying things out.
    ///
    /// # Errors
    /// [`StoreError::Database`]: there is no memory.
    pub fn in_memory(options: SqliteOptions) -> Result<Self, StoreError> {
        let db = schema::in_memory()?;
        Self::start(db, schema::IN_MEMORY.to_owned(), options)
    }

    fn start(db: Connection, at: String, options: SqliteOptions) -> Result<Self, StoreError> {
        Ok(Self {
            thread: DbThread::start(db, at, options.busy_timeout)?,
            ids: IdSource::default(),
            options,
        })
    }

    fn read<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> StoreFuture<'_, T> {
        self.thread.call(Access::Read, operation)
    }

    fn write<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> StoreFuture<'_, T> {
        self.thread.call(Access::Write, operation)
    }
}

impl Store for SqliteStore {
    fn submit(&self, tasks: Vec<NewTask>, now: Timestamp) -> StoreFuture<'_, Vec<Submitted>> {
        match self.options.limits.prepare(tasks, &self.ids, now) {
            Ok(tasks) => self.write(move |db| queries::submit(db, tasks)),
            Err(error) => refused(error),
        }
    }

    fn repeated(&self, task: NewTask, now: Timestamp) -> StoreFuture<'_, Option<Submitted>> {
        match self.options.limits.prepare_one(task, &self.ids, now) {
            Ok(task) => self.read(move |db| queries::repeated(db, &task)),
            Err(error) => refused(error),
        }
    }

    fn claim(
        &self,
        pool: &str,
        worker: &str,
        limit: usize,
        lease: Duration,
        now: Timestamp,
    ) -> StoreFuture<'_, Vec<Claimed>> {
        match self.options.limits.name("worker", worker) {
            Ok(()) => {
                let (pool, worker) = (pool.to_owned(), worker.to_owned());
                let until = now.after(lease);
                self.write(move |db| queries::claim(db, &pool, &worker, limit, until, now))
            }
            Err(error) => refused(error),
        }
    }

    fn heartbeat(
        &self,
        leases: &[Lease],
        lease: Duration,
        now: Timestamp,
    ) -> StoreFuture<'_, Vec<Pulse>> {
        let leases = leases.to_vec();
        self.write(move |db| reports::heartbeat(db, &leases, now.after(lease)))
    }

    fn finish(&self, lease: Lease, report: Report, now: Timestamp) -> StoreFuture<'_, Status> {
        let backoff = self.options.backoff;
        match self.options.limits.report(report) {
            Ok(report) => self.write(move |db| reports::finish(db, lease, report, &backoff, now)),
            Err(error) => refused(error),
        }
    }

    fn cancel(
        &self,
        id: TaskId,
        tenant: Option<&str>,
        now: Timestamp,
    ) -> StoreFuture<'_, Cancellation> {
        let tenant = tenant.map(str::to_owned);
        self.write(move |db| reports::cancel(db, id, tenant.as_deref(), now))
    }

    fn cancel_group(
        &self,
        group: &str,
        tenant: Option<&str>,
        now: Timestamp,
    ) -> StoreFuture<'_, u64> {
        let (group, tenant) = (group.to_owned(), tenant.map(str::to_owned));
        self.write(move |db| reports::cancel_group(db, &group, tenant.as_deref(), now))
    }

    fn reap(&self, lapsed: Timestamp, now: Timestamp) -> StoreFuture<'_, Reaped> {
        self.write(move |db| reports::reap(db, lapsed, now))
    }

    fn get(&self, id: TaskId, tenant: Option<&str>) -> StoreFuture<'_, Option<Task>> {
        let tenant = tenant.map(str::to_owned);
        self.read(move |db| queries::get(db, id, tenant.as_deref()))
    }

    fn info(&self, id: TaskId, tenant: Option<&str>) -> StoreFuture<'_, Option<TaskInfo>> {
        let tenant = tenant.map(str::to_owned);
        self.read(move |db| queries::info(db, id, tenant.as_deref()))
    }

    fn list(&self, filter: Filter, paging: Paging) -> StoreFuture<'_, Page> {
        match paging.check() {
            Ok(()) => self.read(move |db| queries::list(db, filter, &paging)),
            Err(error) => refused(error),
        }
    }

    fn counts(&self, group: &str, tenant: Option<&str>) -> StoreFuture<'_, Counts> {
        let (group, tenant) = (group.to_owned(), tenant.map(str::to_owned));
        self.read(move |db| queries::counts(db, &group, tenant.as_deref()))
    }

    fn backlog(&self, pool: &str) -> StoreFuture<'_, Vec<Backlog>> {
        let pool = pool.to_owned();
        self.read(move |db| queries::backlog(db, &pool))
    }

    fn remove(&self, id: TaskId, tenant: Option<&str>) -> StoreFuture<'_, bool> {
        let tenant = tenant.map(str::to_owned);
        self.write(move |db| reports::remove(db, id, tenant.as_deref()))
    }

    fn put_record(&self, record: NewRecord, expected: u64, now: Timestamp) -> StoreFuture<'_, u64> {
        match self.options.limits.record(&record) {
            Ok(value) => self.write(move |db| records::put(db, &record, &value, expected, now)),
            Err(error) => refused(error),
        }
    }

    fn record(
        &self,
        kind: &str,
        id: &str,
        tenant: Option<&str>,
    ) -> StoreFuture<'_, Option<Record>> {
        let (kind, id, tenant) = (kind.to_owned(), id.to_owned(), tenant.map(str::to_owned));
        self.read(move |db| records::get(db, &kind, &id, tenant.as_deref()))
    }

    fn records(
        &self,
        kind: &str,
        tenant: Option<&str>,
        paging: Paging<String>,
    ) -> StoreFuture<'_, Page<Record>> {
        let (kind, tenant) = (kind.to_owned(), tenant.map(str::to_owned));
        match paging.check() {
            Ok(()) => self.read(move |db| records::list(db, kind, tenant, &paging)),
            Err(error) => refused(error),
        }
    }

    fn remove_record(&self, kind: &str, id: &str, tenant: Option<&str>) -> StoreFuture<'_, bool> {
        let (kind, id, tenant) = (kind.to_owned(), id.to_owned(), tenant.map(str::to_owned));
        self.write(move |db| records::remove(db, &kind, &id, tenant.as_deref()))
    }

    fn purge(&self, limit: usize, now: Timestamp) -> StoreFuture<'_, u64> {
        self.write(move |db| reports::purge(db, limit, now))
    }
}
