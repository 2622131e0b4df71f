//! Records into the database, and out of it.

use rusqlite::{Connection, OptionalExtension, params, params_from_iter};

use super::super::policy::{self, page};
use super::super::rows::Row;
use super::super::statements::{self, Select};
use super::super::{NewRecord, Page, Paging, Record, Timestamp};
use super::error::Failure;

/// `value` is that of the record, as JSON.
pub(super) fn put(
    db: &Connection,
    new: &NewRecord,
    value: &str,
    expected: u64,
    now: Timestamp,
) -> Result<u64, Failure> {
    let expires = new.expires.map(Timestamp::as_millis);
    let write = |sql, last: i64| {
        db.prepare_cached(sql)?
            .execute(params![new.kind, new.id, new.tenant, value, expires, last])
    };
    let written = match i64::try_from(expected) {
        Ok(0) => write(statements::NEW_RECORD, now.as_millis())?,
        Ok(version) => write(statements::CHANGE_RECORD, version)?,
        // No record was ever written so often.
        Err(_) => 0,
    };
    match written {
        1 => Ok(expected + 1),
        _ => Err(policy::changed(new, expected, version(db, new)?).into()),
    }
}

fn version(db: &Connection, new: &NewRecord) -> rusqlite::Result<Option<u64>> {
    db.prepare_cached(statements::RECORD_VERSION)?
        .query_row([&new.kind, &new.id, &new.tenant], |row| {
            row.number("version")
        })
        .optional()
}

pub(super) fn get(
    db: &Connection,
    kind: &str,
    id: &str,
    tenant: Option<&str>,
) -> Result<Option<Record>, Failure> {
    let mut statement = db.prepare_cached(statements::GET_RECORD)?;
    let record = statement.query_row(params![kind, id, tenant], |row| row.record());
    Ok(record.optional()?)
}

pub(super) fn list(
    db: &Connection,
    kind: String,
    tenant: Option<String>,
    paging: &Paging<String>,
) -> Result<Page<Record>, Failure> {
    let select = Select::records(kind, tenant, paging);
    let mut statement = db.prepare_cached(&select.sql)?;
    let records = statement.query_map(params_from_iter(select.params), |row| row.record())?;
    Ok(page(records.collect::<Result<_, _>>()?, paging.limit))
}

pub(super) fn remove(
    db: &Connection,
    kind: &str,
    id: &str,
    tenant: Option<&str>,
) -> Result<bool, Failure> {
    let removed = db
        .prepare_cached(statements::REMOVE_RECORD)?
        .execute(params![kind, id, tenant])?;
    Ok(removed == 1)
}
