//! Rows to values, whatever database they come from.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde_json::Value;

use super::policy::{Attempt, Held, NEVER};
use super::{Backlog, Counts, Lease, Record, Status, Task, TaskId, TaskInfo, Timestamp};

/// What a database holds that this program would not have written.
#[derive(Debug, thiserror::Error)]
#[error("`{column}` {problem}")]
pub(super) struct Damaged {
    column: String,
    problem: String,
}

/// Where a task stands in the queue: its level, its deadline and its id.
pub(super) type Place = (i64, i64, TaskId);

/// A row. Columns are called by their names.
pub(super) trait Row {
    type Error: From<Damaged>;

    fn integer(&self, column: &str) -> Result<Option<i64>, Self::Error>;
    fn optional_text(&self, column: &str) -> Result<Option<String>, Self::Error>;
    fn flag(&self, column: &str) -> Result<bool, Self::Error>;

    fn text(&self, column: &str) -> Result<String, Self::Error> {
        let text = self.optional_text(column)?;
        text.ok_or_else(|| damaged(column, "is missing"))
    }

    fn number<T: TryFrom<i64>>(&self, column: &str) -> Result<T, Self::Error> {
        let number = self.integer(column)?;
        let number = number.ok_or_else(|| damaged(column, "is missing"))?;
        T::try_from(number).map_err(|_| damaged(column, format!("is {number}")))
    }

    fn time(&self, column: &str) -> Result<Option<Timestamp>, Self::Error> {
        Ok(self.integer(column)?.map(Timestamp::from_millis))
    }

    fn id(&self, column: &str) -> Result<TaskId, Self::Error> {
        let id = self.text(column)?.parse();
        id.map_err(|error| damaged(column, format!("is none: {error}")))
    }

    fn status(&self) -> Result<Status, Self::Error> {
        let text = self.text("status")?;
        let status = Status::ALL.into_iter().find(|s| s.as_str() == text);
        status.ok_or_else(|| damaged("status", format!("is `{text}`")))
    }

    fn json(&self, column: &str) -> Result<Value, Self::Error> {
        let value = self.optional_json(column)?;
        value.ok_or_else(|| damaged(column, "is missing"))
    }

    fn optional_json(&self, column: &str) -> Result<Option<Value>, Self::Error> {
        let text = self.optional_text(column)?;
        let value = text.map(|text| serde_json::from_str(&text)).transpose();
        value.map_err(|error| damaged(column, format!("is no JSON: {error}")))
    }

    /// Of the columns `INFO`.
    fn info(&self) -> Result<TaskInfo, Self::Error> {
        let due: i64 = self.number("due")?;
        let not_before: i64 = self.number("not_before")?;
        Ok(TaskInfo {
            id: self.id("id")?,
            tenant: self.text("tenant")?,
            endpoint: self.text("endpoint")?,
            pool: self.text("pool")?,
            priority: self.number("priority")?,
            deadline: (due != NEVER).then(|| Timestamp::from_millis(due)),
            max_retries: self.number("max_retries")?,
            idempotency_key: self.optional_text("idempotency_key")?,
            group: self.optional_text("task_group")?,
            label: self.optional_text("label")?,
            status: self.status()?,
            attempts: self.number("attempts")?,
            cancel_requested: self.flag("cancel_requested")?,
            error: self.optional_json("error")?,
            worker: self.optional_text("worker")?,
            created: Timestamp::from_millis(self.number("created")?),
            not_before: (not_before != 0).then(|| Timestamp::from_millis(not_before)),
            started: self.time("started")?,
            finished: self.time("finished")?,
            purge_at: self.time("purge_at")?,
            payer: self.optional_text("payer")?,
        })
    }

    fn task(&self) -> Result<Task, Self::Error> {
        Ok(Task {
            info: self.info()?,
            body: self.json("body")?,
            result: self.optional_json("result")?,
        })
    }

    /// A task that was just claimed, without its body.
    fn claimed(&self) -> Result<(Place, Lease, TaskInfo), Self::Error> {
        let info = self.info()?;
        let lease = Lease {
            task: info.id,
            number: self.number("lease")?,
        };
        let place = (self.number("level")?, self.number("due")?, info.id);
        Ok((place, lease, info))
    }

    /// What a report on this task depends on.
    fn held(&self, task: TaskId) -> Result<Held, Self::Error> {
        Ok(Held {
            status: self.status()?,
            lease: self.number("lease")?,
            attempt: Attempt {
                task,
                attempts: self.number("attempts")?,
                max_retries: self.number("max_retries")?,
                cancel_requested: self.flag("cancel_requested")?,
            },
        })
    }

    fn record(&self) -> Result<Record, Self::Error> {
        Ok(Record {
            kind: self.text("kind")?,
            id: self.text("id")?,
            tenant: self.text("tenant")?,
            value: self.json("value")?,
            version: self.number("version")?,
            created: Timestamp::from_millis(self.number("created")?),
            expires: self.time("expires")?,
        })
    }

    /// Adds how many tasks have a status.
    fn add_to(&self, counts: &mut Counts) -> Result<(), Self::Error> {
        *counts.of(self.status()?) = self.number("count")?;
        Ok(())
    }
}

/// That a column holds what it cannot.
pub(super) fn damaged<E: From<Damaged>>(column: &str, problem: impl Into<String>) -> E {
    E::from(Damaged {
        column: column.to_owned(),
        problem: problem.into(),
    })
}

/// What waits and runs, by priority, the highest first.
#[derive(Debug, Default)]
pub(super) struct Levels(BTreeMap<Reverse<i32>, Backlog>);

impl Levels {
    /// Adds how many tasks of a priority have a status.
    pub(super) fn add<R: Row>(&mut self, row: &R) -> Result<(), R::Error> {
        let priority = row.number("priority")?;
        let level = self.0.entry(Reverse(priority)).or_insert(Backlog {
            priority,
            queued: 0,
            running: 0,
            oldest_queued: None,
        });
        let count = row.number("count")?;
        match row.status()? {
            Status::Queued => {
                level.queued = count;
                level.oldest_queued = row.time("oldest")?;
            }
            _ => level.running = count,
        }
        Ok(())
    }

    pub(super) fn into_list(self) -> Vec<Backlog> {
        self.0.into_values().collect()
    }
}
