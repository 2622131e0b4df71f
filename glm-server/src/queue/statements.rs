//! What is said to every database, written once: SQLite takes it as it is, PostgreSQL with `$1` for `?1`.
//!
//! Stores add what differs: how many tasks go in with one statement, and that PostgreSQL locks what it is about to change. Where
//! a statement needs that, only its parts are here.

use super::policy::direction;
use super::{Filter, Paging};

/// The columns that `Row::info` reads.
macro_rules! info {
    () => {
        "task.id AS id, tenant, endpoint, pool, idempotency_key, task_group, label, priority, due, max_retries, status, \
         attempts, not_before, cancel_requested, error, worker, created, started, finished, purge_at, payer"
    };
}

/// The columns that `Row::record` reads.
macro_rules! record {
    () => {
        "kind, id, tenant, value, version, created, expires"
    };
}

/// Whose task or record it must be, if anybody's in particular; the type is for PostgreSQL, which cannot tell it from a NULL.
macro_rules! of_tenant {
    ($parameter:literal) => {
        concat!(
            "(CAST(",
            $parameter,
            " AS text) IS NULL OR tenant = ",
            $parameter,
            ")"
        )
    };
}

/// Which task has this key.
pub(super) const REPEATED: &str = concat!(
    "SELECT ",
    info!(),
    ", body FROM task JOIN task_body ON task_body.task = task.id WHERE tenant = ?1 AND idempotency_key = ?2"
);

/// A task with all there is to it.
pub(super) const GET: &str = concat!(
    "SELECT ",
    info!(),
    ", body, result
     FROM task JOIN task_body ON task_body.task = task.id LEFT JOIN task_result ON task_result.task = task.id
     WHERE id = ?1 AND ",
    of_tenant!("?2")
);

pub(super) const GET_INFO: &str = concat!(
    "SELECT ",
    info!(),
    " FROM task WHERE id = ?1 AND ",
    of_tenant!("?2")
);

pub(super) const COUNTS: &str = concat!(
    "SELECT status, count(*) AS count FROM task WHERE task_group = ?1 AND ",
    of_tenant!("?2"),
    " GROUP BY status"
);

pub(super) const BACKLOG: &str =
    "SELECT priority, status, count(*) AS count, min(created) AS oldest FROM task
     WHERE status IN ('queued', 'running') AND pool = ?1 GROUP BY priority, status";

/// The tasks to claim from pool ?5 at the time ?3, up to ?4. It goes along the index task_queue from its start, and passes over
/// what waits for another attempt.
pub(super) const NEXT: &str =
    "SELECT id FROM task WHERE status = 'queued' AND pool = ?5 AND not_before <= ?3 AND due > ?3
     ORDER BY level, due, id LIMIT ?4";

/// What claiming does to a task, for worker ?1 until ?2.
pub(super) const START: &str = "status = 'running', attempts = attempts + 1, not_before = 0, worker = ?1, lease = lease + 1, lease_until = ?2, started = ?3";

/// What `Row::claimed` reads.
pub(super) const CLAIMED: &str = concat!(info!(), ", level, lease");

/// What `Row::held` reads.
pub(super) const HELD: &str =
    "SELECT status, lease, attempts, max_retries, cancel_requested FROM task WHERE id = ?1";

/// What comes of an attempt.
pub(super) const FINISH: &str =
    "UPDATE task
     SET status = ?2, attempts = ?3, not_before = ?4, finished = ?5, purge_at = ?5 + retention, worker = NULL, lease_until = NULL,
         error = CASE WHEN ?2 = 'completed' THEN NULL ELSE COALESCE(?6, error) END
     WHERE id = ?1";

pub(super) const ADD_RESULT: &str = "INSERT INTO task_result (task, result) VALUES (?1, ?2)";

pub(super) const STATUS: &str = concat!(
    "SELECT status FROM task WHERE id = ?1 AND ",
    of_tenant!("?2")
);

pub(super) const CANCEL_QUEUED: &str =
    "UPDATE task SET status = 'cancelled', not_before = 0, finished = ?2, purge_at = ?2 + retention
     WHERE id = ?1 AND status = 'queued'";

pub(super) const CANCEL_RUNNING: &str =
    "UPDATE task SET cancel_requested = true WHERE id = ?1 AND status = 'running'";

/// Only what has ended.
pub(super) const REMOVE: &str = concat!(
    "DELETE FROM task WHERE id = ?1 AND finished IS NOT NULL AND ",
    of_tenant!("?2")
);

/// A change of all tasks that meet a condition.
#[derive(Debug, Clone, Copy)]
pub(super) struct Change {
    pub(super) condition: &'static str,
    pub(super) set: &'static str,
}

/// Of group ?1, at the time ?3.
pub(super) const CANCEL_GROUP: Change = Change {
    condition: concat!(
        "task_group = ?1 AND ",
        of_tenant!("?2"),
        " AND status IN ('queued', 'running')"
    ),
    set: "cancel_requested = (status = 'running'),
          finished = CASE WHEN status = 'queued' THEN CAST(?3 AS bigint) END,
          purge_at = CASE WHEN status = 'queued' THEN CAST(?3 AS bigint) + retention END,
          not_before = 0,
          status = CASE WHEN status = 'queued' THEN 'cancelled' ELSE status END",
};

/// A running task that nobody had a lease for at the time ?2.
macro_rules! let_go {
    () => {
        "status = 'running' AND lease_until <= ?2"
    };
}

/// An end at the time ?1.
macro_rules! end {
    ($status:literal) => {
        concat!(
            "status = '",
            $status,
            "', not_before = 0, finished = ?1, purge_at = ?1 + retention, worker = NULL, lease_until = NULL"
        )
    };
}

/// Of what was let go, what was to end anyway.
pub(super) const REAP_CANCELLED: Change = Change {
    condition: concat!(let_go!(), " AND cancel_requested"),
    set: end!("cancelled"),
};

pub(super) const REAP_EXPIRED: Change = Change {
    condition: "status IN ('queued', 'running') AND due <= ?1",
    set: end!("expired"),
};

/// Of what was let go, what has had all its attempts: ?3 is its error.
pub(super) const REAP_FAILED: Change = Change {
    condition: concat!(let_go!(), " AND attempts > max_retries"),
    set: concat!(end!("failed"), ", error = ?3"),
};

/// All else that was let go: ?1 is its error.
pub(super) const REAP_REQUEUED: Change = Change {
    condition: let_go!(),
    set: "status = 'queued', worker = NULL, lease_until = NULL, error = ?1",
};

/// Which tasks are to be deleted at the time ?1, up to ?2.
pub(super) const OLD_TASKS: &str =
    "SELECT id FROM task WHERE purge_at <= ?1 ORDER BY purge_at LIMIT ?2";

/// Which records are.
pub(super) const OLD_RECORDS: &str =
    "SELECT kind, id FROM record WHERE expires <= ?1 ORDER BY expires LIMIT ?2";

pub(super) const NEW_RECORD: &str =
    "INSERT INTO record (kind, id, tenant, value, version, created, expires) VALUES (?1, ?2, ?3, ?4, 1, ?6, ?5)
     ON CONFLICT (kind, id) DO NOTHING";

/// A record that has version ?6.
pub(super) const CHANGE_RECORD: &str =
    "UPDATE record SET value = ?4, version = version + 1, expires = ?5
     WHERE kind = ?1 AND id = ?2 AND tenant = ?3 AND version = ?6";

pub(super) const RECORD_VERSION: &str =
    "SELECT version FROM record WHERE kind = ?1 AND id = ?2 AND tenant = ?3";

pub(super) const GET_RECORD: &str = concat!(
    "SELECT ",
    record!(),
    " FROM record WHERE kind = ?1 AND id = ?2 AND ",
    of_tenant!("?3")
);

pub(super) const REMOVE_RECORD: &str = concat!(
    "DELETE FROM record WHERE kind = ?1 AND id = ?2 AND ",
    of_tenant!("?3")
);

/// A value that a statement is given.
#[derive(Debug, Clone)]
pub(super) enum Param {
    Text(String),
    Integer(i64),
}

/// A part of a list, with the values that its statement is given. It has the conditions that are asked for and no others, so the
/// database can choose the index that fits.
#[derive(Debug, Clone)]
pub(super) struct Select {
    pub(super) sql: String,
    pub(super) params: Vec<Param>,
}

impl Select {
    fn new(columns: &str, table: &str) -> Self {
        Self {
            sql: format!("SELECT {columns} FROM {table} WHERE true"),
            params: Vec::new(),
        }
    }

    /// The name of a value.
    fn param(&mut self, param: Param) -> String {
        self.params.push(param);
        format!("?{}", self.params.len())
    }

    fn equal(&mut self, column: &str, value: Option<String>) {
        if let Some(value) = value {
            let value = self.param(Param::Text(value));
            self.sql += &format!(" AND {column} = {value}");
        }
    }

    fn page<K: ToString>(mut self, paging: &Paging<K>) -> Self {
        let (beyond, direction) = direction(paging);
        if let Some(after) = &paging.after {
            let after = self.param(Param::Text(after.to_string()));
            self.sql += &format!(" AND id {beyond} {after}");
        }
        // The one beyond the limit says whether there are more.
        let limit = self.param(Param::Integer(rows(paging.limit).saturating_add(1)));
        self.sql += &format!(" ORDER BY id {direction} LIMIT {limit}");
        self
    }

    /// A part of the list of tasks.
    pub(super) fn tasks(filter: Filter, paging: &Paging) -> Self {
        let mut select = Self::new(info!(), "task");
        select.equal("tenant", filter.tenant);
        select.equal("task_group", filter.group);
        select.equal("endpoint", filter.endpoint);
        if !filter.status.is_empty() {
            let texts = filter.status.iter().map(|s| Param::Text(s.as_str().into()));
            let marks: Vec<_> = texts.map(|text| select.param(text)).collect();
            select.sql += &format!(" AND status IN ({})", marks.join(", "));
        }
        select.page(paging)
    }

    /// A part of the list of records.
    pub(super) fn records(kind: String, tenant: Option<String>, paging: &Paging<String>) -> Self {
        let mut select = Self::new(record!(), "record");
        select.equal("kind", Some(kind));
        select.equal("tenant", tenant);
        select.page(paging)
    }
}

/// A number of rows, as databases hold it.
pub(super) fn rows(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
