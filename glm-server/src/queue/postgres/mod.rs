//! The queue in PostgreSQL, for several machines: the statements are those of SQLite, and a claim passes over what others are
//! claiming at the same time (`FOR UPDATE SKIP LOCKED`).
//!
//! The store has an async runtime of its own, with one thread: its connections live there, so its operations can be awaited anywhere,
//! and an operation whose future is dropped goes on. One that loses against another (a deadlock) is done again.

mod error;
mod queries;
mod records;
mod reports;
mod rows;
mod schema;
#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{PgConnection, PgPool};
use tokio::runtime::{Builder, Runtime};

use self::error::Failure;
use super::policy::IdSource;
use super::{
    Backlog, Backoff, Cancellation, Claimed, Counts, Filter, Lease, Limits, NewRecord, NewTask,
    Page, Paging, Pulse, Reaped, Record, Report, Status, Store, StoreError, StoreFuture, Submitted,
    Task, TaskId, TaskInfo, Timestamp, refused,
};

/// How often an operation that loses against others is done again.
const TRIES: usize = 10;

/// What can be chosen about a [`PostgresStore`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PostgresOptions {
    /// The schema that the tables are in; created if need be. Default: `glm`.
    pub schema: String,
    /// Most connections at a time; default 8.
    pub max_connections: u32,
    /// How long to wait for a connection; default 10 s.
    pub connect_timeout: Duration,
    /// How much is taken.
    pub limits: Limits,
    /// How long a task waits after an attempt that failed.
    pub backoff: Backoff,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self {
            schema: "glm".to_owned(),
            max_connections: 8,
            connect_timeout: Duration::from_secs(10),
            limits: Limits::default(),
            backoff: Backoff::default(),
        }
    }
}

/// The database, and what it is called in messages: nothing secret.
#[derive(Debug)]
struct Database {
    pool: PgPool,
    at: String,
}

/// A queue in PostgreSQL.
pub struct PostgresStore {
    /// `None` only while it is being dropped.
    runtime: Option<Runtime>,
    database: Arc<Database>,
    ids: IdSource,
    options: PostgresOptions,
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PostgresStore")
            .field(&self.database.at)
            .finish()
    }
}

impl PostgresStore {
    /// Connects, and creates the tables unless they are there. To be called where one may wait.
    ///
    /// `url` is `postgres://USER:PASSWORD@HOST:PORT/DATABASE`, with `?sslmode=require` and the like; what it leaves out is taken from
    /// the environment, as `psql` does. A name of a directory for HOST, its slashes written as `%2F`, is a local socket.
    ///
    /// # Errors
    /// [`StoreError`]: the URL is none, the server cannot be reached, or the tables are those of a newer version.
    pub fn open(url: &str, options: PostgresOptions) -> Result<Self, StoreError> {
        let connect = PgConnectOptions::from_str(url).map_err(|source| StoreError::Database {
            at: "the URL of the queue".to_owned(),
            source: Arc::new(source),
        })?;
        let at = name(&connect);
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("glm-queue")
            .enable_all()
            .build()
            .map_err(|source| StoreError::Database {
                at: at.clone(),
                source: Arc::new(source),
            })?;
        let connect = connect
            .options([("search_path", options.schema.as_str())])
            .application_name("glm");
        let entered = runtime.enter();
        let pool = PgPoolOptions::new()
            .max_connections(options.max_connections)
            .acquire_timeout(options.connect_timeout)
            .connect_lazy_with(connect);
        drop(entered);
        let store = Self {
            runtime: Some(runtime),
            database: Arc::new(Database { pool, at }),
            ids: IdSource::default(),
            options,
        };
        store.prepare()?;
        Ok(store)
    }

    /// Waits until the tables are there, without a runtime of the caller's.
    fn prepare(&self) -> Result<(), StoreError> {
        let (answer, answered) = mpsc::channel();
        let (database, schema) = (Arc::clone(&self.database), self.options.schema.clone());
        if let Some(runtime) = &self.runtime {
            runtime.spawn(async move {
                let prepared = schema::prepare(&database, &schema).await;
                // The caller waits.
                let _ = answer.send(prepared.map_err(|failure| failure.explain(&database.at)));
            });
        }
        answered.recv().unwrap_or_else(|_| Err(self.closed()))
    }

    fn closed(&self) -> StoreError {
        StoreError::Closed {
            at: self.database.at.clone(),
        }
    }

    /// Does something in a transaction, again if that loses against others.
    fn call<T, O>(&self, operation: O) -> StoreFuture<'_, T>
    where
        T: Send + 'static,
        O: for<'a> Fn(&'a mut PgConnection) -> Doing<'a, T> + Send + Sync + 'static,
    {
        let Some(runtime) = &self.runtime else {
            return refused(self.closed());
        };
        let database = Arc::clone(&self.database);
        let done = runtime.spawn(async move {
            let mut tries = 1;
            loop {
                match once(&database, &operation).await {
                    Err(failure) if failure.may_pass() && tries < TRIES => tries += 1,
                    done => return done.map_err(|failure| failure.explain(&database.at)),
                }
            }
        });
        Box::pin(async move { done.await.unwrap_or_else(|_| Err(self.closed())) })
    }
}

/// What an operation answers.
type Doing<'a, T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + Send + 'a>>;

async fn once<T, O>(database: &Database, operation: &O) -> Result<T, Failure>
where
    O: for<'a> Fn(&'a mut PgConnection) -> Doing<'a, T>,
{
    let mut transaction = database.pool.begin().await?;
    match operation(&mut transaction).await {
        Ok(done) => {
            transaction.commit().await?;
            Ok(done)
        }
        Err(failure) => {
            // Before anybody hears of it: dropped, it would be rolled back some time later, and keep its locks until then. If this
            // fails too, the connection is gone, and the transaction with it.
            let _ = transaction.rollback().await;
            Err(failure)
        }
    }
}

/// A server in messages, without user and password.
fn name(connect: &PgConnectOptions) -> String {
    let host = match connect.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => connect.get_host().to_owned(),
    };
    let database = connect.get_database().unwrap_or_default();
    format!("postgres://{host}:{}/{database}", connect.get_port())
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Waiting is not allowed in a runtime, where this may be.
            runtime.shutdown_background();
        }
    }
}

impl Store for PostgresStore {
    fn submit(&self, tasks: Vec<NewTask>, now: Timestamp) -> StoreFuture<'_, Vec<Submitted>> {
        match self.options.limits.prepare(tasks, &self.ids, now) {
            Ok(tasks) => {
                let tasks = Arc::new(tasks);
                self.call(move |db| Box::pin(queries::submit(db, Arc::clone(&tasks))))
            }
            Err(error) => refused(error),
        }
    }

    fn repeated(&self, task: NewTask, now: Timestamp) -> StoreFuture<'_, Option<Submitted>> {
        match self.options.limits.prepare_one(task, &self.ids, now) {
            Ok(task) => {
                let task = Arc::new(task);
                self.call(move |db| {
                    let task = Arc::clone(&task);
                    Box::pin(async move { queries::repeated(db, &task).await })
                })
            }
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
        if let Err(error) = self.options.limits.name("worker", worker) {
            return refused(error);
        }
        let (pool, worker) = (pool.to_owned(), worker.to_owned());
        let until = now.after(lease);
        self.call(move |db| {
            let (pool, worker) = (pool.clone(), worker.clone());
            Box::pin(async move { queries::claim(db, &pool, &worker, limit, until, now).await })
        })
    }

    fn heartbeat(
        &self,
        leases: &[Lease],
        lease: Duration,
        now: Timestamp,
    ) -> StoreFuture<'_, Vec<Pulse>> {
        let (leases, until) = (Arc::new(leases.to_vec()), now.after(lease));
        self.call(move |db| Box::pin(reports::heartbeat(db, Arc::clone(&leases), until)))
    }

    fn finish(&self, lease: Lease, report: Report, now: Timestamp) -> StoreFuture<'_, Status> {
        let backoff = self.options.backoff;
        match self.options.limits.report(report) {
            Ok(report) => {
                let report = Arc::new(report);
                self.call(move |db| {
                    Box::pin(reports::finish(
                        db,
                        lease,
                        Arc::clone(&report),
                        backoff,
                        now,
                    ))
                })
            }
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
        self.call(move |db| Box::pin(reports::cancel(db, id, tenant.clone(), now)))
    }

    fn cancel_group(
        &self,
        group: &str,
        tenant: Option<&str>,
        now: Timestamp,
    ) -> StoreFuture<'_, u64> {
        let (group, tenant) = (group.to_owned(), tenant.map(str::to_owned));
        self.call(move |db| {
            Box::pin(reports::cancel_group(
                db,
                group.clone(),
                tenant.clone(),
                now,
            ))
        })
    }

    fn reap(&self, lapsed: Timestamp, now: Timestamp) -> StoreFuture<'_, Reaped> {
        self.call(move |db| Box::pin(reports::reap(db, lapsed, now)))
    }

    fn get(&self, id: TaskId, tenant: Option<&str>) -> StoreFuture<'_, Option<Task>> {
        let tenant = tenant.map(str::to_owned);
        self.call(move |db| Box::pin(queries::get(db, id, tenant.clone())))
    }

    fn info(&self, id: TaskId, tenant: Option<&str>) -> StoreFuture<'_, Option<TaskInfo>> {
        let tenant = tenant.map(str::to_owned);
        self.call(move |db| Box::pin(queries::info(db, id, tenant.clone())))
    }

    fn list(&self, filter: Filter, paging: Paging) -> StoreFuture<'_, Page> {
        match paging.check() {
            Ok(()) => self.call(move |db| Box::pin(queries::list(db, filter.clone(), paging))),
            Err(error) => refused(error),
        }
    }

    fn counts(&self, group: &str, tenant: Option<&str>) -> StoreFuture<'_, Counts> {
        let (group, tenant) = (group.to_owned(), tenant.map(str::to_owned));
        self.call(move |db| Box::pin(queries::counts(db, group.clone(), tenant.clone())))
    }

    fn backlog(&self, pool: &str) -> StoreFuture<'_, Vec<Backlog>> {
        let pool = pool.to_owned();
        self.call(move |db| Box::pin(queries::backlog(db, pool.clone())))
    }

    fn remove(&self, id: TaskId, tenant: Option<&str>) -> StoreFuture<'_, bool> {
        let tenant = tenant.map(str::to_owned);
        self.call(move |db| Box::pin(reports::remove(db, id, tenant.clone())))
    }

    fn put_record(&self, record: NewRecord, expected: u64, now: Timestamp) -> StoreFuture<'_, u64> {
        match self.options.limits.record(&record) {
            Ok(value) => {
                let record = Arc::new(record);
                self.call(move |db| {
                    let (record, value) = (Arc::clone(&record), value.clone());
                    Box::pin(records::put(db, record, value, expected, now))
                })
            }
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
        self.call(move |db| Box::pin(records::get(db, kind.clone(), id.clone(), tenant.clone())))
    }

    fn records(
        &self,
        kind: &str,
        tenant: Option<&str>,
        paging: Paging<String>,
    ) -> StoreFuture<'_, Page<Record>> {
        let (kind, tenant) = (kind.to_owned(), tenant.map(str::to_owned));
        match paging.check() {
            Ok(()) => self.call(move |db| {
                Box::pin(records::list(
                    db,
                    kind.clone(),
                    tenant.clone(),
                    paging.clone(),
                ))
            }),
            Err(error) => refused(error),
        }
    }

    fn remove_record(&self, kind: &str, id: &str, tenant: Option<&str>) -> StoreFuture<'_, bool> {
        let (kind, id, tenant) = (kind.to_owned(), id.to_owned(), tenant.map(str::to_owned));
        self.call(move |db| {
            Box::pin(records::remove(
                db,
                kind.clone(),
                id.clone(),
                tenant.clone(),
            ))
        })
    }

    fn purge(&self, limit: usize, now: Timestamp) -> StoreFuture<'_, u64> {
        self.call(move |db| Box::pin(reports::purge(db, limit, now)))
    }
}
