//! Tasks into the database, and out of it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use sqlx::{AssertSqlSafe, PgConnection, Row};

use super::super::policy::Prepared;
use super::super::{
    Backlog, Claimed, Counts, Filter, Lease, Page, Paging, Status, StoreError, Submitted, Task,
    TaskId, TaskInfo, Timestamp,
};
use super::error::Failure;
use super::rows::{self, INFO, NEVER};

pub(super) async fn submit(
    db: &mut PgConnection,
    tasks: Arc<Vec<Prepared>>,
) -> Result<Vec<Submitted>, Failure> {
    let inserted = insert(db, &tasks).await?;
    let mut submitted = Vec::with_capacity(tasks.len());
    for task in tasks.iter() {
        submitted.push(match inserted.contains(&task.info.id) {
            true => Submitted {
                task: task.info.clone(),
                is_repeated: false,
            },
            false => repeated(db, task).await?,
        });
    }
    Ok(submitted)
}

/// Inserts those whose keys are not there, and answers which. All in two statements: each is a round trip.
async fn insert(db: &mut PgConnection, tasks: &[Prepared]) -> Result<HashSet<TaskId>, Failure> {
    let texts = |of: fn(&TaskInfo) -> &String| -> Vec<String> {
        tasks.iter().map(|task| of(&task.info).clone()).collect()
    };
    let optional = |of: fn(&TaskInfo) -> &Option<String>| -> Vec<Option<String>> {
        tasks.iter().map(|task| of(&task.info).clone()).collect()
    };
    let numbers = |of: fn(&Prepared) -> i64| -> Vec<i64> { tasks.iter().map(of).collect() };
    let ids: Vec<String> = tasks.iter().map(|task| task.info.id.to_string()).collect();
    let found = sqlx::query(
        "INSERT INTO task (id, tenant, endpoint, pool, idempotency_key, task_group, label, priority, level, due, max_retries,
                           retention, created, status, attempts, not_before, cancel_requested, lease)
         SELECT given.*, 'queued', 0, 0, false, 0
         FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bigint[],
                     $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[]) AS given
         ON CONFLICT (tenant, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
         RETURNING id",
    )
    .bind(&ids)
    .bind(texts(|info| &info.tenant))
    .bind(texts(|info| &info.endpoint))
    .bind(texts(|info| &info.pool))
    .bind(optional(|info| &info.idempotency_key))
    .bind(optional(|info| &info.group))
    .bind(optional(|info| &info.label))
    .bind(numbers(|task| task.info.priority.into()))
    .bind(numbers(|task| task.level))
    .bind(numbers(|task| task.info.deadline.map_or(NEVER, Timestamp::as_millis)))
    .bind(numbers(|task| task.info.max_retries.into()))
    .bind(numbers(|task| task.retention))
    .bind(numbers(|task| task.info.created.as_millis()))
    .fetch_all(&mut *db)
    .await?;
    let inserted = found.iter().map(|row| rows::id(row, "id"));
    let inserted = inserted.collect::<Result<HashSet<_>, _>>()?;
    let new = tasks.iter().filter(|task| inserted.contains(&task.info.id));
    let (ids, bodies): (Vec<String>, Vec<&str>) = new
        .map(|task| (task.info.id.to_string(), task.text.as_str()))
        .unzip();
    sqlx::query("INSERT INTO task_body (task, body) SELECT * FROM unnest($1::text[], $2::text[])")
        .bind(ids)
        .bind(bodies)
        .execute(db)
        .await?;
    Ok(inserted)
}

/// The task that has the idempotency key of this one already, if it asks for the same.
async fn repeated(db: &mut PgConnection, task: &Prepared) -> Result<Submitted, Failure> {
    let sql = format!(
        "SELECT {INFO}, body FROM task JOIN task_body ON task_body.task = task.id WHERE tenant = $1 AND idempotency_key = $2"
    );
    let Prepared { info, body, .. } = task;
    let row = sqlx::query(AssertSqlSafe(sql))
        .bind(&info.tenant)
        .bind(&info.idempotency_key)
        .fetch_one(db)
        .await?;
    let (existing, its_body) = (rows::info(&row)?, rows::json(&row, "body")?);
    match existing.endpoint == info.endpoint && its_body == *body {
        true => Ok(Submitted {
            task: existing,
            is_repeated: true,
        }),
        false => Err(Failure::Refused(StoreError::Conflict {
            key: info.idempotency_key.clone().unwrap_or_default(),
            existing: existing.id,
        })),
    }
}

pub(super) async fn claim(
    db: &mut PgConnection,
    pool: &str,
    worker: &str,
    limit: usize,
    until: Timestamp,
    now: Timestamp,
) -> Result<Vec<Claimed>, Failure> {
    let sql = format!(
        "WITH next AS (
             SELECT id FROM task WHERE status = 'queued' AND pool = $5 AND not_before <= $3 AND due > $3
             ORDER BY level, due, id LIMIT $4 FOR UPDATE SKIP LOCKED)
         UPDATE task
         SET status = 'running', attempts = attempts + 1, not_before = 0, worker = $1, lease = lease + 1, lease_until = $2,
             started = $3
         FROM next WHERE task.id = next.id
         RETURNING {INFO}, level, lease"
    );
    let found = sqlx::query(AssertSqlSafe(sql))
        .bind(worker)
        .bind(until.as_millis())
        .bind(now.as_millis())
        .bind(rows::rows(limit))
        .bind(pool)
        .fetch_all(&mut *db)
        .await?;
    let mut claimed = Vec::new();
    for row in &found {
        let info = rows::info(row)?;
        let order: (i64, i64, TaskId) = (row.try_get("level")?, row.try_get("due")?, info.id);
        claimed.push((order, rows::number(row, "lease")?, info));
    }
    // Rows come back in any order.
    claimed.sort_by_key(|(order, ..)| *order);
    let mut bodies = bodies(db, claimed.iter().map(|(.., info)| info.id)).await?;
    let with_body = |(_, number, info): (_, u64, TaskInfo)| {
        let body = bodies.remove(&info.id);
        Ok(Claimed {
            lease: Lease {
                task: info.id,
                number,
            },
            body: body.ok_or_else(|| Failure::Damaged(format!("task {} has no body", info.id)))?,
            info,
        })
    };
    claimed.into_iter().map(with_body).collect()
}

async fn bodies(
    db: &mut PgConnection,
    ids: impl Iterator<Item = TaskId>,
) -> Result<HashMap<TaskId, serde_json::Value>, Failure> {
    let ids: Vec<String> = ids.map(|id| id.to_string()).collect();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let found = sqlx::query("SELECT task, body FROM task_body WHERE task = ANY($1)")
        .bind(ids)
        .fetch_all(db)
        .await?;
    let one = |row| Ok((rows::id(row, "task")?, rows::json(row, "body")?));
    found.iter().map(one).collect()
}

pub(super) async fn get(
    db: &mut PgConnection,
    id: TaskId,
    tenant: Option<String>,
) -> Result<Option<Task>, Failure> {
    let sql = format!(
        "SELECT {INFO}, body, result
         FROM task JOIN task_body ON task_body.task = task.id LEFT JOIN task_result ON task_result.task = task.id
         WHERE id = $1 AND ($2::text IS NULL OR tenant = $2)"
    );
    let row = sqlx::query(AssertSqlSafe(sql))
        .bind(id.to_string())
        .bind(tenant)
        .fetch_optional(db)
        .await?;
    let task = |row| {
        Ok(Task {
            info: rows::info(row)?,
            body: rows::json(row, "body")?,
            result: rows::optional_json(row, "result")?,
        })
    };
    row.as_ref().map(task).transpose()
}

pub(super) async fn info(
    db: &mut PgConnection,
    id: TaskId,
    tenant: Option<String>,
) -> Result<Option<TaskInfo>, Failure> {
    let sql =
        format!("SELECT {INFO} FROM task WHERE id = $1 AND ($2::text IS NULL OR tenant = $2)");
    let row = sqlx::query(AssertSqlSafe(sql))
        .bind(id.to_string())
        .bind(tenant)
        .fetch_optional(db)
        .await?;
    row.as_ref().map(rows::info).transpose()
}

pub(super) async fn list(
    db: &mut PgConnection,
    filter: Filter,
    paging: Paging,
) -> Result<Page, Failure> {
    let (beyond, direction) = rows::direction(&paging);
    let sql = format!(
        "SELECT {INFO} FROM task
         WHERE ($1::text IS NULL OR tenant = $1) AND ($2::text IS NULL OR task_group = $2)
           AND ($3::text IS NULL OR endpoint = $3) AND (cardinality($4::text[]) = 0 OR status = ANY($4))
           AND ($5::text IS NULL OR id {beyond} $5)
         ORDER BY id {direction} LIMIT $6"
    );
    let statuses: Vec<&str> = filter.status.iter().map(|status| status.as_str()).collect();
    let found = sqlx::query(AssertSqlSafe(sql))
        .bind(filter.tenant)
        .bind(filter.group)
        .bind(filter.endpoint)
        .bind(statuses)
        .bind(paging.after.map(|after| after.to_string()))
        .bind(rows::one_more(paging.limit))
        .fetch_all(db)
        .await?;
    let tasks = found.iter().map(rows::info).collect::<Result<_, _>>()?;
    Ok(rows::page(tasks, paging.limit))
}

pub(super) async fn counts(
    db: &mut PgConnection,
    group: String,
    tenant: Option<String>,
) -> Result<Counts, Failure> {
    let found = sqlx::query(
        "SELECT status, count(*) AS count FROM task
         WHERE task_group = $1 AND ($2::text IS NULL OR tenant = $2) GROUP BY status",
    )
    .bind(group)
    .bind(tenant)
    .fetch_all(db)
    .await?;
    let mut counts = Counts::default();
    for row in &found {
        *counts.of(rows::status(row)?) = rows::number(row, "count")?;
    }
    Ok(counts)
}

pub(super) async fn backlog(db: &mut PgConnection, pool: String) -> Result<Vec<Backlog>, Failure> {
    let found = sqlx::query(
        "SELECT priority, status, count(*) AS count, min(created) AS oldest FROM task
         WHERE status IN ('queued', 'running') AND pool = $1 GROUP BY priority, status",
    )
    .bind(pool)
    .fetch_all(db)
    .await?;
    let mut levels = BTreeMap::new();
    for row in &found {
        let priority = rows::number(row, "priority")?;
        let level = levels.entry(Reverse(priority)).or_insert(Backlog {
            priority,
            queued: 0,
            running: 0,
            oldest_queued: None,
        });
        let count = rows::number(row, "count")?;
        match rows::status(row)? {
            Status::Queued => {
                level.queued = count;
                level.oldest_queued = Some(Timestamp::from_millis(row.try_get("oldest")?));
            }
            _ => level.running = count,
        }
    }
    Ok(levels.into_values().collect())
}
