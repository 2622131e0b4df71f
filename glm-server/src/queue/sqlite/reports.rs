//! What changes a task after it was submitted and claimed: reports of workers, cancellation, and time.
//!
//! Every statement that ends a task, or puts it back, asks for the status that the task must have, and for a worker's report
//! also for the number of its lease. So whatever comes first is what happens.

use rusqlite::{Connection, OptionalExtension, Params, params};

use super::super::policy::{self, Next, WrittenReport, number};
use super::super::rows::Row;
use super::super::statements::{self, Change, OLD_RECORDS, OLD_TASKS, rows};
use super::super::{
    Backoff, Cancellation, Lease, Pulse, Reaped, Status, StoreError, TaskId, Timestamp,
};
use super::error::Failure;

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
        let found = extend.query_row(params, |row| row.flag("cancel_requested"));
        Ok(policy::pulse(found.optional()?))
    };
    leases.iter().map(one).collect()
}

pub(super) fn finish(
    db: &Connection,
    lease: Lease,
    report: WrittenReport,
    backoff: &Backoff,
    now: Timestamp,
) -> Result<Status, Failure> {
    let held = db
        .prepare_cached(statements::HELD)?
        .query_row([lease.task.to_string()], |row| row.held(lease.task))
        .optional()?;
    let attempt = held.ok_or(StoreError::NotFound(lease.task))?.by(&lease)?;
    let next = attempt.next(report, backoff, now);
    write(db, lease.task, &next, now)?;
    Ok(next.status)
}

fn write(db: &Connection, task: TaskId, next: &Next, now: Timestamp) -> rusqlite::Result<()> {
    let finished = next.status.is_terminal().then_some(now.as_millis());
    db.prepare_cached(statements::FINISH)?.execute(params![
        task.to_string(),
        next.status.as_str(),
        next.attempts,
        next.not_before.map_or(0, Timestamp::as_millis),
        finished,
        next.error,
    ])?;
    if let Some(result) = &next.result {
        db.prepare_cached(statements::ADD_RESULT)?
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
        .prepare_cached(statements::STATUS)?
        .query_row(params![text, tenant], |row| row.status())
        .optional()?;
    match status.ok_or(StoreError::NotFound(id))? {
        Status::Queued => {
            db.prepare_cached(statements::CANCEL_QUEUED)?
                .execute(params![text, now.as_millis()])?;
            Ok(Cancellation::Cancelled)
        }
        Status::Running => {
            db.prepare_cached(statements::CANCEL_RUNNING)?
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
    let params = params![group, tenant, now.as_millis()];
    Ok(change(db, statements::CANCEL_GROUP, params)?)
}

pub(super) fn reap(db: &Connection, lapsed: Timestamp, now: Timestamp) -> Result<Reaped, Failure> {
    let (lapsed, now) = (lapsed.as_millis(), now.as_millis());
    let lost = policy::worker_lost().to_string();
    // In this order: what is to end is not put back.
    Ok(Reaped {
        cancelled: change(db, statements::REAP_CANCELLED, [now, lapsed])?,
        expired: change(db, statements::REAP_EXPIRED, [now])?,
        failed: change(db, statements::REAP_FAILED, params![now, lapsed, lost])?,
        requeued: change(db, statements::REAP_REQUEUED, params![lost, lapsed])?,
    })
}

/// Changes tasks; how many they were.
fn change(db: &Connection, change: Change, params: impl Params) -> rusqlite::Result<u64> {
    let Change { condition, set } = change;
    let sql = format!("UPDATE task SET {set} WHERE {condition}");
    let changed = db.prepare_cached(&sql)?.execute(params)?;
    Ok(changed as u64)
}

pub(super) fn purge(db: &Connection, limit: usize, now: Timestamp) -> Result<u64, Failure> {
    let tasks = format!("DELETE FROM task WHERE id IN ({OLD_TASKS})");
    let records = format!("DELETE FROM record WHERE (kind, id) IN ({OLD_RECORDS})");
    let mut deleted = 0;
    for sql in [tasks, records] {
        let params = [now.as_millis(), rows(limit)];
        deleted += db.prepare_cached(&sql)?.execute(params)? as u64;
    }
    Ok(deleted)
}

pub(super) fn remove(db: &Connection, id: TaskId, tenant: Option<&str>) -> Result<bool, Failure> {
    let removed = db
        .prepare_cached(statements::REMOVE)?
        .execute(params![id.to_string(), tenant])?;
    Ok(removed == 1)
}
