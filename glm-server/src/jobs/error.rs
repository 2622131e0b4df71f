//! Errors of the queue, for those who start the service and for its clients.

use std::io;
use std::path::PathBuf;

use crate::openai::ApiError;
use crate::queue::{ErrorKind, StoreError};

/// Why the queue of the service cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JobsError {
    /// The directory cannot be created.
    #[error(
        "cannot create {path} for tasks and files: name a directory with --state-dir that this user may write to, or keep tasks in \
         memory with --queue memory"
    )]
    Directory {
        /// Which one.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The queue itself.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a client is told about an error of the queue. Where the queue is stays a secret.
pub(crate) fn refusal(error: &StoreError) -> ApiError {
    let of = |status, kind, code, message: String| ApiError {
        status,
        kind,
        code: Some(code),
        message,
        ..ApiError::not_found("")
    };
    let (wrong, failed) = ("invalid_request_error", "server_error");
    match error.kind() {
        ErrorKind::Invalid => ApiError {
            param: field(error).map(str::to_owned),
            ..of(400, wrong, "invalid_value", error.to_string())
        },
        ErrorKind::Conflict => of(409, wrong, "conflict", error.to_string()),
        ErrorKind::NotFound => of(404, wrong, "task_not_found", error.to_string()),
        ErrorKind::Unavailable => {
            let message = "the queue cannot be written at the moment: try again later";
            of(503, failed, "queue_unavailable", message.to_owned())
        }
        ErrorKind::LeaseLost | ErrorKind::Broken => {
            let message =
                "the queue has failed; the operator of this service can see why in /healthz";
            of(500, failed, "queue_failed", message.to_owned())
        }
    }
}

fn field(error: &StoreError) -> Option<&'static str> {
    match error {
        StoreError::TooLarge { field, .. }
        | StoreError::OutOfRange { field, .. }
        | StoreError::ControlCharacters { field } => Some(field),
        _ => None,
    }
}

/// Why something about files and batches could not be done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JobFailure {
    /// The queue's database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The directory of the files.
    #[error("the files cannot be read or written")]
    Disk(#[from] io::Error),
}

impl JobFailure {
    /// What the same step would meet again, however often it is tried. A database that is away, a disk that is full and a file that cannot be
    /// read are none of that: somebody mends them.
    pub(super) fn permanent(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error)
                if error.kind() == ErrorKind::Invalid
                    || matches!(error, StoreError::Conflict { .. }) =>
            {
                Some(error)
            }
            _ => None,
        }
    }
}

impl From<JobFailure> for ApiError {
    fn from(failure: JobFailure) -> Self {
        match failure {
            JobFailure::Store(error) => refusal(&error),
            JobFailure::Disk(error) => {
                let is_full = error.kind() == io::ErrorKind::StorageFull;
                let message = match is_full {
                    true => "there is no space left for files: delete some, or try again later",
                    false => "the files of this service cannot be read or written",
                };
                Self {
                    status: if is_full { 503 } else { 500 },
                    kind: "server_error",
                    code: Some("storage_failed"),
                    ..Self::not_found(message)
                }
            }
        }
    }
}
