//! Why an operation on the queue was refused, or could not be done.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::{Status, TaskId};

/// Why an operation on the queue was refused, or could not be done. Then it has changed nothing.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Something is larger than [`Limits`](super::Limits) allow.
    #[error("`{field}` has {found} bytes, at most {max} are allowed")]
    TooLarge {
        /// What is too large.
        field: &'static str,
        /// Its size in bytes.
        found: usize,
        /// The largest that is allowed.
        max: usize,
    },
    /// A number is out of its range.
    #[error("`{field}` must be between {min} and {max}, found {found}")]
    OutOfRange {
        /// Which number.
        field: &'static str,
        /// What it is.
        found: i64,
        /// The lowest that is allowed.
        min: i64,
        /// The highest that is allowed.
        max: i64,
    },
    /// A name has control characters.
    #[error("`{field}` must not have control characters")]
    ControlCharacters {
        /// Which name.
        field: &'static str,
    },
    /// The key belongs to a task that asks for something else.
    #[error(
        "the idempotency key `{key}` belongs to task {existing}, which asks for something else: take a new key for a new request"
    )]
    Conflict {
        /// The key.
        key: String,
        /// The task that has it.
        existing: TaskId,
    },
    /// There is no such task, or not for this tenant.
    #[error("there is no task {0}")]
    NotFound(TaskId),
    /// The task has come to its end, or belongs to another worker: what this one reports does not count.
    #[error("task {task} is {status} and does not belong to this worker any more")]
    LeaseLost {
        /// The task.
        task: TaskId,
        /// How far it is.
        status: Status,
    },
    /// A record is not what it was when the caller read it.
    #[error(
        "{kind} `{id}` has version {found}, not {expected} (0: it is not there): read it again"
    )]
    Changed {
        /// What it is.
        kind: String,
        /// Its name.
        id: String,
        /// The version that the caller knows.
        expected: u64,
        /// The version that it has.
        found: u64,
    },
    /// The file cannot be opened.
    #[error(
        "cannot open {at}: its directory must exist, and this user must be allowed to write there"
    )]
    Open {
        /// The file.
        at: String,
        /// The reason.
        #[source]
        source: Arc<io::Error>,
    },
    /// The file holds something else than a queue.
    #[error("{at} is not a queue: name another file, or move this one away")]
    Foreign {
        /// The file.
        at: String,
    },
    /// The file was written by a later version.
    #[error(
        "{at} was written by a newer version (schema {found}, this one knows up to {known}): use that version, or name another file"
    )]
    NewerSchema {
        /// The file.
        at: String,
        /// The version of its schema.
        found: u32,
        /// The latest that this program knows.
        known: u32,
    },
    /// Another process has kept the file locked.
    #[error(
        "{at} is locked by another process, after a wait of {waited:?}: try again, or end that process"
    )]
    Locked {
        /// The file.
        at: String,
        /// How long this one waited.
        waited: Duration,
    },
    /// There is no space left.
    #[error("no space is left for {at}: free some, nothing that was accepted is lost")]
    Full {
        /// The file.
        at: String,
    },
    /// The file may not be written.
    #[error("{at} cannot be written: give this user the right to, for the file and its directory")]
    ReadOnly {
        /// The file.
        at: String,
    },
    /// The file is damaged.
    #[error(
        "{at} is damaged ({detail}): stop every process that uses it, then restore a copy, or save what can be read with `sqlite3 FILE .recover`"
    )]
    Corrupt {
        /// The file.
        at: String,
        /// What was found.
        detail: String,
    },
    /// The database server does not answer.
    #[error(
        "the queue in {at} cannot be reached: is the server running, and does it take connections?"
    )]
    Unreachable {
        /// Which one.
        at: String,
        /// The reason.
        #[source]
        source: Arc<dyn Error + Send + Sync>,
    },
    /// The database failed otherwise.
    #[error("the queue in {at} failed")]
    Database {
        /// Which one.
        at: String,
        /// The reason.
        #[source]
        source: Arc<dyn Error + Send + Sync>,
    },
    /// The thread of the queue has ended.
    #[error("the queue in {at} has ended: open it again")]
    Closed {
        /// Which one.
        at: String,
    },
}

/// Why an operation on a database ends early.
#[derive(Debug)]
pub(super) enum Failure<E> {
    /// It is refused: the database is well.
    Refused(StoreError),
    /// The database says so.
    Sql(E),
}

impl<E> From<StoreError> for Failure<E> {
    fn from(error: StoreError) -> Self {
        Self::Refused(error)
    }
}

/// Whose fault an error is, for callers that only have to route it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The caller's: the same call fails again.
    Invalid,
    /// The caller's: the idempotency key is taken, or a record has changed.
    Conflict,
    /// The task is not there.
    NotFound,
    /// The worker was too late.
    LeaseLost,
    /// Nobody's in particular: the same call may work later.
    Unavailable,
    /// The operator's: somebody has to mend the database.
    Broken,
}

impl StoreError {
    /// Whose fault it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::TooLarge { .. } | Self::OutOfRange { .. } | Self::ControlCharacters { .. } => {
                ErrorKind::Invalid
            }
            Self::Conflict { .. } | Self::Changed { .. } => ErrorKind::Conflict,
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::LeaseLost { .. } => ErrorKind::LeaseLost,
            Self::Locked { .. } | Self::Full { .. } | Self::Unreachable { .. } => {
                ErrorKind::Unavailable
            }
            Self::Open { .. }
            | Self::Foreign { .. }
            | Self::NewerSchema { .. }
            | Self::ReadOnly { .. }
            | Self::Corrupt { .. }
            | Self::Database { .. }
            | Self::Closed { .. } => ErrorKind::Broken,
        }
    }
}
