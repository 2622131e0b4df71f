//! Rows to values.

use rusqlite::types::{Type, Value as Param};
use rusqlite::{Error, Row};
use serde_json::Value;

pub(super) use super::super::policy::{NEVER, direction, page};
use super::super::{Status, TaskId, TaskInfo, Timestamp};

/// The columns that [`info`] reads.
pub(super) const INFO: &str = "id, tenant, endpoint, pool, idempotency_key, task_group, label, priority, due, max_retries, \
     status, attempts, not_before, cancel_requested, error, worker, created, started, finished, purge_at";

pub(super) fn info(row: &Row<'_>) -> rusqlite::Result<TaskInfo> {
    let time = |column: &str| -> rusqlite::Result<_> {
        let millis: Option<i64> = row.get(column)?;
        Ok(millis.map(Timestamp::from_millis))
    };
    let due: i64 = row.get("due")?;
    let not_before: i64 = row.get("not_before")?;
    Ok(TaskInfo {
        id: id(row, "id")?,
        tenant: row.get("tenant")?,
        endpoint: row.get("endpoint")?,
        pool: row.get("pool")?,
        priority: row.get("priority")?,
        deadline: (due != NEVER).then(|| Timestamp::from_millis(due)),
        max_retries: row.get("max_retries")?,
        idempotency_key: row.get("idempotency_key")?,
        group: row.get("task_group")?,
        label: row.get("label")?,
        status: status(row, "status")?,
        attempts: row.get("attempts")?,
        cancel_requested: row.get("cancel_requested")?,
        error: optional_json(row, "error")?,
        worker: row.get("worker")?,
        created: Timestamp::from_millis(row.get("created")?),
        not_before: (not_before != 0).then(|| Timestamp::from_millis(not_before)),
        started: time("started")?,
        finished: time("finished")?,
        purge_at: time("purge_at")?,
    })
}

pub(super) fn id(row: &Row<'_>, column: &str) -> rusqlite::Result<TaskId> {
    row.get::<_, String>(column)?.parse().map_err(unreadable)
}

pub(super) fn status(row: &Row<'_>, column: &str) -> rusqlite::Result<Status> {
    let text: String = row.get(column)?;
    let status = Status::ALL.into_iter().find(|s| s.as_str() == text);
    status.ok_or_else(|| unreadable(format!("`{text}` is not a status")))
}

pub(super) fn json(row: &Row<'_>, column: &str) -> rusqlite::Result<Value> {
    let value = optional_json(row, column)?;
    value.ok_or_else(|| unreadable(format!("`{column}` is missing")))
}

pub(super) fn optional_json(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<Value>> {
    let text: Option<String> = row.get(column)?;
    let value = text.map(|text| serde_json::from_str(&text)).transpose();
    value.map_err(unreadable)
}

fn unreadable(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::FromSqlConversionFailure(0, Type::Text, error.into())
}

/// How many rows to ask for: the one beyond the limit says whether there are more.
pub(super) fn one_more(limit: usize) -> Param {
    Param::Integer(i64::try_from(limit).unwrap_or(i64::MAX - 1) + 1)
}
