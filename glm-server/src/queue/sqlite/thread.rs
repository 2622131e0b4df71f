//! The thread that has the connection.

use std::fmt;
use std::iter;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::oneshot;

use super::error::{Failure, explain};
use super::{StoreError, StoreFuture};

/// How many operations share a transaction: enough that the wait for the disk hardly counts, few enough that the first of them
/// does not wait long for the last.
const MAX_TURN: usize = 128;

/// Whether an operation changes anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// An operation on its way through the thread.
trait Job: Send {
    fn access(&self) -> Access;

    /// Does it, or leaves nothing of it.
    ///
    /// # Errors
    /// The transaction is lost, and with it whatever was done before in it.
    fn run(&mut self, transaction: &mut Transaction<'_>) -> rusqlite::Result<()>;

    /// Answers, once it is known what became of the transaction.
    fn answer(self: Box<Self>, committed: &Result<(), StoreError>, explain: &Explain);
}

/// Where the database is, for messages.
#[derive(Debug, Clone)]
struct Explain {
    at: Arc<str>,
    busy_timeout: Duration,
}

impl Explain {
    fn error(&self, error: rusqlite::Error) -> StoreError {
        explain(&self.at, self.busy_timeout, error)
    }

    fn closed(&self) -> StoreError {
        StoreError::Closed {
            at: self.at.to_string(),
        }
    }
}

struct Call<T, F> {
    access: Access,
    operation: Option<F>,
    outcome: Option<Result<T, Failure>>,
    answer: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, F> Job for Call<T, F>
where
    T: Send,
    F: FnOnce(&Connection) -> Result<T, Failure> + Send,
{
    fn access(&self) -> Access {
        self.access
    }

    fn run(&mut self, transaction: &mut Transaction<'_>) -> rusqlite::Result<()> {
        let Some(operation) = self.operation.take() else {
            return Ok(());
        };
        let savepoint = transaction.savepoint()?;
        self.outcome = match operation(&savepoint) {
            Ok(value) => {
                savepoint.commit()?;
                Some(Ok(value))
            }
            // After some errors, a full disk for one, SQLite has ended the whole transaction.
            Err(Failure::Sql(error)) if savepoint.is_autocommit() => return Err(error),
            Err(failure) => {
                savepoint.finish()?;
                Some(Err(failure))
            }
        };
        Ok(())
    }

    fn answer(self: Box<Self>, committed: &Result<(), StoreError>, explain: &Explain) {
        let answer = match (committed, self.outcome) {
            (Err(error), _) => Err(error.clone()),
            (Ok(()), Some(Ok(value))) => Ok(value),
            (Ok(()), Some(Err(Failure::Refused(error)))) => Err(error),
            (Ok(()), Some(Err(Failure::Sql(error)))) => Err(explain.error(error)),
            (Ok(()), None) => Err(explain.closed()),
        };
        // Nobody need be waiting.
        let _ = self.answer.send(answer);
    }
}

/// A handle on the thread; dropping it waits for what was called.
pub(super) struct DbThread {
    jobs: Option<Sender<Box<dyn Job>>>,
    thread: Option<JoinHandle<()>>,
    explain: Explain,
}

impl fmt::Debug for DbThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DbThread").field(&self.explain.at).finish()
    }
}

impl DbThread {
    pub(super) fn start(
        db: Connection,
        at: String,
        busy_timeout: Duration,
    ) -> Result<Self, StoreError> {
        let (jobs, inbox) = mpsc::channel();
        let explain = Explain {
            at: at.into(),
            busy_timeout,
        };
        let own = explain.clone();
        let thread = thread::Builder::new()
            .name("glm-queue".into())
            .spawn(move || serve(&db, &inbox, &own))
            .map_err(|source| StoreError::Database {
                at: explain.at.to_string(),
                source: Arc::new(source),
            })?;
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread),
            explain,
        })
    }

    pub(super) fn call<'a, T: Send + 'static>(
        &self,
        access: Access,
        operation: impl FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> StoreFuture<'a, T> {
        let (answer, answered) = oneshot::channel();
        let call = Call {
            access,
            operation: Some(operation),
            outcome: None,
            answer,
        };
        if let Some(jobs) = &self.jobs {
            // If the thread has ended, the call is dropped, and with it the sender of the answer.
            let _ = jobs.send(Box::new(call));
        }
        let explain = self.explain.clone();
        Box::pin(async move { answered.await.unwrap_or_else(|_| Err(explain.closed())) })
    }
}

impl Drop for DbThread {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // If it panicked, its callers have been told.
            let _ = thread.join();
        }
    }
}

fn serve(db: &Connection, inbox: &Receiver<Box<dyn Job>>, explain: &Explain) {
    while let Ok(first) = inbox.recv() {
        let mut turn: Vec<_> = iter::once(first)
            .chain(inbox.try_iter().take(MAX_TURN - 1))
            .collect();
        let committed = commit(db, &mut turn).map_err(|error| explain.error(error));
        for job in turn {
            job.answer(&committed, explain);
        }
    }
}

fn commit(db: &Connection, turn: &mut [Box<dyn Job>]) -> rusqlite::Result<()> {
    // A transaction that reads first and then writes could not wait for other writers: it might have read what they change.
    let behavior = match turn.iter().any(|job| job.access() == Access::Write) {
        true => TransactionBehavior::Immediate,
        false => TransactionBehavior::Deferred,
    };
    let mut transaction = Transaction::new_unchecked(db, behavior)?;
    for job in turn {
        job.run(&mut transaction)?;
    }
    transaction.commit()
}
