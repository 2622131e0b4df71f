//! What keeps the queue in order.

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::json;

use super::{Jobs, JobsOptions, NewFile, QueuePlace};
use crate::queue::{Status, StoreError};

fn on_disk(directory: &std::path::Path) -> Arc<Jobs> {
    let options = JobsOptions {
        queue: QueuePlace::File(directory.join("queue.db")),
        files: Some(directory.join("files")),
        retention: Duration::ZERO,
        ..JobsOptions::default()
    };
    Arc::new(Jobs::open(options).unwrap())
}

#[tokio::test]
async fn contents_that_nobody_describes_are_deleted_after_some_time() {
    let directory = tempfile::tempdir().unwrap();
    let jobs = on_disk(directory.path());
    let mut ids = Vec::new();
    for name in ["described", "forgotten", "new"] {
        let mut incoming = jobs.begin_file().await.unwrap();
        incoming.write(name.as_bytes()).await.unwrap();
        let new = NewFile {
            filename: name.to_owned(),
            purpose: "batch".to_owned(),
            expires_after: None,
        };
        ids.push(jobs.keep_file("t", incoming, new).await.unwrap().id);
    }
    let path = |at: usize| directory.path().join("files").join(&ids[at]);
    let torn = directory.path().join("files/incoming/torn");
    File::create(&torn).unwrap();
    let long_ago = SystemTime::now() - Duration::from_hours(2);
    for path in [&path(0), &path(1), &torn] {
        File::options()
            .write(true)
            .open(path)
            .unwrap()
            .set_modified(long_ago)
            .unwrap();
    }
    for id in &ids[1..] {
        jobs.store.remove_record("file", id, None).await.unwrap();
    }
    jobs.sweep().await.unwrap();
    let there: Vec<_> = (0..3).map(|at| path(at).exists()).collect();
    assert_eq!((there, torn.exists()), (vec![true, false, true], false));
    let described = jobs.file("t", &ids[0]).await.unwrap();
    assert_eq!(described.unwrap().filename, "described");
    assert!(jobs.file("another", &ids[0]).await.unwrap().is_none());
}

#[tokio::test]
async fn a_turn_looks_at_the_queue_writes_to_it_and_deletes_what_is_old() {
    let directory = tempfile::tempdir().unwrap();
    let jobs = on_disk(directory.path());
    let task = |endpoint| jobs.new_task("t", "model", endpoint);
    let first = jobs.submit(task("/1")).await.unwrap().task;
    jobs.submit(task("/2")).await.unwrap();
    jobs.cancel("t", first.id).await.unwrap();
    jobs.observed.failed(&StoreError::Full {
        at: "there".to_owned(),
    });
    assert!(jobs.health().reason.unwrap().contains("no space"));
    jobs.turn("model", 0).await.unwrap();
    let health = jobs.health();
    assert_eq!((health.reason, health.queued, health.running), (None, 1, 0));
    assert!(health.oldest_queued.is_some());
    let worker = jobs
        .store
        .record("worker", &jobs.worker, None)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(worker.value, json!({"model": "model"}));
    assert!(
        jobs.info("t", first.id).await.unwrap().is_none(),
        "its retention is over"
    );
    jobs.turn("another model", 15).await.unwrap();
    assert_eq!(jobs.health().queued, 0);
}

#[tokio::test]
async fn a_task_of_somebody_else_is_not_there() {
    let jobs = Jobs::open(JobsOptions::default()).unwrap();
    let id = jobs
        .submit(jobs.new_task("a", "model", "/"))
        .await
        .unwrap()
        .task
        .id;
    assert!(jobs.get("b", id).await.unwrap().is_none());
    let cancelled = jobs.cancel("b", id).await;
    assert!(
        matches!(cancelled, Err(StoreError::NotFound(_))),
        "{cancelled:?}"
    );
    assert_eq!(
        jobs.info("a", id).await.unwrap().unwrap().status,
        Status::Queued
    );
}
