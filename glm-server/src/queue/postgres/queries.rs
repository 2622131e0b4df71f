//! Tasks into the database, and out of it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use sqlx::PgConnection;
use sqlx::postgres::PgRow;

use super::super::policy::{NEVER, Prepared, page};
use super::super::rows::{Levels, Row, damaged};
use super::super::statements::{self, CLAIMED, NEXT, START, Select, rows};
use super::super::{
    Backlog, Claimed, Counts, Filter, Page, Paging, Submitted, Task, TaskId, TaskInfo, Timestamp,
};
use super::error::Failure;
use super::rows::{bind, query};

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
            false => repeated(db, task).await?.ok_or(sqlx::Error::RowNotFound)?,
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
                           retention, created, payer, status, attempts, not_before, cancel_requested, lease)
         SELECT given.*, 'queued', 0, 0, false, 0
         FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bigint[],
                     $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::text[]) AS given
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
    .bind(optional(|info| &info.payer))
    .fetch_all(&mut *db)
    .await?;
    let inserted = found.iter().map(|row| row.id("id"));
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
pub(super) async fn repeated(
    db: &mut PgConnection,
    task: &Prepared,
) -> Result<Option<Submitted>, Failure> {
    let found = query(statements::REPEATED)
        .bind(&task.info.tenant)
        .bind(&task.info.idempotency_key)
        .fetch_optional(db)
        .await?;
    let Some(row) = found else {
        return Ok(None);
    };
    Ok(Some(task.repeated(row.info()?, &row.json("body")?)?))
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
        "WITH next AS ({NEXT} FOR UPDATE SKIP LOCKED)
         UPDATE task SET {START} FROM next WHERE task.id = next.id RETURNING {CLAIMED}"
    );
    let found = query(&sql)
        .bind(worker)
        .bind(until.as_millis())
        .bind(now.as_millis())
        .bind(rows(limit))
        .bind(pool)
        .fetch_all(&mut *db)
        .await?;
    let claimed = found.iter().map(Row::claimed);
    let mut claimed = claimed.collect::<Result<Vec<_>, _>>()?;
    // Rows come back in any order.
    claimed.sort_by_key(|(place, ..)| *place);
    let mut bodies = bodies(db, claimed.iter().map(|(.., info)| info.id)).await?;
    let with_body = |(_, lease, info): (_, _, TaskInfo)| {
        let body = bodies.remove(&info.id);
        let body = body.ok_or_else(|| damaged::<sqlx::Error>("body", "is missing"))?;
        Ok(Claimed { lease, body, info })
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
    let one = |row: &PgRow| Ok((row.id("task")?, row.json("body")?));
    found.iter().map(one).collect()
}

pub(super) async fn get(
    db: &mut PgConnection,
    id: TaskId,
    tenant: Option<String>,
) -> Result<Option<Task>, Failure> {
    let row = query(statements::GET)
        .bind(id.to_string())
        .bind(tenant)
        .fetch_optional(db)
        .await?;
    Ok(row.map(|row| row.task()).transpose()?)
}

pub(super) async fn info(
    db: &mut PgConnection,
    id: TaskId,
    tenant: Option<String>,
) -> Result<Option<TaskInfo>, Failure> {
    let row = query(statements::GET_INFO)
        .bind(id.to_string())
        .bind(tenant)
        .fetch_optional(db)
        .await?;
    Ok(row.map(|row| row.info()).transpose()?)
}

pub(super) async fn list(
    db: &mut PgConnection,
    filter: Filter,
    paging: Paging,
) -> Result<Page, Failure> {
    let Select { sql, params } = Select::tasks(filter, &paging);
    let found = params.into_iter().fold(query(&sql), bind);
    let found = found.fetch_all(db).await?;
    let tasks = found.iter().map(Row::info).collect::<Result<_, _>>()?;
    Ok(page(tasks, paging.limit))
}

pub(super) async fn counts(
    db: &mut PgConnection,
    group: String,
    tenant: Option<String>,
) -> Result<Counts, Failure> {
    let found = query(statements::COUNTS)
        .bind(group)
        .bind(tenant)
        .fetch_all(db)
        .await?;
    let mut counts = Counts::default();
    for row in &found {
        row.add_to(&mut counts)?;
    }
    Ok(counts)
}

pub(super) async fn backlog(db: &mut PgConnection, pool: String) -> Result<Vec<Backlog>, Failure> {
    let found = query(statements::BACKLOG).bind(pool).fetch_all(db).await?;
    let mut levels = Levels::default();
    for row in &found {
        levels.add(row)?;
    }
    Ok(levels.into_list())
}
