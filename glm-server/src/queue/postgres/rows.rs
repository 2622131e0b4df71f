//! Rows of PostgreSQL, and its form of statements.

use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Error, Postgres, Row as _};

use super::super::rows::{Damaged, Row};
use super::super::statements::Param;

impl From<Damaged> for Error {
    fn from(damaged: Damaged) -> Self {
        Self::Decode(Box::new(damaged))
    }
}

impl Row for PgRow {
    type Error = Error;

    fn integer(&self, column: &str) -> Result<Option<i64>, Error> {
        self.try_get(column)
    }

    fn optional_text(&self, column: &str) -> Result<Option<String>, Error> {
        self.try_get(column)
    }

    fn flag(&self, column: &str) -> Result<bool, Error> {
        self.try_get(column)
    }
}

/// A statement of the text that other databases are given too.
pub(super) fn query<'q>(sql: &str) -> Query<'q, Postgres, PgArguments> {
    // Safe: statements are texts of this program, and values are parameters.
    sqlx::query(AssertSqlSafe(sql.replace('?', "$")))
}

pub(super) fn bind(
    query: Query<'_, Postgres, PgArguments>,
    param: Param,
) -> Query<'_, Postgres, PgArguments> {
    match param {
        Param::Text(text) => query.bind(text),
        Param::Integer(number) => query.bind(number),
    }
}
