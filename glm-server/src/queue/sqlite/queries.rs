//! Tasks into the database, and out of it.

use rusqlite::{Connection, OptionalExtension, params, params_from_iter};

use super::super::policy::{NEVER, Prepared, page};
use super::super::rows::{Levels, Row};
use super::super::statements::{self, CLAIMED, NEXT, START, Select, rows};
use super::super::{
    Backlog, Claimed, Counts, Filter, Page, Paging, Submitted, Task, TaskId, TaskInfo, Timestamp,
};
use super::error::Failure;

pub(super) fn submit(db: &Connection, tasks: Vec<Prepared>) -> Result<Vec<Submitted>, Failure> {
    let one = |task: Prepared| match insert(db, &task)? {
        true => Ok(Submitted {
            task: task.info,
            is_repeated: false,
        }),
        false => Ok(repeated(db, &task)?.ok_or(rusqlite::Error::QueryReturnedNoRows)?),
    };
    tasks.into_iter().map(one).collect()
}

/// Whether the task was not there.
fn insert(db: &Connection, task: &Prepared) -> rusqlite::Result<bool> {
    let mut insert = db.prepare_cached(
        "INSERT INTO task (id, tenant, endpoint, pool, idempotency_key, task_group, label, priority, level, due, max_retries,
                           retention, status, attempts, not_before, cancel_requested, lease, created, payer)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, 'queued', 0, 0, 0, 0, ?13, ?14)
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
        info.payer,
    ])?;
    if inserted == 1 {
        db.prepare_cached("INSERT INTO task_body (task, body) VALUES (?1, ?2)")?
            .execute(params![id, task.text])?;
    }
    Ok(inserted == 1)
}

/// The task that has the idempotency key of this one already, if it asks for the same.
pub(super) fn repeated(db: &Connection, task: &Prepared) -> Result<Option<Submitted>, Failure> {
    let mut find = db.prepare_cached(statements::REPEATED)?;
    let params = params![task.info.tenant, task.info.idempotency_key];
    let found = find
        .query_row(params, |row| Ok((row.info()?, row.json("body")?)))
        .optional()?;
    let answer = found.map(|(existing, body)| task.repeated(existing, &body));
    Ok(answer.transpose()?)
}

pub(super) fn claim(
    db: &Connection,
    pool: &str,
    worker: &str,
    limit: usize,
    until: Timestamp,
    now: Timestamp,
) -> Result<Vec<Claimed>, Failure> {
    let sql = format!("UPDATE task SET {START} WHERE id IN ({NEXT}) RETURNING {CLAIMED}");
    let mut statement = db.prepare_cached(&sql)?;
    let (until, now) = (until.as_millis(), now.as_millis());
    let params = params![worker, until, now, rows(limit), pool];
    let claimed = statement.query_map(params, |row| row.claimed())?;
    let mut claimed = claimed.collect::<Result<Vec<_>, _>>()?;
    // Rows come back in any order.
    claimed.sort_by_key(|(place, ..)| *place);
    let with_body = |(_, lease, info): (_, _, TaskInfo)| {
        let body = body(db, info.id)?;
        Ok(Claimed { lease, body, info })
    };
    claimed.into_iter().map(with_body).collect()
}

fn body(db: &Connection, id: TaskId) -> rusqlite::Result<serde_json::Value> {
    db.prepare_cached("SELECT body FROM task_body WHERE task = ?1")?
        .query_row([id.to_string()], |row| row.json("body"))
}

pub(super) fn get(
    db: &Connection,
    id: TaskId,
    tenant: Option<&str>,
) -> Result<Option<Task>, Failure> {
    let mut statement = db.prepare_cached(statements::GET)?;
    let task = statement.query_row(params![id.to_string(), tenant], |row| row.task());
    Ok(task.optional()?)
}

pub(super) fn info(
    db: &Connection,
    id: TaskId,
    tenant: Option<&str>,
) -> Result<Option<TaskInfo>, Failure> {
    let mut statement = db.prepare_cached(statements::GET_INFO)?;
    let info = statement.query_row(params![id.to_string(), tenant], |row| row.info());
    Ok(info.optional()?)
}

pub(super) fn list(db: &Connection, filter: Filter, paging: &Paging) -> Result<Page, Failure> {
    let select = Select::tasks(filter, paging);
    let mut statement = db.prepare_cached(&select.sql)?;
    let tasks = statement.query_map(params_from_iter(select.params), |row| row.info())?;
    Ok(page(tasks.collect::<Result<_, _>>()?, paging.limit))
}

pub(super) fn counts(
    db: &Connection,
    group: &str,
    tenant: Option<&str>,
) -> Result<Counts, Failure> {
    let mut statement = db.prepare_cached(statements::COUNTS)?;
    let mut found = statement.query(params![group, tenant])?;
    let mut counts = Counts::default();
    while let Some(row) = found.next()? {
        row.add_to(&mut counts)?;
    }
    Ok(counts)
}

pub(super) fn backlog(db: &Connection, pool: &str) -> Result<Vec<Backlog>, Failure> {
    let mut statement = db.prepare_cached(statements::BACKLOG)?;
    let mut found = statement.query([pool])?;
    let mut levels = Levels::default();
    while let Some(row) = found.next()? {
        levels.add(row)?;
    }
    Ok(levels.into_list())
}
