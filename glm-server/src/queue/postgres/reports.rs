//! What changes a task after it was submitted and claimed: reports of workers, cancellation, and time.
//!
//! Every statement that ends a task, or puts it back, asks for the status that the task must have, or holds the row after having
//! looked at it (`FOR UPDATE`). So whatever comes first is what happens.

use std::collections::HashMap;
use std::sync::Arc;

use sqlx::{AssertSqlSafe, PgConnection, Row};

use super::super::policy::{self, Attempt, Next, WrittenReport};
use super::super::{
    Backoff, Cancellation, Lease, Pulse, Reaped, Status, StoreError, TaskId, Timestamp,
};
use super::error::Failure;
use super::rows;

/// As the database holds it; one that it cannot hold is nobody's.
fn number(lease: &Lease) -> i64 {
    i64::try_from(lease.number).unwrap_or(-1)
}

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
        let lease = (rows::id(row, "id")?, row.try_get::<i64, _>("lease")?);
        held.insert(lease, row.try_get::<bool, _>("cancel_requested")?);
    }
    let one = |lease: &Lease| match held.get(&(lease.task, number(lease))) {
        None => Pulse::Lost,
        Some(false) => Pulse::Held,
        Some(true) => Pulse::CancelRequested,
    };
    Ok(leases.iter().map(one).collect())
}

pub(super) async fn finish(
    db: &mut PgConnection,
    lease: Lease,
    report: Arc<WrittenReport>,
    backoff: Backoff,
    now: Timestamp,
) -> Result<Status, Failure> {
    let found = sqlx::query(
        "SELECT status, lease, attempts, max_retries, cancel_requested FROM task WHERE id = $1 FOR UPDATE",
    )
    .bind(lease.task.to_string())
    .fetch_optional(&mut *db)
    .await?;
    let row = found.ok_or(StoreError::NotFound(lease.task))?;
    let (status, held): (Status, i64) = (rows::status(&row)?, row.try_get("lease")?);
    if status != Status::Running || held != number(&lease) {
        return Err(Failure::Refused(StoreError::LeaseLost {
            task: lease.task,
            status,
        }));
    }
    let attempt = Attempt {
        task: lease.task,
        attempts: rows::number(&row, "attempts")?,
        max_retries: rows::number(&row, "max_retries")?,
        cancel_requested: row.try_get("cancel_requested")?,
    };
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
    sqlx::query(
        "UPDATE task
         SET status = $2, attempts = $3, not_before = $4, finished = $5, purge_at = $5 + retention, worker = NULL,
             lease_until = NULL, error = CASE WHEN $2 = 'completed' THEN NULL ELSE COALESCE($6, error) END
         WHERE id = $1",
    )
    .bind(task.to_string())
    .bind(next.status.as_str())
    .bind(i64::from(next.attempts))
    .bind(next.not_before.map_or(0, Timestamp::as_millis))
    .bind(finished)
    .bind(&next.error)
    .execute(&mut *db)
    .await?;
    if let Some(result) = &next.result {
        sqlx::query("INSERT INTO task_result (task, result) VALUES ($1, $2)")
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
    let found = sqlx::query(
        "SELECT status FROM task WHERE id = $1 AND ($2::text IS NULL OR tenant = $2) FOR UPDATE",
    )
    .bind(&text)
    .bind(tenant)
    .fetch_optional(&mut *db)
    .await?;
    match rows::status(&found.ok_or(StoreError::NotFound(id))?)? {
        Status::Queued => {
            sqlx::query(
                "UPDATE task SET status = 'cancelled', not_before = 0, finished = $2, purge_at = $2 + retention WHERE id = $1",
            )
            .bind(text)
            .bind(now.as_millis())
            .execute(db)
            .await?;
            Ok(Cancellation::Cancelled)
        }
        Status::Running => {
            sqlx::query("UPDATE task SET cancel_requested = true WHERE id = $1")
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
    let changed = sqlx::query(
        "WITH held AS (
             SELECT id FROM task
             WHERE task_group = $1 AND ($2::text IS NULL OR tenant = $2) AND status IN ('queued', 'running')
             ORDER BY id FOR UPDATE)
         UPDATE task
         SET cancel_requested = (status = 'running'),
             finished = CASE WHEN status = 'queued' THEN $3::bigint END,
             purge_at = CASE WHEN status = 'queued' THEN $3::bigint + retention END,
             not_before = 0,
             status = CASE WHEN status = 'queued' THEN 'cancelled' ELSE status END
         FROM held WHERE task.id = held.id",
    )
    .bind(group)
    .bind(tenant)
    .bind(now.as_millis())
    .execute(db)
    .await?;
    Ok(changed.rows_affected())
}

pub(super) async fn reap(db: &mut PgConnection, now: Timestamp) -> Result<Reaped, Failure> {
    const LET_GO: &str = "status = 'running' AND lease_until <= $1";
    let lost = policy::worker_lost().to_string();
    let end = |status: &str| {
        format!(
            "status = '{status}', finished = $1, purge_at = $1 + retention, worker = NULL, lease_until = NULL"
        )
    };
    let is_over = format!("{LET_GO} AND cancel_requested");
    let set = format!("{}, not_before = 0", end("cancelled"));
    let cancelled = change(db, &is_over, &set, (now, None)).await?;
    let is_due = "status IN ('queued', 'running') AND due <= $1";
    let set = format!("{}, not_before = 0", end("expired"));
    let expired = change(db, is_due, &set, (now, None)).await?;
    let was_last = format!("{LET_GO} AND attempts > max_retries");
    let set = format!("{}, error = $2", end("failed"));
    let failed = change(db, &was_last, &set, (now, Some(&lost))).await?;
    let set = "status = 'queued', worker = NULL, lease_until = NULL, error = $2";
    Ok(Reaped {
        requeued: change(db, LET_GO, set, (now, Some(&lost))).await?,
        failed,
        cancelled,
        expired,
    })
}

/// Changes the tasks of which this is true, locked in the order of their ids; how many they were.
async fn change(
    db: &mut PgConnection,
    condition: &str,
    set: &str,
    (now, error): (Timestamp, Option<&str>),
) -> Result<u64, Failure> {
    let sql = format!(
        "WITH held AS (SELECT id FROM task WHERE {condition} ORDER BY id FOR UPDATE)
         UPDATE task SET {set} FROM held WHERE task.id = held.id"
    );
    let mut query = sqlx::query(AssertSqlSafe(sql)).bind(now.as_millis());
    if let Some(error) = error {
        query = query.bind(error);
    }
    Ok(query.execute(db).await?.rows_affected())
}

pub(super) async fn purge(
    db: &mut PgConnection,
    limit: usize,
    now: Timestamp,
) -> Result<u64, Failure> {
    let tasks = "DELETE FROM task WHERE id IN
             (SELECT id FROM task WHERE purge_at <= $1 ORDER BY purge_at LIMIT $2 FOR UPDATE SKIP LOCKED)";
    let records = "DELETE FROM record WHERE (kind, id) IN
             (SELECT kind, id FROM record WHERE expires <= $1 ORDER BY expires LIMIT $2 FOR UPDATE SKIP LOCKED)";
    let mut deleted = 0;
    for sql in [tasks, records] {
        let done = sqlx::query(sql)
            .bind(now.as_millis())
            .bind(rows::rows(limit))
            .execute(&mut *db)
            .await?;
        deleted += done.rows_affected();
    }
    Ok(deleted)
}
