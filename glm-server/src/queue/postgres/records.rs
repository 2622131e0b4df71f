//! Records into the database, and out of it.

use std::sync::Arc;

use sqlx::PgConnection;

use super::super::policy::{self, page};
use super::super::rows::Row;
use super::super::statements::{self, Select};
use super::super::{NewRecord, Page, Paging, Record, Timestamp};
use super::error::Failure;
use super::rows::{bind, query};

/// `value` is that of the record, as JSON.
pub(super) async fn put(
    db: &mut PgConnection,
    new: Arc<NewRecord>,
    value: String,
    expected: u64,
    now: Timestamp,
) -> Result<u64, Failure> {
    let (sql, last) = match i64::try_from(expected) {
        Ok(0) => (statements::NEW_RECORD, now.as_millis()),
        Ok(version) => (statements::CHANGE_RECORD, version),
        // No record was ever written so often.
        Err(_) => return Err(changed(db, &new, expected).await?),
    };
    let written = query(sql)
        .bind(&new.kind)
        .bind(&new.id)
        .bind(&new.tenant)
        .bind(value)
        .bind(new.expires.map(Timestamp::as_millis))
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
    let found = query(statements::RECORD_VERSION)
        .bind(&new.kind)
        .bind(&new.id)
        .bind(&new.tenant)
        .fetch_optional(db)
        .await?;
    let found = found.map(|row| row.number("version")).transpose()?;
    Ok(policy::changed(new, expected, found).into())
}

pub(super) async fn get(
    db: &mut PgConnection,
    kind: String,
    id: String,
    tenant: Option<String>,
) -> Result<Option<Record>, Failure> {
    let row = query(statements::GET_RECORD)
        .bind(kind)
        .bind(id)
        .bind(tenant)
        .fetch_optional(db)
        .await?;
    Ok(row.map(|row| row.record()).transpose()?)
}

pub(super) async fn list(
    db: &mut PgConnection,
    kind: String,
    tenant: Option<String>,
    paging: Paging<String>,
) -> Result<Page<Record>, Failure> {
    let Select { sql, params } = Select::records(kind, tenant, &paging);
    let found = params.into_iter().fold(query(&sql), bind);
    let found = found.fetch_all(db).await?;
    let records = found.iter().map(Row::record).collect::<Result<_, _>>()?;
    Ok(page(records, paging.limit))
}

pub(super) async fn remove(
    db: &mut PgConnection,
    kind: String,
    id: String,
    tenant: Option<String>,
) -> Result<bool, Failure> {
    let removed = query(statements::REMOVE_RECORD)
        .bind(kind)
        .bind(id)
        .bind(tenant)
        .execute(db)
        .await?;
    Ok(removed.rows_affected() == 1)
}
