//! Records into the database, and out of it.

use std::sync::Arc;

use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, PgConnection, Row};

use super::super::{NewRecord, Page, Paging, Record, StoreError, Timestamp};
use super::error::Failure;
use super::rows;

const COLUMNS: &str = "kind, id, tenant, value, version, created, expires";

fn record(row: &PgRow) -> Result<Record, Failure> {
    let expires: Option<i64> = row.try_get("expires")?;
    Ok(Record {
        kind: row.try_get("kind")?,
        id: row.try_get("id")?,
        tenant: row.try_get("tenant")?,
        value: rows::json(row, "value")?,
        version: rows::number(row, "version")?,
        created: Timestamp::from_millis(row.try_get("created")?),
        expires: expires.map(Timestamp::from_millis),
    })
}

/// `value` is that of the record, as JSON.
pub(super) async fn put(
    db: &mut PgConnection,
    new: Arc<NewRecord>,
    value: String,
    expected: u64,
    now: Timestamp,
) -> Result<u64, Failure> {
    let expires = new.expires.map(Timestamp::as_millis);
    let (sql, last) = match i64::try_from(expected) {
        Ok(0) => (
            "INSERT INTO record (kind, id, tenant, value, version, created, expires) VALUES ($1, $2, $3, $4, 1, $6, $5)
             ON CONFLICT (kind, id) DO NOTHING",
            now.as_millis(),
        ),
        Ok(version) => (
            "UPDATE record SET value = $4, version = version + 1, expires = $5
             WHERE kind = $1 AND id = $2 AND tenant = $3 AND version = $6",
            version,
        ),
        // No record was ever written so often.
        Err(_) => return Err(changed(db, &new, expected).await?),
    };
    let written = sqlx::query(sql)
        .bind(&new.kind)
        .bind(&new.id)
        .bind(&new.tenant)
        .bind(value)
        .bind(expires)
        .bind(last)
        .execute(&mut *db)
        .await?;
    match written.rows_affected() {
        1 => Ok(expected + 1),
        _ => Err(changed(db, &new, expected).await?),
    }
}

/// The refusal of a record that has another version.
async fn changed(
    db: &mut PgConnection,
    new: &NewRecord,
    expected: u64,
) -> Result<Failure, Failure> {
    let found =
        sqlx::query("SELECT version FROM record WHERE kind = $1 AND id = $2 AND tenant = $3")
            .bind(&new.kind)
            .bind(&new.id)
            .bind(&new.tenant)
            .fetch_optional(db)
            .await?;
    let found = found.as_ref().map(|row| rows::number(row, "version"));
    Ok(Failure::Refused(StoreError::Changed {
        found: found.transpose()?.unwrap_or(0),
        kind: new.kind.clone(),
        id: new.id.clone(),
        expected,
    }))
}

pub(super) async fn get(
    db: &mut PgConnection,
    kind: String,
    id: String,
    tenant: Option<String>,
) -> Result<Option<Record>, Failure> {
    let sql = format!(
        "SELECT {COLUMNS} FROM record WHERE kind = $1 AND id = $2 AND ($3::text IS NULL OR tenant = $3)"
    );
    let row = sqlx::query(AssertSqlSafe(sql))
        .bind(kind)
        .bind(id)
        .bind(tenant)
        .fetch_optional(db)
        .await?;
    row.as_ref().map(record).transpose()
}

pub(super) async fn list(
    db: &mut PgConnection,
    kind: String,
    tenant: Option<String>,
    paging: Paging<String>,
) -> Result<Page<Record>, Failure> {
    let (beyond, direction) = rows::direction(&paging);
    let sql = format!(
        "SELECT {COLUMNS} FROM record
         WHERE kind = $1 AND ($2::text IS NULL OR tenant = $2) AND ($3::text IS NULL OR id {beyond} $3)
         ORDER BY id {direction} LIMIT $4"
    );
    let found = sqlx::query(AssertSqlSafe(sql))
        .bind(kind)
        .bind(tenant)
        .bind(paging.after)
        .bind(rows::one_more(paging.limit))
        .fetch_all(db)
        .await?;
    let records = found.iter().map(record).collect::<Result<_, _>>()?;
    Ok(rows::page(records, paging.limit))
}

pub(super) async fn remove(
    db: &mut PgConnection,
    kind: String,
    id: String,
    tenant: Option<String>,
) -> Result<bool, Failure> {
    let removed = sqlx::query(
        "DELETE FROM record WHERE kind = $1 AND id = $2 AND ($3::text IS NULL OR tenant = $3)",
    )
    .bind(kind)
    .bind(id)
    .bind(tenant)
    .execute(db)
    .await?;
    Ok(removed.rows_affected() == 1)
}
