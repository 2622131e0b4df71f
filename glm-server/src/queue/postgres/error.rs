//! PostgreSQL's errors in the queue's words.

use std::sync::Arc;

use super::StoreError;

pub(super) type Failure = super::super::error::Failure<sqlx::Error>;

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl Failure {
    /// SQLSTATE, if the server has said one.
    fn code(&self) -> Option<String> {
        match self {
            Self::Sql(error) => Some(error.as_database_error()?.code()?.into_owned()),
            _ => None,
        }
    }

    /// Whether it lost against others, and need not the next time: a deadlock, or a serialisation failure.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self.code().as_deref(), Some("40P01" | "40001"))
    }

    /// What a person must know about a failure of the database `at`.
    pub(super) fn explain(self, at: &str) -> StoreError {
        let at = at.to_owned();
        match (self.code().as_deref(), self) {
            (_, Self::Refused(error)) => error,
            // Values that this program would not have written.
            (
                _,
                Self::Sql(sqlx::Error::Decode(source) | sqlx::Error::ColumnDecode { source, .. }),
            ) => StoreError::Corrupt {
                at,
                detail: source.to_string(),
            },
            // Its texts have no NUL; names that are written down have been checked, those that are asked for have not.
            (Some("22021"), _) => StoreError::ControlCharacters { field: "name" },
            (Some("53100"), _) => StoreError::Full { at },
            (Some("25006" | "42501"), _) => StoreError::ReadOnly { at },
            // Connections, and what the operator of the server does to it (classes 08, 53 and 57).
            (code, Self::Sql(source)) => {
                let passes = code.is_some_and(|code| {
                    ["08", "53", "57"]
                        .iter()
                        .any(|class| code.starts_with(class))
                });
                let source = Arc::new(source);
                match passes || is_of_connection(&source) {
                    true => StoreError::Unreachable { at, source },
                    false => StoreError::Database { at, source },
                }
            }
        }
    }
}

fn is_of_connection(error: &sqlx::Error) -> bool {
    use sqlx::Error as E;
    matches!(
        error,
        E::Io(_) | E::Tls(_) | E::PoolTimedOut | E::PoolClosed | E::WorkerCrashed
    )
}
