//! Records into the database, and out of it.

use rusqlite::types::Value as Param;
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};

use super::super::{NewRecord, Page, Paging, Record, StoreError, Timestamp};
use super::error::Failure;
use super::rows;

const COLUMNS: &str = "kind, id, tenant, value, version, created, expires";

fn record(row: &Row<'_>) -> rusqlite::Result<Record> {
    let expires: Option<i64> = row.get("expires")?;
    Ok(Record {
        kind: row.get("kind")?,
        id: row.get("id")?,
        tenant: row.get("tenant")?,
        value: rows::json(row, "value")?,
        version: row.get::<_, i64>("version")?.unsigned_abs(),
        created: Timestamp::from_millis(row.get("created")?),
        expires: expires.map(Timestamp::from_millis),
    })
}

/// `value` is that of the record, as JSON.
pub(super) fn put(
    db: &Connection,
    new: NewRecord,
    value: &str,
    expected: u64,
    now: Timestamp,
) -> Result<u64, Failure> {
    let expires = new.expires.map(Timestamp::as_millis);
    let written = match i64::try_from(expected) {
        Ok(0) => db
            .prepare_cached(
                "INSERT INTO record (kind, id, tenant, value, version, created, expires) VALUES (?1, ?2, ?3, ?4, 1, ?5, ?6)
                 ON CONFLICT (kind, id) DO NOTHING",
            )?
            .execute(params![
                new.kind,
                new.id,
                new.tenant,
                value,
                now.as_millis(),
                expires
            ])?,
        Ok(version) => db
            .prepare_cached(
                "UPDATE record SET value = ?4, version = version + 1, expires = ?5
                 WHERE kind = ?1 AND id = ?2 AND tenant = ?3 AND version = ?6",
            )?
            .execute(params![
                new.kind, new.id, new.tenant, value, expires, version
            ])?,
        // No record was ever written so often.
        Err(_) => 0,
    };
    match written {
        1 => Ok(expected + 1),
        _ => Err(Failure::Refused(StoreError::Changed {
            found: version(db, &new)?,
            kind: new.kind,
            id: new.id,
            expected,
        })),
    }
}

fn version(db: &Connection, new: &NewRecord) -> rusqlite::Result<u64> {
    let found: Option<i64> = db
        .prepare_cached("SELECT version FROM record WHERE kind = ?1 AND id = ?2 AND tenant = ?3")?
        .query_row([&new.kind, &new.id, &new.tenant], |row| row.get("version"))
        .optional()?;
    Ok(found.unwrap_or(0).unsigned_abs())
}

pub(super) fn get(
    db: &Connection,
    kind: &str,
    id: &str,
    tenant: Option<&str>,
) -> Result<Option<Record>, Failure> {
    let sql = format!(
        "SELECT {COLUMNS} FROM record WHERE kind = ?1 AND id = ?2 AND (?3 IS NULL OR tenant = ?3)"
    );
    let mut statement = db.prepare_cached(&sql)?;
    Ok(statement
        .query_row(params![kind, id, tenant], record)
        .optional()?)
}

pub(super) fn list(
    db: &Connection,
    kind: String,
    tenant: Option<String>,
    paging: Paging<String>,
) -> Result<Page<Record>, Failure> {
    let (beyond, direction) = rows::direction(&paging);
    let mut conditions = "kind = ?".to_owned();
    let mut params = vec![Param::Text(kind)];
    if let Some(tenant) = tenant {
        conditions += " AND tenant = ?";
        params.push(Param::Text(tenant));
    }
    if let Some(after) = paging.after {
        conditions += &format!(" AND id {beyond} ?");
        params.push(Param::Text(after));
    }
    params.push(rows::one_more(paging.limit));
    let sql =
        format!("SELECT {COLUMNS} FROM record WHERE {conditions} ORDER BY id {direction} LIMIT ?");
    let mut statement = db.prepare_cached(&sql)?;
    let records = statement.query_map(params_from_iter(params), record)?;
    Ok(rows::page(records.collect::<Result<_, _>>()?, paging.limit))
}

pub(super) fn remove(
    db: &Connection,
    kind: &str,
    id: &str,
    tenant: Option<&str>,
) -> Result<bool, Failure> {
    let removed = db
        .prepare_cached(
            "DELETE FROM record WHERE kind = ?1 AND id = ?2 AND (?3 IS NULL OR tenant = ?3)",
        )?
        .execute(params![kind, id, tenant])?;
    Ok(removed == 1)
}
