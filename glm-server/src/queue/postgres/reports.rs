//! What changes a task after it was submitted and claimed: reports of workers, cancellation, and time.
//!
//! Every statement that ends a task, or puts it back, asks for the status that the task must have, or holds the row after having
//! looked at it (`FOR UPDATE`). So whatever comes first is what happens.

use std::collections::HashMap;
use std::sync::Arc;

use sqlx::PgConnection;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;

use super::super::policy::{self, Next, WrittenReport, number};
use super::super::rows::Row;
use super::super::statements::{self, Change, HELD, OLD_RECORDS, OLD_TASKS, STATUS, rows};
use super::super::{
    Backoff, Cancellation, Lease, Pulse, Reaped, Status, StoreError, TaskId, Timestamp,
};
use super::error::Failure;
use super::rows::query;

pub(super) async fn heartbeat(
    db: &mut PgConnection,
    leases: Arc<Vec<Lease>>,
    until: Timestamp,
) -> Result<Vec<Pulse>, Failure> {
    let ids: Vec<String> = leases.iter().map(|lease| lease.task.to_string()).collect();
    let numbers: Vec<i64> = leases.iter().map(number).collect();
    // In the order of their ids, as everybody locks them: two who do cannot wait for each other.
    let found = sqlx::query(
        "WITH held AS (
             SELECT task.id, task.lease FROM task JOIN unnest($2::text[], $3::bigint[]) AS given (id, lease)
                 ON task.id = given.id AND task.lease = given.lease
             WHERE status = 'running' ORDER BY task.id FOR UPDATE OF task)
         UPDATE task SET lease_until = $1 FROM held WHERE task.id = held.id RETURNING task.id, task.lease, cancel_requested",
    )
    .bind(until.as_millis())
    .bind(ids)
    .bind(numbers)
    .fetch_all(db)
    .await?;
    let mut held = HashMap::new();
    for row in &found {
        let lease = (row.id("id")?, row.number("lease")?);
        held.insert(lease, row.flag("cancel_requested")?);
    }
    let one = |lease: &Lease| policy::pulse(held.get(&(lease.task, number(lease))).copied());
    Ok(leases.iter().map(one).collect())
}

pub(super) async fn finish(
    db: &mut PgConnection,
    lease: Lease,
    report: Arc<WrittenReport>,
    backoff: Backoff,
    now: Timestamp,
) -> Result<Status, Failure> {
    let found = query(&format!("{HELD} FOR UPDATE"))
        .bind(lease.task.to_string())
        .fetch_optional(&mut *db)
        .await?;
    let row = found.ok_or(StoreError::NotFound(lease.task))?;
    let attempt = row.held(lease.task)?.by(&lease)?;
    let next = attempt.next(WrittenReport::clone(&report), &backoff, now);
    write(db, lease.task, &next, now).await?;
    Ok(next.status)
}

async fn write(
    db: &mut PgConnection,
    task: TaskId,
    next: &Next,
    now: Timestamp,
) -> Result<(), Failure> {
    let finished = next.status.is_terminal().then_some(now.as_millis());
    query(statements::FINISH)
        .bind(task.to_string())
        .bind(next.status.as_str())
        .bind(i64::from(next.attempts))
        .bind(next.not_before.map_or(0, Timestamp::as_millis))
        .bind(finished)
        .bind(&next.error)
        .execute(&mut *db)
        .await?;
    if let Some(result) = &next.result {
        query(statements::ADD_RESULT)
            .bind(task.to_string())
            .bind(result)
            .execute(db)
            .await?;
    }
    Ok(())
}

pub(super) async fn cancel(
    db: &mut PgConnection,
    id: TaskId,
    tenant: Option<String>,
    now: Timestamp,
) -> Result<Cancellation, Failure> {
    let text = id.to_string();
    let found = query(&format!("{STATUS} FOR UPDATE"))
        .bind(&text)
        .bind(tenant)
        .fetch_optional(&mut *db)
        .await?;
    match found.ok_or(StoreError::NotFound(id))?.status()? {
        Status::Queued => {
            query(statements::CANCEL_QUEUED)
                .bind(text)
                .bind(now.as_millis())
                .execute(db)
                .await?;
            Ok(Cancellation::Cancelled)
        }
        Status::Running => {
            query(statements::CANCEL_RUNNING)
                .bind(text)
                .execute(db)
                .await?;
            Ok(Cancellation::Requested)
        }
        ended => Ok(Cancellation::TooLate(ended)),
    }
}

pub(super) async fn cancel_group(
    db: &mut PgConnection,
    group: String,
    tenant: Option<String>,
    now: Timestamp,
) -> Result<u64, Failure> {
    let with = |query: Bound| query.bind(group).bind(tenant).bind(now.as_millis());
    change(db, statements::CANCEL_GROUP, with).await
}

pub(super) async fn reap(
    db: &mut PgConnection,
    lapsed: Timestamp,
    now: Timestamp,
) -> Result<Reaped, Failure> {
    let (lapsed, now) = (lapsed.as_millis(), now.as_millis());
    let lost = policy::worker_lost().to_string();
    let cancelled = |query: Bound| query.bind(now).bind(lapsed);
    let failed = |query: Bound| query.bind(now).bind(lapsed).bind(lost.clone());
    let requeued = |query: Bound| query.bind(lost.clone()).bind(lapsed);
    // In this order: what is to end is not put back.
    Ok(Reaped {
        cancelled: change(db, statements::REAP_CANCELLED, cancelled).await?,
        expired: change(db, statements::REAP_EXPIRED, |query| query.bind(now)).await?,
        failed: change(db, statements::REAP_FAILED, failed).await?,
        requeued: change(db, statements::REAP_REQUEUED, requeued).await?,
    })
}

type Bound = Query<'static, sqlx::Postgres, PgArguments>;

/// Changes tasks, locked in the order of their ids; how many they were.
async fn change(
    db: &mut PgConnection,
    change: Change,
    with: impl FnOnce(Bound) -> Bound,
) -> Result<u64, Failure> {
    let Change { condition, set } = change;
    let sql = format!(
        "WITH held AS (SELECT id FROM task WHERE {condition} ORDER BY id FOR UPDATE)
         UPDATE task SET {set} FROM held WHERE task.id = held.id"
    );
    let changed = with(query(&sql)).execute(db).await?;
    Ok(changed.rows_affected())
}

pub(super) async fn purge(
    db: &mut PgConnection,
    limit: usize,
    now: Timestamp,
) -> Result<u64, Failure> {
    let lock = "FOR UPDATE SKIP LOCKED";
    let tasks = format!("DELETE FROM task WHERE id IN ({OLD_TASKS} {lock})");
    let records = format!("DELETE FROM record WHERE (kind, id) IN ({OLD_RECORDS} {lock})");
    let mut deleted = 0;
    for sql in [tasks, records] {
        let done = query(&sql)
            .bind(now.as_millis())
            .bind(rows(limit))
            .execute(&mut *db)
            .await?;
        deleted += done.rows_affected();
    }
    Ok(deleted)
}

pub(super) async fn remove(
    db: &mut PgConnection,
    id: TaskId,
    tenant: Option<String>,
) -> Result<bool, Failure> {
    let removed = query(statements::REMOVE)
        .bind(id.to_string())
        .bind(tenant)
        .execute(db)
        .await?;
    Ok(removed.rows_affected() == 1)
}
