//! Any operations in any order, by any workers, with a clock that jumps: every store answers as the model does.
//!
//! Workers report with any lease that was ever given out, so there are ones that died, ones that come back late, and ones that
//! report twice.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::json;

use super::super::*;
use super::model::Model;
use super::{cases, postgres, sqlite, wait};

#[derive(Debug, Clone)]
enum Op {
    Submit(Vec<NewTask>),
    Claim {
        pool: &'static str,
        worker: u8,
        limit: usize,
        lease: Duration,
    },
    Heartbeat {
        leases: Vec<Index>,
        lease: Duration,
    },
    Finish(Index, Report),
    Cancel(Index, Option<&'static str>),
    CancelGroup(&'static str, Option<&'static str>),
    /// Leases as of so many milliseconds ago.
    Reap(i64),
    Get(Index, Option<&'static str>),
    List(Filter, Paging, Option<Index>),
    Counts(&'static str, Option<&'static str>),
    Backlog(&'static str),
    Purge(usize),
    Remove(Index, Option<&'static str>),
    /// In milliseconds.
    Clock(i64),
}

fn tenant() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("a"), Just("b")]
}

fn some_tenant() -> impl Strategy<Value = Option<&'static str>> {
    proptest::option::of(tenant())
}

fn group() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("g"), Just("h")]
}

/// Mostly the one that tasks are in by themselves.
fn pool() -> impl Strategy<Value = &'static str> {
    prop_oneof![4 => Just(DEFAULT_POOL), 1 => Just("p")]
}

fn duration() -> impl Strategy<Value = Duration> {
    (0..90_000u64).prop_map(Duration::from_millis)
}

/// Deadlines are from the start of time, so that some are past.
fn new_task() -> impl Strategy<Value = NewTask> {
    let names = (
        tenant(),
        0..2u8,
        proptest::option::of(group()),
        proptest::option::of(0..4u8),
        pool(),
    );
    let numbers = (
        -3..4i32,
        proptest::option::of(0..400_000i64),
        0..3u32,
        duration(),
        0..2i32,
    );
    (names, numbers).prop_map(
        |(
            (tenant, endpoint, group, key, pool),
            (priority, deadline, max_retries, retention, body),
        )| {
            NewTask {
                pool: pool.to_owned(),
                priority,
                deadline: deadline.map(Timestamp::from_millis),
                max_retries,
                idempotency_key: key.map(|key| format!("k{key}")),
                group: group.map(Into::into),
                retention,
                payer: (priority > 0).then(|| "p".to_owned()),
                ..NewTask::new(tenant, format!("/{endpoint}"), json!({ "body": body }))
            }
        },
    )
}

fn report() -> impl Strategy<Value = Report> {
    prop_oneof![
        4 => any::<i32>().prop_map(|n| Report::Completed(json!({ "n": n }))),
        1 => any::<i32>().prop_map(|n| Report::Failed(json!(n))),
        3 => any::<i32>().prop_map(|n| Report::Retry(json!(n))),
        1 => Just(Report::Cancelled),
        1 => Just(Report::Released),
    ]
}

fn list() -> impl Strategy<Value = Op> {
    let status = vec(proptest::sample::select(Status::ALL.to_vec()), 0..3);
    let filter = (
        some_tenant(),
        proptest::option::of(group()),
        proptest::option::of(0..2u8),
        status,
    );
    let paging = (
        1..5usize,
        any::<bool>(),
        proptest::option::of(any::<Index>()),
    );
    (filter, paging).prop_map(
        |((tenant, group, endpoint, status), (limit, oldest_first, after))| {
            let filter = Filter {
                tenant: tenant.map(Into::into),
                group: group.map(Into::into),
                endpoint: endpoint.map(|n| format!("/{n}")),
                status,
            };
            let paging = Paging {
                after: None,
                limit,
                oldest_first,
            };
            Op::List(filter, paging, after)
        },
    )
}

fn op() -> impl Strategy<Value = Op> {
    let index = any::<Index>;
    prop_oneof![
        5 => vec(new_task(), 0..4).prop_map(Op::Submit),
        6 => (pool(), 0..3u8, 0..4usize, duration()).prop_map(|(pool, worker, limit, lease)| Op::Claim { pool, worker, limit, lease }),
        2 => (vec(index(), 0..4), duration()).prop_map(|(leases, lease)| Op::Heartbeat { leases, lease }),
        6 => (index(), report()).prop_map(|(lease, report)| Op::Finish(lease, report)),
        2 => (index(), some_tenant()).prop_map(|(task, tenant)| Op::Cancel(task, tenant)),
        1 => (group(), some_tenant()).prop_map(|(group, tenant)| Op::CancelGroup(group, tenant)),
        3 => prop_oneof![Just(0), 0..60_000i64].prop_map(Op::Reap),
        1 => (index(), some_tenant()).prop_map(|(task, tenant)| Op::Get(task, tenant)),
        1 => list(),
        1 => (group(), some_tenant()).prop_map(|(group, tenant)| Op::Counts(group, tenant)),
        1 => pool().prop_map(Op::Backlog),
        1 => (0..4usize).prop_map(Op::Purge),
        1 => (index(), some_tenant()).prop_map(|(task, tenant)| Op::Remove(task, tenant)),
        3 => (0..2000i64).prop_map(Op::Clock),
        2 => (0..120_000i64).prop_map(Op::Clock),
        1 => (-120_000..0i64).prop_map(Op::Clock),
    ]
}

/// A store and the model, in step.
struct Machine<'a> {
    store: &'a dyn Store,
    model: Model,
    now: Timestamp,
    /// Every id and every lease that there ever was.
    ids: Vec<TaskId>,
    leases: Vec<Lease>,
}

impl Machine<'_> {
    fn apply(&mut self, op: Op) {
        let (store, now) = (self.store, self.now);
        match op {
            Op::Submit(tasks) => self.submit(&tasks),
            Op::Claim {
                pool,
                worker,
                limit,
                lease,
            } => {
                let worker = format!("w{worker}");
                let claimed = wait(store.claim(pool, &worker, limit, lease, now)).unwrap();
                assert_eq!(claimed, self.model.claim(pool, &worker, limit, lease, now));
                self.leases
                    .extend(claimed.iter().map(|claimed| claimed.lease));
            }
            Op::Heartbeat { leases, lease } if !self.leases.is_empty() => {
                let held: Vec<_> = leases
                    .iter()
                    .map(|index| *index.get(&self.leases))
                    .collect();
                let pulses = wait(store.heartbeat(&held, lease, now)).unwrap();
                assert_eq!(pulses, self.model.heartbeat(&held, lease, now));
            }
            Op::Finish(index, report) if !self.leases.is_empty() => {
                self.finish(*index.get(&self.leases), report)
            }
            Op::Cancel(index, tenant) if !self.ids.is_empty() => {
                let id = *index.get(&self.ids);
                let cancelled = wait(store.cancel(id, tenant, now));
                match self.model.cancel(id, tenant, now) {
                    Some(expected) => assert_eq!(cancelled.unwrap(), expected),
                    None => assert!(
                        matches!(cancelled, Err(StoreError::NotFound(missing)) if missing == id)
                    ),
                }
            }
            Op::CancelGroup(group, tenant) => {
                let cancelled = wait(store.cancel_group(group, tenant, now)).unwrap();
                assert_eq!(cancelled, self.model.cancel_group(group, tenant, now));
            }
            Op::Reap(before) => {
                let lapsed = Timestamp::from_millis(now.as_millis() - before);
                let reaped = wait(store.reap(lapsed, now)).unwrap();
                assert_eq!(reaped, self.model.reap(lapsed, now));
            }
            Op::Get(index, tenant) if !self.ids.is_empty() => {
                let id = *index.get(&self.ids);
                let expected = self.model.get(id, tenant);
                let info = expected.as_ref().map(|task| task.info.clone());
                assert_eq!(wait(store.info(id, tenant)).unwrap(), info);
                assert_eq!(wait(store.get(id, tenant)).unwrap(), expected);
            }
            Op::List(filter, mut paging, after) => {
                paging.after = after
                    .filter(|_| !self.ids.is_empty())
                    .map(|index| *index.get(&self.ids));
                let page = wait(store.list(filter.clone(), paging)).unwrap();
                assert_eq!(page, self.model.list(&filter, paging));
            }
            Op::Counts(group, tenant) => {
                assert_eq!(
                    wait(store.counts(group, tenant)).unwrap(),
                    self.model.counts(group, tenant)
                );
            }
            Op::Backlog(pool) => {
                assert_eq!(wait(store.backlog(pool)).unwrap(), self.model.backlog(pool));
            }
            Op::Purge(limit) => self.purge(limit),
            Op::Remove(index, tenant) if !self.ids.is_empty() => {
                self.remove(*index.get(&self.ids), tenant);
            }
            Op::Clock(millis) => self.now = Timestamp::from_millis(now.as_millis() + millis),
            // Of nothing.
            Op::Heartbeat { .. }
            | Op::Finish(..)
            | Op::Cancel(..)
            | Op::Get(..)
            | Op::Remove(..) => {}
        }
    }

    fn submit(&mut self, tasks: &[NewTask]) {
        // What tasks of one submission are to each other is in the examples; here they have different keys.
        let mut tasks = tasks.to_vec();
        for at in 1..tasks.len() {
            let (before, task) = tasks.split_at_mut(at);
            if before
                .iter()
                .any(|earlier| earlier.idempotency_key == task[0].idempotency_key)
            {
                task[0].idempotency_key = None;
            }
        }
        let submitted = wait(self.store.submit(tasks.clone(), self.now));
        match self.model.find_repeated(&tasks) {
            Err(owner) => assert!(
                matches!(submitted, Err(StoreError::Conflict { existing, .. }) if existing == owner)
            ),
            Ok(repeated) => {
                let submitted = submitted.unwrap();
                assert_eq!(submitted.len(), tasks.len());
                for ((new, repeated), answer) in tasks.iter().zip(repeated).zip(submitted) {
                    assert_eq!(answer.is_repeated, repeated.is_some());
                    let id = repeated.unwrap_or(answer.task.id);
                    if repeated.is_none() {
                        self.model.insert(new, id, self.now);
                        self.ids.push(id);
                    }
                    assert_eq!(answer.task, self.model.tasks[&id].task.info);
                }
            }
        }
    }

    fn finish(&mut self, lease: Lease, report: Report) {
        let finished = wait(self.store.finish(lease, report.clone(), self.now));
        match self.model.finish(lease, report, self.now) {
            None => assert!(matches!(finished, Err(StoreError::NotFound(id)) if id == lease.task)),
            Some(Ok(expected)) => assert_eq!(finished.unwrap(), expected),
            Some(Err(expected)) => assert!(
                matches!(finished, Err(StoreError::LeaseLost { task, status }) if task == lease.task && status == expected)
            ),
        }
    }

    /// Which ones go first is not said, so the model learns it.
    fn purge(&mut self, limit: usize) {
        let purgeable = self.model.purgeable(self.now);
        let purged = wait(self.store.purge(limit, self.now)).unwrap();
        assert_eq!(purged as usize, purgeable.len().min(limit));
        for id in purgeable {
            if wait(self.store.get(id, None)).unwrap().is_none() {
                self.model.tasks.remove(&id);
            }
        }
    }

    fn remove(&mut self, id: TaskId, tenant: Option<&str>) {
        let removed = wait(self.store.remove(id, tenant)).unwrap();
        assert_eq!(removed, self.model.remove(id, tenant));
    }

    fn check(&self) {
        let mut after = None;
        let mut listed = Vec::new();
        loop {
            let paging = Paging {
                after,
                limit: 7,
                oldest_first: true,
            };
            let page = wait(self.store.list(Filter::default(), paging)).unwrap();
            listed.extend(page.items);
            if !page.has_more {
                break;
            }
            after = listed.last().map(|info| info.id);
        }
        let expected: Vec<_> = self
            .model
            .tasks
            .values()
            .map(|entry| entry.task.info.clone())
            .collect();
        assert_eq!(listed, expected);
        for &id in &self.ids {
            assert_eq!(
                wait(self.store.get(id, None)).unwrap(),
                self.model.get(id, None)
            );
        }
    }
}

fn answers_as_the_model_does(store: &dyn Store, ops: Vec<Op>) {
    let mut machine = Machine {
        store,
        model: Model::default(),
        now: Timestamp::from_millis(0),
        ids: Vec::new(),
        leases: Vec::new(),
    };
    for op in ops {
        machine.apply(op);
    }
    machine.check();
}

proptest! {
    #![proptest_config(cases(2000))]

    #[test]
    fn sqlite_answers_as_the_model_does(ops in vec(op(), 1..50)) {
        answers_as_the_model_does(&*sqlite(), ops);
    }
}

proptest! {
    // A schema for each takes some time.
    #![proptest_config(cases(100))]

    #[test]
    fn postgres_answers_as_the_model_does(ops in vec(op(), 1..50)) {
        if let Some(store) = postgres() {
            answers_as_the_model_does(&*store, ops);
        }
    }
}
