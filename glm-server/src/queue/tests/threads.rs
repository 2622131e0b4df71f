//! Several workers at once, and several stores on one file.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use serde_json::json;

use super::super::*;
use super::{stores, wait};

const NOW: Timestamp = Timestamp::from_millis(0);
const LEASE: Duration = Duration::from_secs(60);
const TASKS: usize = 300;

fn submit(store: &dyn Store) {
    let task = |n| NewTask::new("t", "/v1/completions", json!(n));
    wait(store.submit((0..TASKS).map(task).collect(), NOW)).unwrap();
}

/// Workers on `stores` by turns that claim and complete until nothing is left; how often each task was claimed.
fn work(stores: &[&dyn Store]) -> BTreeMap<TaskId, u32> {
    let claims = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for worker in 0..6 {
            let (store, claims) = (stores[worker % stores.len()], &claims);
            scope.spawn(move || {
                loop {
                    let claimed =
                        wait(store.claim(DEFAULT_POOL, &format!("w{worker}"), 3, LEASE, NOW))
                            .unwrap();
                    if claimed.is_empty() {
                        break;
                    }
                    for claimed in claimed {
                        *claims.lock().unwrap().entry(claimed.info.id).or_insert(0) += 1;
                        let report = Report::Completed(json!(worker));
                        wait(store.finish(claimed.lease, report, NOW)).unwrap();
                    }
                }
            });
        }
    });
    claims.into_inner().unwrap()
}

#[test]
fn no_two_workers_get_the_same_task() {
    for store in stores() {
        submit(&*store);
        let claims = work(&[&*store]);
        assert_eq!(claims.len(), TASKS);
        assert!(claims.values().all(|&count| count == 1));
        assert!(wait(store.backlog(DEFAULT_POOL)).unwrap().is_empty());
    }
}

#[test]
fn no_two_workers_on_one_file_get_the_same_task() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    // Opened at the same time: one creates it.
    let options = SqliteOptions {
        busy_timeout: Duration::from_mins(2),
        ..SqliteOptions::default()
    };
    let open = || SqliteStore::open(&path, options).unwrap();
    let stores: Vec<_> = thread::scope(|scope| {
        let opening: Vec<_> = (0..4).map(|_| scope.spawn(open)).collect();
        opening
            .into_iter()
            .map(|store| store.join().unwrap())
            .collect()
    });
    submit(&stores[0]);
    let claims = work(
        &stores
            .iter()
            .map(|store| store as &dyn Store)
            .collect::<Vec<_>>(),
    );
    assert_eq!(claims.len(), TASKS);
    assert!(claims.values().all(|&count| count == 1));
}

#[test]
fn a_key_that_many_submit_at_once_is_one_task() {
    for store in stores() {
        let task = || NewTask {
            idempotency_key: Some("k".into()),
            ..NewTask::new("t", "/v1/completions", json!({}))
        };
        let answers: Vec<_> = (0..100).map(|_| store.submit(vec![task()], NOW)).collect();
        let answers: Vec<_> = answers
            .into_iter()
            .map(|answer| wait(answer).unwrap().remove(0))
            .collect();
        assert_eq!(
            answers.iter().filter(|answer| !answer.is_repeated).count(),
            1
        );
        assert!(
            answers
                .iter()
                .all(|answer| answer.task.id == answers[0].task.id)
        );
    }
}

#[cfg(feature = "postgres")]
#[test]
fn no_two_workers_on_one_server_get_the_same_task() {
    use super::testing;
    let Some(first) = testing::store(Default::default()) else {
        return;
    };
    let more: Vec<_> = (0..3).map(|_| first.again()).collect();
    let stores: Vec<&dyn Store> = [&first as &dyn Store]
        .into_iter()
        .chain(more.iter().map(|store| store as &dyn Store))
        .collect();
    submit(stores[0]);
    let claims = work(&stores);
    assert_eq!(claims.len(), TASKS);
    assert!(claims.values().all(|&count| count == 1));
}
