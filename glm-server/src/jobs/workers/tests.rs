//! Attempts that fail in unusual ways, and leases that run out while their holders are alive.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::time::sleep;

use super::super::{Jobs, JobsOptions, QueuePlace, Runner, Running};
use super::Stop;
use crate::queue::{
    Claimed, Lease, Report, SqliteOptions, SqliteStore, Status, TaskId, TaskInfo, Timestamp,
};

const MODEL: &str = "model";
const LEASE: Duration = Duration::from_secs(30);

fn jobs() -> Arc<Jobs> {
    Arc::new(Jobs::open(JobsOptions::default()).unwrap())
}

/// A task that may be started once, claimed by `worker` so long ago that the lease has run out.
async fn claimed_long_ago(jobs: &Jobs, worker: &str) -> Claimed {
    let mut task = jobs.new_task("t", MODEL, "/");
    task.max_retries = 0;
    jobs.submit(task).await.unwrap();
    let then = Timestamp::from_millis(Timestamp::now().as_millis() - 3_600_000);
    let claimed = jobs.store.claim(MODEL, worker, 1, LEASE, then).await;
    claimed.unwrap().remove(0)
}

async fn info(jobs: &Jobs, id: TaskId) -> TaskInfo {
    jobs.info("t", id).await.unwrap().unwrap()
}

#[derive(Debug)]
struct Panics;

impl Runner for Panics {
    fn room(&self, _: usize) -> usize {
        1
    }

    fn run(&self, _: &Claimed) -> Running {
        Box::pin(async { panic!("a mistake") })
    }
}

#[tokio::test]
async fn an_attempt_that_panics_has_failed() {
    let jobs = jobs();
    let mut task = jobs.new_task("t", MODEL, "/");
    task.max_retries = 0;
    let id = jobs.submit(task).await.unwrap().task.id;
    let work = Arc::clone(&jobs).work(
        MODEL.to_owned(),
        Arc::new(Panics),
        1,
        std::future::pending(),
    );
    let work = tokio::spawn(work);
    let begin = Instant::now();
    while !info(&jobs, id).await.status.is_terminal() || !jobs.held.leases().is_empty() {
        assert!(begin.elapsed() < Duration::from_mins(1), "it runs for ever");
        sleep(Duration::from_millis(2)).await;
    }
    work.abort();
    let info = info(&jobs, id).await;
    assert_eq!(info.status, Status::Failed);
    assert_eq!(info.error.unwrap()["code"], "internal_error");
}

#[tokio::test]
async fn a_lease_that_runs_out_here_is_none_of_a_dead_worker() {
    let jobs = jobs();
    let task = claimed_long_ago(&jobs, &jobs.worker).await;
    let mut stopped = jobs.held.add(&task);
    jobs.observed.begin_truce(Duration::ZERO);
    jobs.turn(MODEL, 1).await.unwrap();
    let info = info(&jobs, task.info.id).await;
    assert_eq!((info.status, info.attempts), (Status::Running, 1));
    assert_eq!(stopped.try_recv(), Err(TryRecvError::Empty));
    let finished = jobs
        .store
        .finish(task.lease, Report::Completed(json!({})), Timestamp::now());
    assert_eq!(finished.await.unwrap(), Status::Completed);
}

#[tokio::test]
async fn a_result_waits_for_as_long_as_the_queue_is_away() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let sqlite = SqliteOptions {
        busy_timeout: Duration::from_millis(10),
        ..SqliteOptions::default()
    };
    let options = JobsOptions {
        lease: Duration::from_millis(1),
        ..JobsOptions::default()
    };
    let jobs = Arc::new(Jobs {
        store: Arc::new(SqliteStore::open(&path, sqlite).unwrap()),
        ..Jobs::open(options).unwrap()
    });
    let task = claimed_long_ago(&jobs, &jobs.worker).await;
    let _stopped = jobs.held.add(&task);
    let id = task.info.id;
    let somebody = rusqlite::Connection::open(&path).unwrap();
    somebody.execute_batch("BEGIN IMMEDIATE").unwrap();
    let reporting = Arc::clone(&jobs);
    let reporting = tokio::spawn(async move {
        let report = Report::Completed(json!({}));
        reporting.report(&task, report).await;
    });
    while jobs.health().reason.is_none() {
        assert!(!reporting.is_finished(), "it was given up");
        sleep(Duration::from_millis(2)).await;
    }
    somebody.execute_batch("ROLLBACK").unwrap();
    reporting.await.unwrap();
    assert_eq!(info(&jobs, id).await.status, Status::Completed);
}

#[tokio::test]
async fn others_are_given_time_at_the_start_after_an_outage_and_after_a_leap_of_the_clock() {
    let jobs = Arc::new(Jobs {
        options: JobsOptions {
            // Nobody waits for it here, however slow the machine is.
            lease: Duration::from_hours(1),
            ..JobsOptions::default()
        },
        ..Jobs::open(JobsOptions::default()).unwrap()
    });
    let task = claimed_long_ago(&jobs, "another").await;
    let is_running = async || info(&jobs, task.info.id).await.status == Status::Running;
    jobs.turn(MODEL, 1).await.unwrap();
    jobs.turn(MODEL, 2).await.unwrap();
    assert!(is_running().await, "nobody knows what was before");
    jobs.observed.begin_truce(Duration::from_hours(1));
    jobs.turn(MODEL, 1).await.unwrap();
    assert!(is_running().await, "the queue could not be reached");
    jobs.observed.begin_truce(Duration::ZERO);
    jobs.reap().await.unwrap();
    assert!(!is_running().await, "the truce is over");

    let task = claimed_long_ago(&jobs, "another").await;
    let is_running = async || info(&jobs, task.info.id).await.status == Status::Running;
    let hour_ago = Timestamp::now().as_millis() - 3_600_000;
    jobs.observed.reaped(Timestamp::from_millis(hour_ago));
    jobs.reap().await.unwrap();
    assert!(is_running().await, "an hour is gone");
    jobs.observed.begin_truce(Duration::ZERO);
    jobs.reap().await.unwrap();
    assert!(!is_running().await, "and nobody has said anything");
}

#[tokio::test]
async fn a_deadline_comes_while_others_are_given_time() {
    let jobs = jobs();
    let mut ids = Vec::new();
    for _ in 0..2 {
        let mut task = jobs.new_task("t", MODEL, "/");
        task.deadline = Some(Timestamp::from_millis(1));
        ids.push(jobs.submit(task).await.unwrap().task.id);
    }
    let then = Timestamp::default();
    let claimed = jobs.store.claim(MODEL, "another", 1, LEASE, then).await;
    assert_eq!(claimed.unwrap().len(), 1);
    jobs.observed.begin_truce(Duration::from_hours(1));
    jobs.turn(MODEL, 1).await.unwrap();
    for id in ids {
        assert_eq!(info(&jobs, id).await.status, Status::Expired);
    }
}

#[tokio::test]
async fn what_fails_behind_it_does_not_keep_leases_of_the_dead() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let options = JobsOptions {
        queue: QueuePlace::File(path.clone()),
        lease: Duration::from_hours(100),
        ..JobsOptions::default()
    };
    let jobs = Arc::new(Jobs::open(options).unwrap());
    let somebody = rusqlite::Connection::open(&path).unwrap();
    somebody.execute_batch("DROP TABLE record").unwrap();
    jobs.observed.begin_truce(Duration::ZERO);
    let keeping = tokio::spawn(Arc::clone(&jobs).keep(MODEL.to_owned()));
    while jobs.health().reason.is_none() {
        sleep(Duration::from_millis(2)).await;
    }
    let task = claimed_long_ago(&jobs, "another").await;
    let begin = Instant::now();
    while info(&jobs, task.info.id).await.status == Status::Running {
        assert!(begin.elapsed() < Duration::from_mins(10), "it is kept");
        sleep(Duration::from_millis(2)).await;
    }
    keeping.abort();
}

#[tokio::test]
async fn news_of_an_earlier_lease_do_not_stop_the_later_one() {
    let jobs = jobs();
    let mut task = claimed_long_ago(&jobs, &jobs.worker).await;
    let _earlier = jobs.held.add(&task);
    let earlier = task.lease;
    task.lease = Lease {
        number: earlier.number + 1,
        ..earlier
    };
    let mut stopped = jobs.held.add(&task);
    jobs.held.stop(earlier, Stop::Lost);
    assert_eq!(stopped.try_recv(), Err(TryRecvError::Empty));
    jobs.held.stop(task.lease, Stop::Lost);
    assert_eq!(stopped.try_recv(), Ok(Stop::Lost));
}
