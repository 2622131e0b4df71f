//! The queue as simply as it can be written: what the stores are compared with.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::super::policy::worker_lost;
use super::super::*;

/// A task, and what only the queue knows of it.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) task: Task,
    leases: u64,
    lease_until: Timestamp,
    retention: Duration,
}

#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) tasks: BTreeMap<TaskId, Entry>,
}

fn is_of(info: &TaskInfo, tenant: Option<&str>) -> bool {
    tenant.is_none_or(|tenant| tenant == info.tenant)
}

impl Entry {
    fn end(&mut self, status: Status, now: Timestamp) {
        let info = &mut self.task.info;
        assert!(!info.status.is_terminal(), "a task ends once");
        info.status = status;
        info.not_before = None;
        info.worker = None;
        info.finished = Some(now);
        info.purge_at = Some(now.after(self.retention));
    }

    fn put_back(&mut self) {
        self.task.info.status = Status::Queued;
        self.task.info.worker = None;
    }

    fn holds(&self, lease: Lease) -> bool {
        self.task.info.status == Status::Running && self.leases == lease.number
    }

    fn is_let_go(&self, now: Timestamp) -> bool {
        self.task.info.status == Status::Running && self.lease_until <= now
    }

    fn has_attempts_left(&self) -> bool {
        self.task.info.attempts <= self.task.info.max_retries
    }
}

impl Model {
    /// The tasks that the submitted ones are: none for those that are new.
    pub(super) fn find_repeated(&self, new: &[NewTask]) -> Result<Vec<Option<TaskId>>, TaskId> {
        let mut keys: BTreeMap<(&str, &str), (&str, &Value, TaskId)> = BTreeMap::new();
        for (id, entry) in &self.tasks {
            let Task { info, body, .. } = &entry.task;
            if let Some(key) = &info.idempotency_key {
                keys.insert((&info.tenant, key), (&info.endpoint, body, *id));
            }
        }
        let find = |new: &NewTask| {
            let key = new.idempotency_key.as_ref()?;
            let (endpoint, body, id) = keys.get(&(&*new.tenant, &**key))?;
            let is_same = *endpoint == new.endpoint && **body == new.body;
            Some(if is_same { Ok(*id) } else { Err(*id) })
        };
        new.iter().map(|new| find(new).transpose()).collect()
    }

    pub(super) fn insert(&mut self, new: &NewTask, id: TaskId, now: Timestamp) {
        let info = TaskInfo {
            id,
            tenant: new.tenant.clone(),
            endpoint: new.endpoint.clone(),
            pool: new.pool.clone(),
            priority: new.priority,
            deadline: new.deadline,
            max_retries: new.max_retries,
            idempotency_key: new.idempotency_key.clone(),
            group: new.group.clone(),
            label: new.label.clone(),
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
            payer: new.payer.clone(),
        };
        let entry = Entry {
            task: Task {
                info,
                body: new.body.clone(),
                result: None,
            },
            leases: 0,
            lease_until: now,
            retention: new.retention,
        };
        assert!(self.tasks.insert(id, entry).is_none(), "ids are new");
    }

    pub(super) fn claim(
        &mut self,
        pool: &str,
        worker: &str,
        limit: usize,
        lease: Duration,
        now: Timestamp,
    ) -> Vec<Claimed> {
        let can_start = |entry: &&mut Entry| {
            let info = &entry.task.info;
            info.status == Status::Queued
                && info.pool == pool
                && info.not_before.is_none_or(|ready| ready <= now)
                && info.deadline.is_none_or(|deadline| deadline > now)
        };
        let mut queue: Vec<_> = self.tasks.values_mut().filter(can_start).collect();
        queue.sort_by_key(|entry| {
            let info = &entry.task.info;
            let minute = info.created.as_millis() / 60_000;
            let has_no_deadline = info.deadline.is_none();
            (
                minute - i64::from(info.priority),
                has_no_deadline,
                info.deadline,
                info.id,
            )
        });
        let start = |entry: &mut Entry| {
            entry.leases += 1;
            entry.lease_until = now.after(lease);
            let info = &mut entry.task.info;
            info.status = Status::Running;
            info.attempts += 1;
            info.worker = Some(worker.to_owned());
            info.started = Some(now);
            info.not_before = None;
            Claimed {
                lease: Lease {
                    task: info.id,
                    number: entry.leases,
                },
                info: info.clone(),
                body: entry.task.body.clone(),
            }
        };
        queue.into_iter().take(limit).map(start).collect()
    }

    pub(super) fn heartbeat(
        &mut self,
        leases: &[Lease],
        lease: Duration,
        now: Timestamp,
    ) -> Vec<Pulse> {
        let one = |held: &Lease| match self.tasks.get_mut(&held.task) {
            Some(entry) if entry.holds(*held) => {
                entry.lease_until = now.after(lease);
                match entry.task.info.cancel_requested {
                    true => Pulse::CancelRequested,
                    false => Pulse::Held,
                }
            }
            _ => Pulse::Lost,
        };
        leases.iter().map(one).collect()
    }

    /// Answers `None` if there is no such task, and its status in the error if the lease is lost.
    pub(super) fn finish(
        &mut self,
        lease: Lease,
        report: Report,
        now: Timestamp,
    ) -> Option<Result<Status, Status>> {
        let entry = self.tasks.get_mut(&lease.task)?;
        if !entry.holds(lease) {
            return Some(Err(entry.task.info.status));
        }
        match &report {
            Report::Completed(result) => {
                entry.task.result = Some(result.clone());
                entry.task.info.error = None;
            }
            Report::Failed(error) | Report::Retry(error) => {
                entry.task.info.error = Some(error.clone());
            }
            Report::Released => entry.task.info.attempts -= 1,
            Report::Cancelled => {}
        }
        let is_over = entry.task.info.cancel_requested;
        match report {
            Report::Completed(_) => entry.end(Status::Completed, now),
            Report::Cancelled => entry.end(Status::Cancelled, now),
            _ if is_over => entry.end(Status::Cancelled, now),
            Report::Failed(_) => entry.end(Status::Failed, now),
            Report::Retry(_) if !entry.has_attempts_left() => entry.end(Status::Failed, now),
            Report::Retry(_) => {
                let wait = Backoff::default().delay(lease.task, entry.task.info.attempts);
                entry.put_back();
                entry.task.info.not_before = Some(now.after(wait));
            }
            Report::Released => entry.put_back(),
        }
        Some(Ok(entry.task.info.status))
    }

    pub(super) fn cancel(
        &mut self,
        id: TaskId,
        tenant: Option<&str>,
        now: Timestamp,
    ) -> Option<Cancellation> {
        let entry = self
            .tasks
            .get_mut(&id)
            .filter(|entry| is_of(&entry.task.info, tenant))?;
        Some(match entry.task.info.status {
            Status::Queued => {
                entry.end(Status::Cancelled, now);
                Cancellation::Cancelled
            }
            Status::Running => {
                entry.task.info.cancel_requested = true;
                Cancellation::Requested
            }
            ended => Cancellation::TooLate(ended),
        })
    }

    pub(super) fn cancel_group(
        &mut self,
        group: &str,
        tenant: Option<&str>,
        now: Timestamp,
    ) -> u64 {
        let is_in =
            |info: &TaskInfo| info.group.as_deref() == Some(group) && !info.status.is_terminal();
        let ids: Vec<_> = self
            .tasks
            .values()
            .map(|entry| &entry.task.info)
            .filter(|i| is_in(i) && is_of(i, tenant))
            .map(|i| i.id)
            .collect();
        for &id in &ids {
            self.cancel(id, tenant, now);
        }
        ids.len() as u64
    }

    pub(super) fn reap(&mut self, lapsed: Timestamp, now: Timestamp) -> Reaped {
        let mut reaped = Reaped::default();
        for entry in self
            .tasks
            .values_mut()
            .filter(|entry| !entry.task.info.status.is_terminal())
        {
            let is_let_go = entry.is_let_go(lapsed);
            if is_let_go && entry.task.info.cancel_requested {
                entry.end(Status::Cancelled, now);
                reaped.cancelled += 1;
            } else if entry
                .task
                .info
                .deadline
                .is_some_and(|deadline| deadline <= now)
            {
                entry.end(Status::Expired, now);
                reaped.expired += 1;
            } else if is_let_go {
                entry.task.info.error = Some(worker_lost());
                match entry.has_attempts_left() {
                    true => {
                        entry.put_back();
                        reaped.requeued += 1;
                    }
                    false => {
                        entry.end(Status::Failed, now);
                        reaped.failed += 1;
                    }
                }
            }
        }
        reaped
    }

    pub(super) fn get(&self, id: TaskId, tenant: Option<&str>) -> Option<Task> {
        let task = &self.tasks.get(&id)?.task;
        is_of(&task.info, tenant).then(|| task.clone())
    }

    pub(super) fn list(&self, filter: &Filter, paging: Paging) -> Page {
        let is_like = |wanted: &Option<String>, found: Option<&String>| {
            wanted.is_none() || wanted.as_ref() == found
        };
        let mut all: Vec<_> = self.tasks.values().map(|entry| &entry.task.info).collect();
        if !paging.oldest_first {
            all.reverse();
        }
        let is_wanted = |info: &&TaskInfo| {
            is_like(&filter.tenant, Some(&info.tenant))
                && is_like(&filter.group, info.group.as_ref())
                && is_like(&filter.endpoint, Some(&info.endpoint))
                && (filter.status.is_empty() || filter.status.contains(&info.status))
                && paging.after.is_none_or(|after| match paging.oldest_first {
                    true => info.id > after,
                    false => info.id < after,
                })
        };
        let mut tasks: Vec<_> = all.into_iter().filter(is_wanted).cloned().collect();
        let has_more = tasks.len() > paging.limit;
        tasks.truncate(paging.limit);
        Page {
            items: tasks,
            has_more,
        }
    }

    pub(super) fn counts(&self, group: &str, tenant: Option<&str>) -> Counts {
        let mut counts = Counts::default();
        for Entry { task, .. } in self.tasks.values() {
            if task.info.group.as_deref() == Some(group) && is_of(&task.info, tenant) {
                *counts.of(task.info.status) += 1;
            }
        }
        counts
    }

    pub(super) fn backlog(&self, pool: &str) -> Vec<Backlog> {
        let mut levels: BTreeMap<i32, Backlog> = BTreeMap::new();
        for Entry { task, .. } in self.tasks.values() {
            let info = &task.info;
            if info.status.is_terminal() || info.pool != pool {
                continue;
            }
            let level = levels.entry(-info.priority).or_insert(Backlog {
                priority: info.priority,
                queued: 0,
                running: 0,
                oldest_queued: None,
            });
            if info.status == Status::Running {
                level.running += 1;
                continue;
            }
            level.queued += 1;
            let oldest = level.oldest_queued.unwrap_or(info.created);
            level.oldest_queued = Some(oldest.min(info.created));
        }
        levels.into_values().collect()
    }

    pub(super) fn remove(&mut self, id: TaskId, tenant: Option<&str>) -> bool {
        let has_ended = |task: Task| task.info.status.is_terminal();
        let is_removed = self.get(id, tenant).is_some_and(has_ended);
        is_removed && self.tasks.remove(&id).is_some()
    }

    /// The tasks that may be deleted.
    pub(super) fn purgeable(&self, now: Timestamp) -> Vec<TaskId> {
        let is_over = |entry: &&Entry| entry.task.info.purge_at.is_some_and(|at| at <= now);
        self.tasks
            .values()
            .filter(is_over)
            .map(|entry| entry.task.info.id)
            .collect()
    }
}
