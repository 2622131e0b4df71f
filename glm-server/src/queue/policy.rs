//! What every store decides alike, whatever database it is written in: order, limits, back-off, and what follows a report.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use glm_runtime::MAX_PRIORITY;
use serde_json::{Value, json};
use uuid::Uuid;

use super::task::millis;
use super::{
    Lease, NewRecord, NewTask, Page, Paging, Pulse, Report, Status, StoreError, Submitted, TaskId,
    TaskInfo, Timestamp,
};

/// How long a task waits before it comes before later ones of one level of priority more.
pub const AGING: Duration = Duration::from_mins(1);

/// The longest part of a list.
pub const MAX_PAGE: usize = 1000;

/// How much a store takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Size of a body, or the value of a record, as JSON, in bytes; default 32 MiB.
    pub max_body_bytes: usize,
    /// Size of a result as JSON, in bytes; default 32 MiB.
    pub max_result_bytes: usize,
    /// Size of an error as JSON, in bytes; default 64 KiB.
    pub max_error_bytes: usize,
    /// Size of names, in bytes: tenant, endpoint, pool, idempotency key, group, label, worker, kind and id of a record; default 512.
    pub max_name_bytes: usize,
    /// Tasks that are submitted at once; default 50,000.
    pub max_tasks: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_body_bytes: 32 << 20,
            max_result_bytes: 32 << 20,
            max_error_bytes: 64 << 10,
            max_name_bytes: 512,
            max_tasks: 50_000,
        }
    }
}

impl Limits {
    pub(super) fn name(&self, field: &'static str, name: &str) -> Result<(), StoreError> {
        // A database need not be able to hold them (PostgreSQL has no NUL in text), and logs are the better without.
        if name.chars().any(char::is_control) {
            return Err(StoreError::ControlCharacters { field });
        }
        at_most(field, name.len(), self.max_name_bytes)
    }

    /// Checks tasks, gives them ids and writes their bodies as JSON.
    pub(super) fn prepare(
        &self,
        tasks: Vec<NewTask>,
        ids: &IdSource,
        now: Timestamp,
    ) -> Result<Vec<Prepared>, StoreError> {
        in_range("tasks", tasks.len(), 0, self.max_tasks)?;
        tasks
            .into_iter()
            .map(|task| self.prepare_one(task, ids, now))
            .collect()
    }

    pub(super) fn prepare_one(
        &self,
        task: NewTask,
        ids: &IdSource,
        now: Timestamp,
    ) -> Result<Prepared, StoreError> {
        self.check(&task)?;
        let body = task.body.to_string();
        at_most("body", body.len(), self.max_body_bytes)?;
        Ok(Prepared::new(task, body, ids.next(now), now))
    }

    fn check(&self, task: &NewTask) -> Result<(), StoreError> {
        self.name("tenant", &task.tenant)?;
        self.name("endpoint", &task.endpoint)?;
        self.name("pool", &task.pool)?;
        let optional = [
            ("idempotency_key", &task.idempotency_key),
            ("group", &task.group),
            ("label", &task.label),
            ("payer", &task.payer),
        ];
        for (field, name) in optional {
            name.as_ref()
                .map_or(Ok(()), |name| self.name(field, name))?;
        }
        in_range("priority", task.priority, -MAX_PRIORITY, MAX_PRIORITY)
    }

    /// Checks a record, and writes its value as JSON.
    pub(super) fn record(&self, record: &NewRecord) -> Result<String, StoreError> {
        self.name("kind", &record.kind)?;
        self.name("id", &record.id)?;
        self.name("tenant", &record.tenant)?;
        let value = record.value.to_string();
        at_most("value", value.len(), self.max_body_bytes)?;
        Ok(value)
    }

    /// A report with its JSON written out.
    pub(super) fn report(&self, report: Report) -> Result<WrittenReport, StoreError> {
        let error = |error: Value| {
            let error = error.to_string();
            at_most("error", error.len(), self.max_error_bytes)?;
            Ok(error)
        };
        Ok(match report {
            Report::Completed(result) => {
                let result = result.to_string();
                at_most("result", result.len(), self.max_result_bytes)?;
                WrittenReport::Completed(result)
            }
            Report::Failed(value) => WrittenReport::Failed(error(value)?),
            Report::Retry(value) => WrittenReport::Retry(error(value)?),
            Report::Cancelled => WrittenReport::Cancelled,
            Report::Released => WrittenReport::Released,
        })
    }
}

impl<K> Paging<K> {
    pub(super) fn check(&self) -> Result<(), StoreError> {
        in_range("limit", self.limit, 1, MAX_PAGE)
    }
}

/// A deadline that never comes, as databases hold it.
pub(super) const NEVER: i64 = i64::MAX;

/// What compares ids with the last of the page before, and the order, of a list.
pub(super) fn direction<K>(paging: &Paging<K>) -> (&'static str, &'static str) {
    match paging.oldest_first {
        true => (">", "ASC"),
        false => ("<", "DESC"),
    }
}

/// What was found for a page, and one more if there is more.
pub(super) fn page<T>(mut items: Vec<T>, limit: usize) -> Page<T> {
    let has_more = items.len() > limit;
    items.truncate(limit);
    Page { items, has_more }
}

fn at_most(field: &'static str, found: usize, max: usize) -> Result<(), StoreError> {
    match found <= max {
        true => Ok(()),
        false => Err(StoreError::TooLarge { field, found, max }),
    }
}

fn in_range<T: TryInto<i64>>(
    field: &'static str,
    found: T,
    min: T,
    max: T,
) -> Result<(), StoreError> {
    let [found, min, max] = [found, min, max].map(|n| n.try_into().unwrap_or(i64::MAX));
    match (min..=max).contains(&found) {
        true => Ok(()),
        false => Err(StoreError::OutOfRange {
            field,
            found,
            min,
            max,
        }),
    }
}

/// A task that is ready to be written down.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) info: TaskInfo,
    pub(super) body: Value,
    /// `body` as JSON.
    pub(super) text: String,
    pub(super) level: i64,
    pub(super) retention: i64,
}

impl Prepared {
    fn new(task: NewTask, text: String, id: TaskId, now: Timestamp) -> Self {
        Self {
            level: level(task.priority, now),
            retention: millis(task.retention),
            body: task.body,
            text,
            info: TaskInfo {
                id,
                tenant: task.tenant,
                endpoint: task.endpoint,
                pool: task.pool,
                priority: task.priority,
                deadline: task.deadline,
                max_retries: task.max_retries,
                idempotency_key: task.idempotency_key,
                group: task.group,
                label: task.label,
                status: Status::Queued,
                attempts: 0,
                cancel_requested: false,
                error: None,
                worker: None,
                created: now,
                not_before: None,
                started: None,
                finished: None,
                purge_at: None,
                payer: task.payer,
            },
        }
    }
}

impl Prepared {
    /// The answer to a task whose idempotency key belongs to this one.
    pub(super) fn repeated(
        &self,
        existing: TaskInfo,
        body: &Value,
    ) -> Result<Submitted, StoreError> {
        match existing.endpoint == self.info.endpoint && *body == self.body {
            true => Ok(Submitted {
                task: existing,
                is_repeated: true,
            }),
            false => Err(StoreError::Conflict {
                key: self.info.idempotency_key.clone().unwrap_or_default(),
                existing: existing.id,
            }),
        }
    }
}

/// The refusal of a record that has version `found`.
pub(super) fn changed(record: &NewRecord, expected: u64, found: Option<u64>) -> StoreError {
    StoreError::Changed {
        found: found.unwrap_or(0),
        kind: record.kind.clone(),
        id: record.id.clone(),
        expected,
    }
}

/// Where a task stands in the queue: lower comes first.
///
/// Time is cut into periods of [`AGING`], and a level of priority is worth one period of waiting. All tasks age alike, so the
/// level never changes, an index can hold it, and nobody starves: what is submitted more periods later than priorities can
/// make up for comes after. Among tasks of the same level, which were submitted in the same period if they have the same
/// priority, the earlier deadline comes first, and then the older task.
pub(super) fn level(priority: i32, created: Timestamp) -> i64 {
    created.as_millis() / millis(AGING) - i64::from(priority)
}

/// How long a task waits after an attempt that failed: twice as long each time, and a part of it by chance, so that what
/// failed together does not come back together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The longest wait after the first attempt; default 1 s.
    pub first: Duration,
    /// The longest wait at all; default 5 min.
    pub longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            longest: Duration::from_mins(5),
        }
    }
}

impl Backoff {
    /// The wait after attempt number `attempt`, from 1: between one and two halves of `first · 2^(attempt - 1)`, which itself
    /// is at most `longest`. The part by chance follows from the id, so that a test can know it.
    pub fn delay(&self, task: TaskId, attempt: u32) -> Duration {
        let doublings = attempt.saturating_sub(1).min(62);
        let whole = millis(self.first)
            .saturating_mul(1 << doublings)
            .min(millis(self.longest));
        let half = whole.unsigned_abs() / 2;
        let chance = mix(task.0.as_u128() as u64 ^ u64::from(attempt)) % (half + 1);
        Duration::from_millis(whole.unsigned_abs() - half + chance)
    }
}

/// SplitMix64's finaliser (Steele, Lea & Flood 2014): neighbouring inputs give unrelated outputs.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A [`Report`] with its JSON written out.
#[derive(Debug, Clone)]
pub(super) enum WrittenReport {
    Completed(String),
    Failed(String),
    Retry(String),
    Cancelled,
    Released,
}

/// What a report depends on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempt {
    pub(super) task: TaskId,
    /// This one included.
    pub(super) attempts: u32,
    pub(super) max_retries: u32,
    pub(super) cancel_requested: bool,
}

/// What a task becomes.
#[derive(Debug)]
pub(super) struct Next {
    pub(super) status: Status,
    pub(super) attempts: u32,
    pub(super) not_before: Option<Timestamp>,
    pub(super) result: Option<String>,
    /// If there is none, that of the attempt before stays.
    pub(super) error: Option<String>,
}

/// A task that somebody reports on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    pub(super) status: Status,
    /// The number of the lease that counts.
    pub(super) lease: i64,
    pub(super) attempt: Attempt,
}

impl Held {
    /// The attempt, if the lease is the one that counts.
    pub(super) fn by(self, lease: &Lease) -> Result<Attempt, StoreError> {
        match self.status == Status::Running && self.lease == number(lease) {
            true => Ok(self.attempt),
            false => Err(StoreError::LeaseLost {
                task: lease.task,
                status: self.status,
            }),
        }
    }
}

/// The number of a lease as databases hold it; one that they cannot hold is nobody's.
pub(super) fn number(lease: &Lease) -> i64 {
    i64::try_from(lease.number).unwrap_or(-1)
}

/// What a worker hears of a lease, if it still counts: then whether the end of the task was asked for.
pub(super) fn pulse(cancel_requested: Option<bool>) -> Pulse {
    match cancel_requested {
        None => Pulse::Lost,
        Some(false) => Pulse::Held,
        Some(true) => Pulse::CancelRequested,
    }
}

impl Attempt {
    /// What follows a report. A result counts even if the end of the task was asked for in the meantime; nothing else is tried
    /// again then.
    pub(super) fn next(self, report: WrittenReport, backoff: &Backoff, now: Timestamp) -> Next {
        let mut next = Next {
            status: Status::Queued,
            attempts: self.attempts,
            not_before: None,
            result: None,
            error: None,
        };
        next.status = match report {
            WrittenReport::Completed(result) => {
                next.result = Some(result);
                return Next {
                    status: Status::Completed,
                    ..next
                };
            }
            WrittenReport::Failed(error) => {
                next.error = Some(error);
                Status::Failed
            }
            WrittenReport::Retry(error) => {
                next.error = Some(error);
                match self.attempts > self.max_retries {
                    true => Status::Failed,
                    false => {
                        let delay = backoff.delay(self.task, self.attempts);
                        next.not_before = Some(now.after(delay));
                        Status::Queued
                    }
                }
            }
            WrittenReport::Cancelled => Status::Cancelled,
            WrittenReport::Released => {
                next.attempts = self.attempts.saturating_sub(1);
                Status::Queued
            }
        };
        if self.cancel_requested {
            next.status = Status::Cancelled;
            next.not_before = None;
        }
        next
    }
}

/// The error of a task whose worker let its lease run out.
pub(super) fn worker_lost() -> Value {
    json!({
        "message": "the worker ended, or lost touch, before it had a result",
        "type": "server_error",
        "param": null,
        "code": "worker_lost",
    })
}

/// Makes ids: those of one source rise as long as its clock does not go back.
#[derive(Debug, Default)]
pub(super) struct IdSource(Mutex<Option<(i64, Uuid)>>);

impl IdSource {
    /// The last 62 bits of a UUID: chance, and for several ids of one millisecond a count.
    const TAIL: u128 = (1 << 62) - 1;

    pub(super) fn next(&self, now: Timestamp) -> TaskId {
        let millis = now.as_millis();
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let id = match *last {
            Some((at, id)) if at == millis && id.as_u128() & Self::TAIL != Self::TAIL => {
                Uuid::from_u128(id.as_u128() + 1)
            }
            _ => {
                let (seconds, nanos) = (millis / 1000, millis % 1000 * 1_000_000);
                let at = uuid::Timestamp::from_unix_time(seconds as u64, nanos as u32, 0, 0);
                Uuid::new_v7(at)
            }
        };
        *last = Some((millis, id));
        TaskId(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_of_priority_is_worth_one_period_of_waiting() {
        let at = |minutes: i64| Timestamp::from_millis(minutes * millis(AGING));
        assert_eq!(level(0, at(3)), level(1, at(4)));
        assert!(level(1, at(3)) < level(0, at(3)));
        assert!(level(0, at(3)) < level(1, at(5)));
    }

    #[test]
    fn waits_double_up_to_the_longest_and_spread() {
        let backoff = Backoff::default();
        let ids = IdSource::default();
        let tasks: Vec<_> = (0..100)
            .map(|at| ids.next(Timestamp::from_millis(at)))
            .collect();
        for attempt in 1..100 {
            let whole = Duration::from_secs(1 << (attempt - 1).min(40)).min(backoff.longest);
            let mut waits: Vec<_> = tasks.iter().map(|&id| backoff.delay(id, attempt)).collect();
            assert!(waits.iter().all(|&wait| wait >= whole / 2 && wait <= whole));
            waits.sort();
            waits.dedup();
            assert!(waits.len() > 50, "{waits:?}");
        }
        let none = Backoff {
            first: Duration::ZERO,
            longest: Duration::MAX,
        };
        assert_eq!(none.delay(tasks[0], 7), Duration::ZERO);
    }

    #[test]
    fn ids_rise() {
        let ids = IdSource::default();
        let times = [0, 1, 1, 1, 2, 1 << 40, 1 << 40];
        let made: Vec<_> = times
            .iter()
            .map(|&at| ids.next(Timestamp::from_millis(at)))
            .collect();
        assert!(made.is_sorted_by(|a, b| a < b), "{made:?}");
        assert!(made.iter().all(|id| id.0.get_version_num() == 7));
        assert_eq!(made[0].to_string().parse(), Ok(made[0]));
    }
}
