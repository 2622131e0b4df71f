//! What changes a task after it was submitted and claimed: reports of workers, cancellation, and time.
//!
//! Every statement that ends a task, or puts it back, asks for the status that the task must have, and for a worker's report
//! also for the number of its lease. So whatever comes first is what happens.

use rusqlite::{Connection, OptionalExtension, params};

use super::super::policy::{self, Attempt, Next, WrittenReport};
use super::super::{
    Backoff, Cancellation, Lease, Pulse, Reaped, Status, StoreError, TaskId, Timestamp,
};
use super::error::Failure;
use super::rows;

pub(super) fn heartbeat(
    db: &Connection,
    leases: &[Lease],
    until: Timestamp,
) -> Result<Vec<Pulse>, Failure> {
    let mut extend = db.prepare_cached(
        "UPDATE task SET lease_until = ?1 WHERE id = ?2 AND status = 'running' AND lease = ?3
         RETURNING cancel_requested",
    )?;
    let one = |lease: &Lease| {
        let params = params![until.as_millis(), lease.task.to_string(), number(lease)];
        let cancel_requested: Option<bool> =
            extend.query_row(params, |row| row.get(0)).optional()?;
        Ok(match cancel_requested {
            None => Pulse::Lost,
            Some(false) => Pulse::Held,
            Some(true) => Pulse::CancelRequested,
        })
    };
    leases.iter().map(one).collect()
}

/// As the database holds it; one that it cannot hold is nobody's.
fn number(lease: &Lease) -> i64 {
    i64::try_from(lease.number).unwrap_or(-1)
}

pub(super) fn finish(
    db: &Connection,
    lease: Lease,
    report: WrittenReport,
    backoff: &Backoff,
    now: Timestamp,
) -> Result<Status, Failure> {
    let found = db
        .prepare_cached(
            "SELECT status, lease, attempts, max_retries, cancel_requested FROM task WHERE id = ?1",
        )?
        .query_row([lease.task.to_string()], |row| {
            let attempt = Attempt {
                task: lease.task,
                attempts: row.get("attempts")?,
                max_retries: row.get("max_retries")?,
                cancel_requested: row.get("cancel_requested")?,
            };
            let status = rows::status(row, "status")?;
            Ok((status, row.get::<_, i64>("lease")?, attempt))
        })
        .optional()?;
    let (status, held, attempt) = found.ok_or(StoreError::NotFound(lease.task))?;
    if status != Status::Running || held != number(&lease) {
        return Err(Failure::Refused(StoreError::LeaseLost {
            task: lease.task,
            status,
        }));
    }
    let next = attempt.next(report, backoff, now);
    write(db, lease.task, &next, now)?;
    Ok(next.status)
}

fn write(db: &Connection, task: TaskId, next: &Next, now: Timestamp) -> rusqlite::Result<()> {
    let finished = next.status.is_terminal().then_some(now.as_millis());
    db.prepare_cached(
        "UPDATE task
         SET status = ?2, attempts = ?3, not_before = ?4, finished = ?5, purge_at = ?5 + retention, worker = NULL,
             lease_until = NULL, error = CASE WHEN ?2 = 'completed' THEN NULL ELSE COALESCE(?6, error) END
         WHERE id = ?1",
    )?
    .execute(params![
        task.to_string(),
        next.status.as_str(),
        next.attempts,
        next.not_before.map_or(0, Timestamp::as_millis),
        finished,
        next.error,
    ])?;
    if let Some(result) = &next.result {
        db.prepare_cached("INSERT INTO task_result (task, result) VALUES (?1, ?2)")?
            .execute(params![task.to_string(), result])?;
    }
    Ok(())
}

pub(super) fn cancel(
    db: &Connection,
    id: TaskId,
    tenant: Option<&str>,
    now: Timestamp,
) -> Result<Cancellation, Failure> {
    let text = id.to_string();
    let status = db
        .prepare_cached("SELECT status FROM task WHERE id = ?1 AND (?2 IS NULL OR tenant = ?2)")?
        .query_row(params![text, tenant], |row| rows::status(row, "status"))
        .optional()?;
    match status.ok_or(StoreError::NotFound(id))? {
        Status::Queued => {
            db.prepare_cached(
                "UPDATE task SET status = 'cancelled', not_before = 0, finished = ?2, purge_at = ?2 + retention
                 WHERE id = ?1 AND status = 'queued'",
            )?
            .execute(params![text, now.as_millis()])?;
            Ok(Cancellation::Cancelled)
        }
        Status::Running => {
            db.prepare_cached(
                "UPDATE task SET cancel_requested = 1 WHERE id = ?1 AND status = 'running'",
            )?
            .execute([text])?;
            Ok(Cancellation::Requested)
        }
        ended => Ok(Cancellation::TooLate(ended)),
    }
}

pub(super) fn cancel_group(
    db: &Connection,
    group: &str,
    tenant: Option<&str>,
    now: Timestamp,
) -> Result<u64, Failure> {
    let cancelled = db
        .prepare_cached(
            "UPDATE task SET status = 'cancelled', not_before = 0, finished = ?3, purge_at = ?3 + retention
             WHERE task_group = ?1 AND (?2 IS NULL OR tenant = ?2) AND status = 'queued'",
        )?
        .execute(params![group, tenant, now.as_millis()])?;
    let requested = db
        .prepare_cached(
            "UPDATE task SET cancel_requested = 1
             WHERE task_group = ?1 AND (?2 IS NULL OR tenant = ?2) AND status = 'running'",
        )?
        .execute(params![group, tenant])?;
    Ok((cancelled + requested) as u64)
}

pub(super) fn reap(db: &Connection, now: Timestamp) -> Result<Reaped, Failure> {
    let now = now.as_millis();
    let lost = policy::worker_lost().to_string();
    let end = |status: &str, condition: &str| -> rusqlite::Result<u64> {
        let sql = format!(
            "UPDATE task SET status = '{status}', not_before = 0, finished = ?1, purge_at = ?1 + retention, worker = NULL,
                             lease_until = NULL
             WHERE {condition}"
        );
        let ended = db.prepare_cached(&sql)?.execute([now])?;
        Ok(ended as u64)
    };
    let cancelled = end(
        "cancelled",
        "status = 'running' AND lease_until <= ?1 AND cancel_requested = 1",
    )?;
    let expired = end("expired", "status IN ('queued', 'running') AND due <= ?1")?;
    let failed = db
        .prepare_cached(
            "UPDATE task SET status = 'failed', finished = ?1, purge_at = ?1 + retention, worker = NULL, lease_until = NULL,
                             error = ?2
             WHERE status = 'running' AND lease_until <= ?1 AND attempts > max_retries",
        )?
        .execute(params![now, lost])?;
    let requeued = db
        .prepare_cached(
            "UPDATE task SET status = 'queued', worker = NULL, lease_until = NULL, error = ?2
             WHERE status = 'running' AND lease_until <= ?1",
        )?
        .execute(params![now, lost])?;
    Ok(Reaped {
        requeued: requeued as u64,
        failed: failed as u64,
        cancelled,
        expired,
    })
}

pub(super) fn purge(db: &Connection, limit: usize, now: Timestamp) -> Result<u64, Failure> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let deleted = db
        .prepare_cached(
            "DELETE FROM task WHERE id IN (SELECT id FROM task WHERE purge_at <= ?1 ORDER BY purge_at LIMIT ?2)",
        )?
        .execute(params![now.as_millis(), limit])?;
    let expired = db
        .prepare_cached(
            "DELETE FROM record WHERE (kind, id) IN
                 (SELECT kind, id FROM record WHERE expires <= ?1 ORDER BY expires LIMIT ?2)",
        )?
        .execute(params![now.as_millis(), limit])?;
    Ok((deleted + expired) as u64)
}
