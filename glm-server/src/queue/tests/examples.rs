//! The promises of the queue, one by one.

use std::time::Duration;

use serde_json::json;

use super::super::policy::worker_lost;
use super::super::*;
use super::{stores, wait};

const LEASE: Duration = Duration::from_secs(30);

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(seconds * 1000)
}

fn task(number: i64) -> NewTask {
    NewTask::new("t", "/v1/completions", json!({ "number": number }))
}

fn submit(store: &dyn Store, task: NewTask, now: Timestamp) -> TaskId {
    wait(store.submit(vec![task], now)).unwrap()[0].task.id
}

fn claim_one(store: &dyn Store, now: Timestamp) -> Claimed {
    let mut claimed = wait(store.claim(DEFAULT_POOL, "w", 1, LEASE, now)).unwrap();
    assert_eq!(claimed.len(), 1);
    claimed.remove(0)
}

fn info(store: &dyn Store, id: TaskId) -> TaskInfo {
    wait(store.get(id, None)).unwrap().unwrap().info
}

#[test]
fn order_is_priority_with_aging_then_deadline_then_age() {
    for store in stores() {
        let with = |number, priority, deadline: Option<i64>| NewTask {
            priority,
            deadline: deadline.map(at),
            ..task(number)
        };
        // All in the first minute but the last two, which are one and two minutes later.
        let submitted = [
            (0, with(4, 0, None)),
            (1, with(5, 0, None)),
            (2, with(3, 0, Some(9000))),
            (3, with(2, 0, Some(8000))),
            (4, with(1, 1, None)),
            (61, with(6, 0, Some(7000))),
            (62, with(0, 3, None)),
        ];
        for (seconds, task) in submitted {
            submit(&*store, task, at(seconds));
        }
        let claimed = wait(store.claim(DEFAULT_POOL, "w", 10, LEASE, at(100))).unwrap();
        let order: Vec<_> = claimed
            .iter()
            .map(|c| c.body["number"].as_i64().unwrap())
            .collect();
        assert_eq!(order, [0, 1, 2, 3, 4, 5, 6]);
    }
}

#[test]
fn a_worker_whose_task_was_given_to_another_cannot_write_its_result() {
    for store in stores() {
        let id = submit(&*store, task(0), at(0));
        let slow = claim_one(&*store, at(0));
        let reaped = wait(store.reap(at(31), at(31))).unwrap();
        assert_eq!(reaped.requeued, 1);
        let quick = claim_one(&*store, at(31));
        assert_eq!(quick.info.attempts, 2);
        assert!(quick.lease.number > slow.lease.number);

        let late = wait(store.finish(slow.lease, Report::Completed(json!("late")), at(32)));
        let lost = |status| move |e: &StoreError| matches!(e, StoreError::LeaseLost { status: s, .. } if *s == status);
        assert!(late.is_err_and(|e| lost(Status::Running)(&e)));
        let pulse = wait(store.heartbeat(&[slow.lease, quick.lease], LEASE, at(32))).unwrap();
        assert_eq!(pulse, [Pulse::Lost, Pulse::Held]);

        let status = wait(store.finish(quick.lease, Report::Completed(json!("first")), at(33)));
        assert_eq!(status.unwrap(), Status::Completed);
        for lease in [slow.lease, quick.lease] {
            let again = wait(store.finish(lease, Report::Completed(json!("second")), at(34)));
            assert!(again.is_err_and(|e| lost(Status::Completed)(&e)));
        }
        let task = wait(store.get(id, None)).unwrap().unwrap();
        assert_eq!(task.result, Some(json!("first")));
        assert_eq!(task.info.error, None);
    }
}

#[test]
fn a_lease_that_ran_out_still_counts_until_the_task_is_put_back() {
    for store in stores() {
        submit(&*store, task(0), at(0));
        let claimed = claim_one(&*store, at(0));
        let pulse = wait(store.heartbeat(&[claimed.lease], LEASE, at(100))).unwrap();
        assert_eq!(pulse, [Pulse::Held]);
        assert_eq!(
            wait(store.reap(at(129), at(129))).unwrap(),
            Reaped::default()
        );
        let finished = wait(store.finish(claimed.lease, Report::Completed(json!(1)), at(200)));
        assert_eq!(finished.unwrap(), Status::Completed);
    }
}

#[test]
fn leases_of_workers_that_may_be_alive_are_left_alone() {
    for store in stores() {
        let new = |number, max_retries| NewTask {
            max_retries,
            ..task(number)
        };
        let ids = [new(0, 1), new(1, 0), new(2, 1)].map(|new| submit(&*store, new, at(0)));
        for _ in ids {
            claim_one(&*store, at(0));
        }
        wait(store.cancel(ids[2], None, at(1))).unwrap();
        for lapsed in [Timestamp::default(), at(29)] {
            let reaped = wait(store.reap(lapsed, at(100))).unwrap();
            assert_eq!(reaped, Reaped::default());
        }
        let reaped = wait(store.reap(at(30), at(100))).unwrap();
        assert_eq!(
            (reaped.requeued, reaped.failed, reaped.cancelled),
            (1, 1, 1)
        );
        assert_eq!(info(&*store, ids[0]).error, Some(worker_lost()));
        let failed = info(&*store, ids[1]);
        assert_eq!(
            (failed.error, failed.finished),
            (Some(worker_lost()), Some(at(100)))
        );
    }
}

#[test]
fn the_same_key_is_the_same_task_and_another_body_a_conflict() {
    for store in stores() {
        let keyed = |tenant: &str, body| NewTask {
            idempotency_key: Some("k".into()),
            ..NewTask::new(tenant, "/v1/completions", body)
        };
        let find = |task| wait(store.repeated(task, at(0)));
        assert!(find(keyed("a", json!({"x": 1, "y": 2}))).unwrap().is_none());
        let first = submit(&*store, keyed("a", json!({"x": 1, "y": 2})), at(0));
        let known = find(keyed("a", json!({"y": 2, "x": 1}))).unwrap().unwrap();
        assert_eq!((known.task.id, known.is_repeated), (first, true));
        assert!(find(keyed("b", json!({"x": 1, "y": 2}))).unwrap().is_none());
        let error = find(keyed("a", json!({"x": 2}))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        let repeated =
            wait(store.submit(vec![keyed("a", json!({"y": 2, "x": 1}))], at(1))).unwrap();
        assert_eq!(repeated[0].task.id, first);
        assert!(repeated[0].is_repeated);
        assert_ne!(
            submit(&*store, keyed("b", json!({"x": 1, "y": 2})), at(1)),
            first
        );

        let other = vec![task(1), keyed("a", json!({"x": 2}))];
        let error = wait(store.submit(other, at(2))).unwrap_err();
        assert!(matches!(&error, StoreError::Conflict { existing, .. } if *existing == first));
        assert_eq!(error.kind(), ErrorKind::Conflict);
        // Nothing of it was taken.
        assert_eq!(wait(store.backlog(DEFAULT_POOL)).unwrap()[0].queued, 2);
    }
}

#[test]
fn attempts_that_fail_are_followed_by_others_up_to_the_last() {
    for store in stores() {
        let new = NewTask {
            max_retries: 1,
            ..task(0)
        };
        let id = submit(&*store, new, at(0));
        let first = claim_one(&*store, at(0));
        let status = wait(store.finish(first.lease, Report::Retry(json!("busy")), at(1)));
        assert_eq!(status.unwrap(), Status::Queued);
        let ready = info(&*store, id).not_before.unwrap();
        assert!(ready > at(1) && ready <= at(2));
        let early = Timestamp::from_millis(ready.as_millis() - 1);
        assert!(
            wait(store.claim(DEFAULT_POOL, "w", 1, LEASE, early))
                .unwrap()
                .is_empty()
        );

        claim_one(&*store, ready);
        let over = ready.after(LEASE);
        let reaped = wait(store.reap(over, over)).unwrap();
        assert_eq!(reaped.failed, 1);
        let failed = info(&*store, id);
        assert_eq!((failed.status, failed.attempts), (Status::Failed, 2));
        assert_eq!(failed.error, Some(worker_lost()));
    }
}

#[test]
fn a_task_given_back_has_not_been_attempted() {
    for store in stores() {
        let new = NewTask {
            max_retries: 0,
            ..task(0)
        };
        submit(&*store, new, at(0));
        for _ in 0..3 {
            let claimed = claim_one(&*store, at(1));
            assert_eq!(claimed.info.attempts, 1);
            let status = wait(store.finish(claimed.lease, Report::Released, at(1)));
            assert_eq!(status.unwrap(), Status::Queued);
        }
    }
}

#[test]
fn cancelling_ends_what_waits_and_is_told_to_the_worker_of_what_runs() {
    for store in stores() {
        let [waiting, running] = [
            task(0),
            NewTask {
                priority: 1,
                ..task(1)
            },
        ]
        .map(|task| submit(&*store, task, at(0)));
        let claimed = claim_one(&*store, at(0));
        assert_eq!(claimed.info.id, running);
        let foreign = wait(store.cancel(waiting, Some("other"), at(1)));
        assert!(matches!(foreign, Err(StoreError::NotFound(id)) if id == waiting));

        let cancel = |id| wait(store.cancel(id, Some("t"), at(1))).unwrap();
        assert_eq!(cancel(waiting), Cancellation::Cancelled);
        assert_eq!(cancel(waiting), Cancellation::TooLate(Status::Cancelled));
        assert_eq!(cancel(running), Cancellation::Requested);
        let pulse = wait(store.heartbeat(&[claimed.lease], LEASE, at(2))).unwrap();
        assert_eq!(pulse, [Pulse::CancelRequested]);
        let status = wait(store.finish(claimed.lease, Report::Retry(json!("stopped")), at(3)));
        assert_eq!(status.unwrap(), Status::Cancelled);
    }
}

#[test]
fn a_deadline_ends_what_waits_and_what_runs() {
    for store in stores() {
        let new = |number| NewTask {
            deadline: Some(at(10)),
            ..task(number)
        };
        let ids = [0, 1].map(|number| submit(&*store, new(number), at(0)));
        let claimed = claim_one(&*store, at(9));
        assert!(
            wait(store.claim(DEFAULT_POOL, "w", 1, LEASE, at(10)))
                .unwrap()
                .is_empty()
        );
        assert_eq!(
            wait(store.reap(Timestamp::default(), at(10)))
                .unwrap()
                .expired,
            2
        );
        assert!(
            ids.iter()
                .all(|&id| info(&*store, id).status == Status::Expired)
        );
        let late = wait(store.finish(claimed.lease, Report::Completed(json!(1)), at(11)));
        assert!(matches!(late, Err(StoreError::LeaseLost { .. })));
    }
}

#[test]
fn a_group_is_counted_and_cancelled_as_a_whole() {
    for store in stores() {
        let of = |group: &str, label: &str| NewTask {
            group: Some(group.into()),
            label: Some(label.into()),
            ..task(0)
        };
        let tasks = vec![of("g", "a"), of("g", "b"), of("g", "c"), of("h", "a")];
        wait(store.submit(tasks, at(0))).unwrap();
        let first = claim_one(&*store, at(0));
        wait(store.finish(first.lease, Report::Completed(json!(1)), at(1))).unwrap();
        claim_one(&*store, at(1));
        assert_eq!(
            wait(store.cancel_group("g", Some("other"), at(2))).unwrap(),
            0
        );
        assert_eq!(wait(store.cancel_group("g", Some("t"), at(2))).unwrap(), 2);
        let counts = wait(store.counts("g", None)).unwrap();
        let expected = Counts {
            completed: 1,
            running: 1,
            cancelled: 1,
            ..Counts::default()
        };
        assert_eq!(counts, expected);

        let filter = Filter {
            group: Some("g".into()),
            ..Filter::default()
        };
        let paging = Paging {
            limit: 2,
            oldest_first: true,
            ..Paging::default()
        };
        let labels =
            |page: &Page| -> Vec<_> { page.items.iter().filter_map(|t| t.label.clone()).collect() };
        let page = wait(store.list(filter.clone(), paging)).unwrap();
        assert_eq!(
            (labels(&page), page.has_more),
            (vec!["a".into(), "b".into()], true)
        );
        let after = page.items.last().map(|task| task.id);
        let page = wait(store.list(filter, Paging { after, ..paging })).unwrap();
        assert_eq!((labels(&page), page.has_more), (vec!["c".into()], false));
    }
}

#[test]
fn what_is_beyond_the_limits_is_refused_with_its_name() {
    for store in stores() {
        let refused = |task| wait(store.submit(vec![task], at(0))).unwrap_err();
        let too_large = |e: &StoreError, what| matches!(e, StoreError::TooLarge { field, .. } if *field == what);
        let limits = Limits::default();

        let body = json!("x".repeat(limits.max_body_bytes));
        let error = refused(NewTask { body, ..task(0) });
        assert!(too_large(&error, "body"), "{error}");
        let tenant = "x".repeat(limits.max_name_bytes + 1);
        assert!(too_large(&refused(NewTask { tenant, ..task(0) }), "tenant"));
        let label = Some("a\0b".into());
        let error = refused(NewTask { label, ..task(0) });
        assert!(matches!(
            error,
            StoreError::ControlCharacters { field: "label" }
        ));
        let error = refused(NewTask {
            priority: 101,
            ..task(0)
        });
        assert!(matches!(
            error,
            StoreError::OutOfRange {
                field: "priority",
                found: 101,
                ..
            }
        ));
        let many = wait(store.submit(vec![task(0); limits.max_tasks + 1], at(0)));
        assert!(matches!(
            many,
            Err(StoreError::OutOfRange { field: "tasks", .. })
        ));
        assert!(wait(store.backlog(DEFAULT_POOL)).unwrap().is_empty());

        // A result that is too large leaves the task to the worker, which can report that.
        submit(&*store, task(0), at(0));
        let claimed = claim_one(&*store, at(0));
        let result = Report::Completed(json!("x".repeat(limits.max_result_bytes)));
        let error = wait(store.finish(claimed.lease, result, at(1))).unwrap_err();
        assert!(too_large(&error, "result"), "{error}");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let failed = wait(store.finish(claimed.lease, Report::Failed(json!("too large")), at(1)));
        assert_eq!(failed.unwrap(), Status::Failed);
        for limit in [0, MAX_PAGE + 1] {
            let list = wait(store.list(
                Filter::default(),
                Paging {
                    limit,
                    ..Paging::default()
                },
            ));
            assert!(matches!(
                list,
                Err(StoreError::OutOfRange { field: "limit", .. })
            ));
        }
    }
}

#[test]
fn what_was_kept_long_enough_is_deleted_with_its_result() {
    for store in stores() {
        let new = NewTask {
            retention: Duration::from_secs(60),
            idempotency_key: Some("k".into()),
            ..task(0)
        };
        let id = submit(&*store, new.clone(), at(0));
        let claimed = claim_one(&*store, at(0));
        wait(store.finish(claimed.lease, Report::Completed(json!(1)), at(10))).unwrap();
        assert_eq!(wait(store.purge(10, at(69))).unwrap(), 0);
        assert_eq!(wait(store.purge(0, at(70))).unwrap(), 0);
        assert_eq!(wait(store.purge(10, at(70))).unwrap(), 1);
        assert_eq!(wait(store.get(id, None)).unwrap(), None);
        let gone = wait(store.finish(claimed.lease, Report::Completed(json!(2)), at(71)));
        assert!(matches!(gone, Err(StoreError::NotFound(_))));
        // The key is free again.
        assert_ne!(submit(&*store, new, at(72)), id);
    }
}
