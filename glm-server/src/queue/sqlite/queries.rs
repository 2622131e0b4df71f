//! Tasks into the database, and out of it.
//!
//! The statements are of a form that PostgreSQL has too; a claim there adds `FOR UPDATE SKIP LOCKED` to its inner query.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use rusqlite::types::Value as Param;
use rusqlite::{Connection, OptionalExtension, params, params_from_iter};

use super::super::policy::Prepared;
use super::super::{
    Backlog, Claimed, Counts, Filter, Lease, Page, Paging, Status, StoreError, Submitted, Task,
    TaskId, TaskInfo, Timestamp,
};
use super::error::Failure;
use super::rows::{self, INFO, NEVER};

pub(super) fn submit(db: &Connection, tasks: Vec<Prepared>) -> Result<Vec<Submitted>, Failure> {
    let one = |task: Prepared| match insert(db, &task)? {
        true => Ok(Submitted {
            task: task.info,
            is_repeated: false,
        }),
        false => repeated(db, task),
    };
    tasks.into_iter().map(one).collect()
}

/// Whether the task was not there.
fn insert(db: &Connection, task: &Prepared) -> rusqlite::Result<bool> {
    let mut insert = db.prepare_cached(
        "INSERT INTO task (id, tenant, endpoint, pool, idempotency_key, task_group, label, priority, level, due, max_retries,
                           retention, status, attempts, not_before, cancel_requested, lease, created)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, 'queued', 0, 0, 0, 0, ?13)
         ON CONFLICT (tenant, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING",
    )?;
    let info = &task.info;
    let id = info.id.to_string();
    let inserted = insert.execute(params![
        id,
        info.tenant,
        info.endpoint,
        info.pool,
        info.idempotency_key,
        info.group,
        info.label,
        info.priority,
        task.level,
        info.deadline.map_or(NEVER, Timestamp::as_millis),
        info.max_retries,
        task.retention,
        info.created.as_millis(),
    ])?;
    if inserted == 1 {
        db.prepare_cached("INSERT INTO task_body (task, body) VALUES (?1, ?2)")?
            .execute(params![id, task.text])?;
    }
    Ok(inserted == 1)
}

/// The task that has the idempotency key of this one already, if it asks for the same.
fn repeated(db: &Connection, task: Prepared) -> Result<Submitted, Failure> {
    let sql = format!(
        "SELECT {INFO}, body FROM task JOIN task_body ON task_body.task = task.id WHERE tenant = ?1 AND idempotency_key = ?2"
    );
    let Prepared { info, body, .. } = task;
    let (existing, its_body) = db
        .prepare_cached(&sql)?
        .query_row(params![info.tenant, info.idempotency_key], |row| {
            Ok((rows::info(row)?, rows::json(row, "body")?))
        })?;
    match existing.endpoint == info.endpoint && its_body == body {
        true => Ok(Submitted {
            task: existing,
            is_repeated: true,
        }),
        false => Err(Failure::Refused(StoreError::Conflict {
            key: info.idempotency_key.unwrap_or_default(),
            existing: existing.id,
        })),
    }
}

pub(super) fn claim(
    db: &Connection,
    pool: &str,
    worker: &str,
    limit: usize,
    until: Timestamp,
    now: Timestamp,
) -> Result<Vec<Claimed>, Failure> {
    // The inner query goes along the index task_queue from its start, and passes over what waits for another attempt.
    let sql = format!(
        "UPDATE task
         SET status = 'running', attempts = attempts + 1, not_before = 0, worker = ?1, lease = lease + 1, lease_until = ?2,
             started = ?3
         WHERE id IN (SELECT id FROM task WHERE status = 'queued' AND pool = ?5 AND not_before <= ?3 AND due > ?3
                      ORDER BY level, due, id LIMIT ?4)
         RETURNING {INFO}, level, lease"
    );
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut statement = db.prepare_cached(&sql)?;
    let now = now.as_millis();
    let claimed = statement.query_map(
        params![worker, until.as_millis(), now, limit, pool],
        |row| {
            let info = rows::info(row)?;
            let order: (i64, i64, TaskId) = (row.get("level")?, row.get("due")?, info.id);
            Ok((order, row.get::<_, i64>("lease")?, info))
        },
    )?;
    let mut claimed = claimed.collect::<Result<Vec<_>, _>>()?;
    // Rows come back in any order.
    claimed.sort_by_key(|(order, ..)| *order);
    let with_body = |(_, number, info): (_, i64, TaskInfo)| {
        Ok(Claimed {
            lease: Lease {
                task: info.id,
                number: number.unsigned_abs(),
            },
            body: body(db, info.id)?,
            info,
        })
    };
    claimed.into_iter().map(with_body).collect()
}

fn body(db: &Connection, id: TaskId) -> rusqlite::Result<serde_json::Value> {
    db.prepare_cached("SELECT body FROM task_body WHERE task = ?1")?
        .query_row([id.to_string()], |row| rows::json(row, "body"))
}

pub(super) fn get(
    db: &Connection,
    id: TaskId,
    tenant: Option<&str>,
) -> Result<Option<Task>, Failure> {
    let sql = format!(
        "SELECT {INFO}, body, result
         FROM task JOIN task_body ON task_body.task = task.id LEFT JOIN task_result ON task_result.task = task.id
         WHERE id = ?1 AND (?2 IS NULL OR tenant = ?2)"
    );
    let mut statement = db.prepare_cached(&sql)?;
    let task = statement.query_row(params![id.to_string(), tenant], |row| {
        Ok(Task {
            info: rows::info(row)?,
            body: rows::json(row, "body")?,
            result: rows::optional_json(row, "result")?,
        })
    });
    Ok(task.optional()?)
}

pub(super) fn info(
    db: &Connection,
    id: TaskId,
    tenant: Option<&str>,
) -> Result<Option<TaskInfo>, Failure> {
    let sql = format!("SELECT {INFO} FROM task WHERE id = ?1 AND (?2 IS NULL OR tenant = ?2)");
    let mut statement = db.prepare_cached(&sql)?;
    let info = statement.query_row(params![id.to_string(), tenant], rows::info);
    Ok(info.optional()?)
}

pub(super) fn list(db: &Connection, filter: &Filter, paging: Paging) -> Result<Page, Failure> {
    let text = |text: &String| Param::Text(text.clone());
    let mut conditions = vec!["true".to_owned()];
    let mut params = Vec::new();
    let equal = [
        ("tenant", &filter.tenant),
        ("task_group", &filter.group),
        ("endpoint", &filter.endpoint),
    ];
    for (column, value) in equal {
        if let Some(value) = value {
            conditions.push(format!("{column} = ?"));
            params.push(text(value));
        }
    }
    if !filter.status.is_empty() {
        let marks = vec!["?"; filter.status.len()].join(", ");
        conditions.push(format!("status IN ({marks})"));
        params.extend(filter.status.iter().map(|s| Param::Text(s.as_str().into())));
    }
    let (beyond, direction) = rows::direction(&paging);
    if let Some(after) = paging.after {
        conditions.push(format!("id {beyond} ?"));
        params.push(text(&after.to_string()));
    }
    let conditions = conditions.join(" AND ");
    params.push(rows::one_more(paging.limit));
    let sql = format!("SELECT {INFO} FROM task WHERE {conditions} ORDER BY id {direction} LIMIT ?");
    let mut statement = db.prepare_cached(&sql)?;
    let tasks = statement.query_map(params_from_iter(params), rows::info)?;
    Ok(rows::page(tasks.collect::<Result<_, _>>()?, paging.limit))
}

pub(super) fn counts(
    db: &Connection,
    group: &str,
    tenant: Option<&str>,
) -> Result<Counts, Failure> {
    let mut statement = db.prepare_cached(
        "SELECT status, count(*) AS count FROM task
         WHERE task_group = ?1 AND (?2 IS NULL OR tenant = ?2) GROUP BY status",
    )?;
    let mut found = statement.query(params![group, tenant])?;
    let mut counts = Counts::default();
    while let Some(row) = found.next()? {
        let count: i64 = row.get("count")?;
        *counts.of(rows::status(row, "status")?) = count.unsigned_abs();
    }
    Ok(counts)
}

pub(super) fn backlog(db: &Connection, pool: &str) -> Result<Vec<Backlog>, Failure> {
    let mut statement = db.prepare_cached(
        "SELECT priority, status, count(*) AS count, min(created) AS oldest FROM task
         WHERE status IN ('queued', 'running') AND pool = ?1 GROUP BY priority, status",
    )?;
    let mut found = statement.query([pool])?;
    let mut levels = BTreeMap::new();
    while let Some(row) = found.next()? {
        let priority = row.get("priority")?;
        let level = levels.entry(Reverse(priority)).or_insert(Backlog {
            priority,
            queued: 0,
            running: 0,
            oldest_queued: None,
        });
        let count = row.get::<_, i64>("count")?.unsigned_abs();
        match rows::status(row, "status")? {
            Status::Queued => {
                level.queued = count;
                level.oldest_queued = Some(Timestamp::from_millis(row.get("oldest")?));
            }
            _ => level.running = count,
        }
    }
    Ok(levels.into_values().collect())
}
