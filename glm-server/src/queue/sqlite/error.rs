//! SQLite's errors in the queue's words.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::ErrorCode;

use super::StoreError;

pub(super) type Failure = super::super::error::Failure<rusqlite::Error>;

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

/// What a person must know about a failure of the database `at`, which waits for others as long as `waited`.
pub(super) fn explain(at: &str, waited: Duration, error: rusqlite::Error) -> StoreError {
    use rusqlite::Error as E;
    let at = at.to_owned();
    match error {
        E::SqliteFailure(code, _) | E::SqlInputError { error: code, .. } => match code.code {
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::FileLockingProtocolFailed => StoreError::Locked { at, waited },
            ErrorCode::DiskFull => StoreError::Full { at },
            ErrorCode::ReadOnly | ErrorCode::PermissionDenied => StoreError::ReadOnly { at },
            ErrorCode::CannotOpen => StoreError::Open {
                at,
                source: Arc::new(io::Error::other(error)),
            },
            ErrorCode::NotADatabase => StoreError::Foreign { at },
            ErrorCode::DatabaseCorrupt => StoreError::Corrupt {
                at,
                detail: error.to_string(),
            },
            _ => StoreError::Database {
                at,
                source: Arc::new(error),
            },
        },
        // Values that this program would not have written.
        E::FromSqlConversionFailure(_, _, source) => StoreError::Corrupt {
            at,
            detail: source.to_string(),
        },
        E::IntegralValueOutOfRange(..) | E::InvalidColumnType(..) | E::Utf8Error(..) => {
            StoreError::Corrupt {
                at,
                detail: error.to_string(),
            }
        }
        error => StoreError::Database {
            at,
            source: Arc::new(error),
        },
    }
}
