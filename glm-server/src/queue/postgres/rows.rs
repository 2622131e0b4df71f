//! Rows to values.

use serde_json::Value;
use sqlx::Row;
use sqlx::postgres::PgRow;

pub(super) use super::super::policy::{NEVER, direction, page};
use super::super::{Status, TaskId, TaskInfo, Timestamp};
use super::error::Failure;

/// The columns that [`info`] reads.
pub(super) const INFO: &str = "task.id, tenant, endpoint, task.pool, idempotency_key, task_group, label, priority, due, max_retries, \
     status, attempts, not_before, cancel_requested, error, worker, created, started, finished, purge_at";

pub(super) fn info(row: &PgRow) -> Result<TaskInfo, Failure> {
    let time = |column: &str| -> Result<_, Failure> {
        let millis: Option<i64> = row.try_get(column)?;
        Ok(millis.map(Timestamp::from_millis))
    };
    let due: i64 = row.try_get("due")?;
    let not_before: i64 = row.try_get("not_before")?;
    Ok(TaskInfo {
        id: id(row, "id")?,
        tenant: row.try_get("tenant")?,
        endpoint: row.try_get("endpoint")?,
        pool: row.try_get("pool")?,
        priority: number(row, "priority")?,
        deadline: (due != NEVER).then(|| Timestamp::from_millis(due)),
        max_retries: number(row, "max_retries")?,
        idempotency_key: row.try_get("idempotency_key")?,
        group: row.try_get("task_group")?,
        label: row.try_get("label")?,
        status: status(row)?,
        attempts: number(row, "attempts")?,
        cancel_requested: row.try_get("cancel_requested")?,
        error: optional_json(row, "error")?,
        worker: row.try_get("worker")?,
        created: Timestamp::from_millis(row.try_get("created")?),
        not_before: (not_before != 0).then(|| Timestamp::from_millis(not_before)),
        started: time("started")?,
        finished: time("finished")?,
        purge_at: time("purge_at")?,
    })
}

/// A number that is smaller than the database's.
pub(super) fn number<T: TryFrom<i64>>(row: &PgRow, column: &str) -> Result<T, Failure> {
    let number: i64 = row.try_get(column)?;
    T::try_from(number).map_err(|_| Failure::Damaged(format!("`{column}` is {number}")))
}

pub(super) fn id(row: &PgRow, column: &str) -> Result<TaskId, Failure> {
    let text: String = row.try_get(column)?;
    text.parse().map_err(damaged)
}

pub(super) fn status(row: &PgRow) -> Result<Status, Failure> {
    let text: String = row.try_get("status")?;
    let status = Status::ALL.into_iter().find(|s| s.as_str() == text);
    status.ok_or_else(|| Failure::Damaged(format!("`{text}` is not a status")))
}

pub(super) fn json(row: &PgRow, column: &str) -> Result<Value, Failure> {
    let text: String = row.try_get(column)?;
    serde_json::from_str(&text).map_err(damaged)
}

pub(super) fn optional_json(row: &PgRow, column: &str) -> Result<Option<Value>, Failure> {
    let text: Option<String> = row.try_get(column)?;
    let value = text.map(|text| serde_json::from_str(&text)).transpose();
    value.map_err(damaged)
}

fn damaged(error: impl std::fmt::Display) -> Failure {
    Failure::Damaged(error.to_string())
}

/// How many rows to ask for: the one beyond the limit says whether there are more.
pub(super) fn one_more(limit: usize) -> i64 {
    rows(limit).saturating_add(1)
}

/// A number of rows.
pub(super) fn rows(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX - 1)
}
