//! Rows of SQLite, and values for its statements.

use rusqlite::types::{ToSql, ToSqlOutput, Type};
use rusqlite::{Error, Row as SqliteRow};

use super::super::rows::{Damaged, Row};
use super::super::statements::Param;

impl From<Damaged> for Error {
    fn from(damaged: Damaged) -> Self {
        // The index is shown to nobody: `explain` says what is damaged.
        Self::FromSqlConversionFailure(0, Type::Text, Box::new(damaged))
    }
}

impl Row for SqliteRow<'_> {
    type Error = Error;

    fn integer(&self, column: &str) -> Result<Option<i64>, Error> {
        self.get(column)
    }

    fn optional_text(&self, column: &str) -> Result<Option<String>, Error> {
        self.get(column)
    }

    fn flag(&self, column: &str) -> Result<bool, Error> {
        self.get(column)
    }
}

impl ToSql for Param {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        match self {
            Self::Text(text) => text.to_sql(),
            Self::Integer(number) => number.to_sql(),
        }
    }
}
