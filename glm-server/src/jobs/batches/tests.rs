//! Batches that another service takes over, that lose their input, or that can never be finished.

use std::io::{self, Write as _};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::time::sleep;

use super::super::{JobFailure, Jobs, JobsOptions, NewFile, Runner};
use super::{Batch, BatchStatus, Driver, KIND, NewBatch, POOL, driver};
use crate::queue::{Limits, NewTask, Paging, Report, Status, StoreError, Timestamp};

const TENANT: &str = "t";
const MODEL: &str = "model";
const ENDPOINT: &str = "/v1/completions";

fn jobs() -> Arc<Jobs> {
    Arc::new(Jobs::open(JobsOptions::default()).unwrap())
}

fn line(id: &str) -> String {
    json!({"custom_id": id, "method": "POST", "url": ENDPOINT, "body": {"prompt": id}}).to_string()
        + "\n"
}

/// A batch of this input that nobody has looked at.
async fn new(jobs: &Arc<Jobs>, input: &str) -> Batch {
    let new = wanted(jobs, input).await;
    jobs.create_batch(TENANT, new).await.unwrap()
}

async fn wanted(jobs: &Jobs, input: &str) -> NewBatch {
    let mut incoming = jobs.begin_file().await.unwrap();
    incoming.write(input.as_bytes()).await.unwrap();
    let new = NewFile {
        filename: "input.jsonl".to_owned(),
        purpose: "batch".to_owned(),
        expires_after: None,
    };
    let input = jobs.keep_file(TENANT, incoming, new).await.unwrap();
    NewBatch {
        endpoint: ENDPOINT.to_owned(),
        model: MODEL.to_owned(),
        input,
        completion_window: "1h".to_owned(),
        window: Duration::from_hours(1),
        metadata: None,
        output_expires_after: None,
        payer: None,
    }
}

/// A batch of this input, whose lines are tasks up to `submitted`.
async fn begun(jobs: &Arc<Jobs>, input: &str, total: u64, submitted: u64) -> Batch {
    let batch = new(jobs, input).await;
    let begin = |batch: &mut Batch| {
        batch.total = total;
        batch.submitted = submitted;
        batch.enter(BatchStatus::InProgress, 0);
    };
    let begun = jobs.change_batch(TENANT, &batch.id, begin).await;
    begun.unwrap().unwrap()
}

/// Drives the batch that waits to its end, and has its tasks answered meanwhile.
async fn driven(jobs: &Arc<Jobs>, batch: &Batch) -> Batch {
    let lease = Duration::from_mins(1);
    let claim = async |pool: &str| {
        let claimed = jobs.store.claim(pool, "w", 10, lease, Timestamp::now());
        claimed.await.unwrap()
    };
    let task = claim(POOL).await.remove(0);
    let driving = tokio::spawn(Driver::new(jobs).run(&task));
    while !driving.is_finished() {
        for task in claim(MODEL).await {
            let report = Report::Completed(json!({"text": ""}));
            let finished = jobs.store.finish(task.lease, report, Timestamp::now());
            finished.await.unwrap();
        }
        sleep(Duration::from_millis(2)).await;
    }
    driving.await.unwrap().unwrap();
    jobs.batch(TENANT, &batch.id).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_batch_that_is_taken_over_goes_on_with_its_next_line() {
    let jobs = jobs();
    // Lines that are blank count among the lines and not among the requests.
    let input = format!("\n\n\n{}{}", line("a"), line("b"));
    let batch = begun(&jobs, &input, 2, 4).await;
    let batch = driven(&jobs, &batch).await;
    assert_eq!(
        (batch.status, batch.completed),
        (BatchStatus::Completed, 1),
        "{batch:?}"
    );
}

#[tokio::test]
async fn a_batch_whose_input_is_deleted_ends_with_what_was_answered() {
    let jobs = jobs();
    let batch = begun(&jobs, &(line("a") + &line("b")), 2, 1).await;
    let task = NewTask {
        idempotency_key: Some(format!("{}/1", batch.id)),
        group: Some(batch.id.clone()),
        label: Some("a".to_owned()),
        ..jobs.new_task(TENANT, MODEL, ENDPOINT)
    };
    jobs.submit(task).await.unwrap();
    let is_deleted = jobs.remove_file(TENANT, &batch.input_file_id).await;
    assert!(is_deleted.unwrap());
    let batch = driven(&jobs, &batch).await;
    assert_eq!(
        (batch.status, batch.completed, &*batch.errors[0].code),
        (BatchStatus::Failed, 1, "file_not_found"),
        "{batch:?}"
    );
    assert!(batch.output_file_id.is_some());
}

#[test]
fn what_a_batch_cannot_do_now_is_tried_again_after_a_pause() {
    let at = "there".to_owned();
    let failures: [JobFailure; 4] = [
        io::Error::from(io::ErrorKind::StorageFull).into(),
        StoreError::Full { at: at.clone() }.into(),
        StoreError::Closed { at: at.clone() }.into(),
        StoreError::Unreachable {
            at,
            source: Arc::new(io::Error::from(io::ErrorKind::ConnectionRefused)),
        }
        .into(),
    ];
    for failure in failures {
        assert!(failure.permanent().is_none(), "{failure:?}");
        assert_eq!(driver::later(failure).status, 500);
    }
}

#[tokio::test]
async fn a_line_whose_body_grows_too_large_is_an_error_of_its_own() {
    let jobs = jobs();
    // 5 bytes each, 19 when they are written again.
    let numbers = "1e15,".repeat(Limits::default().max_body_bytes / 18);
    let large = format!(
        r#"{{"custom_id": "b", "method": "POST", "url": "{ENDPOINT}", "body": {{"n": [{numbers}1]}}}}"#
    );
    let batch = new(&jobs, &(line("a") + &large + "\n")).await;
    let batch = driven(&jobs, &batch).await;
    let said: Vec<_> = batch.errors.iter().map(|e| (e.line, &*e.code)).collect();
    assert_eq!(
        (batch.status, said),
        (BatchStatus::Failed, vec![(Some(2), "body_too_large")])
    );
}

#[tokio::test]
async fn what_is_said_of_lines_is_no_longer_than_it_has_to_be() {
    let jobs = jobs();
    let long = "x".repeat(12 << 20);
    let wrong = |field: &str| {
        let mut wrong = json!({"custom_id": field, "method": "POST", "url": ENDPOINT, "body": {}});
        wrong[field] = json!(long);
        wrong.to_string() + "\n"
    };
    let input = wrong("method") + &wrong("url") + &wrong("custom_id").repeat(2);
    let batch = new(&jobs, &input).await;
    let batch = driven(&jobs, &batch).await;
    assert_eq!((batch.status, batch.errors.len()), (BatchStatus::Failed, 4));
    for error in batch.errors {
        assert!(error.message.chars().count() <= 501, "{}", error.code);
    }
}

#[tokio::test]
async fn a_batch_that_can_never_go_on_fails_with_what_was_answered() {
    let jobs = jobs();
    let batch = begun(&jobs, &(line("a") + &line("b")), 2, 0).await;
    // Somebody has taken the key of the second line for something else.
    let task = |line: u32| NewTask {
        idempotency_key: Some(format!("{}/{line}", batch.id)),
        ..jobs.new_task(TENANT, MODEL, ENDPOINT)
    };
    let of_batch = NewTask {
        group: Some(batch.id.clone()),
        label: Some("a".to_owned()),
        body: json!({"prompt": "a"}),
        ..task(1)
    };
    jobs.submit(of_batch).await.unwrap();
    jobs.submit(task(2)).await.unwrap();
    let batch = driven(&jobs, &batch).await;
    assert_eq!(
        (batch.status, batch.completed, &*batch.errors[0].code),
        (BatchStatus::Failed, 1, "conflict"),
        "{batch:?}"
    );
    let unanswered = results(&jobs, batch.error_file_id.as_deref()).await;
    assert_eq!(
        unanswered,
        [("b".to_owned(), "batch_failed".to_owned())],
        "{batch:?}"
    );
}

#[tokio::test]
async fn a_batch_that_is_cancelled_while_it_gives_up_ends_with_what_was_answered() {
    let jobs = jobs();
    let never = StoreError::TooLarge {
        field: "body",
        found: 2,
        max: 1,
    };
    for (errors, end) in [(1, BatchStatus::Cancelled), (2, BatchStatus::Failed)] {
        let batch = begun(&jobs, &(line("a") + &line("b")), 2, 1).await;
        let task = NewTask {
            idempotency_key: Some(format!("{}/1", batch.id)),
            group: Some(batch.id.clone()),
            label: Some("a".to_owned()),
            ..jobs.new_task(TENANT, MODEL, ENDPOINT)
        };
        jobs.submit(task).await.unwrap();
        let (lease, now) = (Duration::from_mins(1), Timestamp::now());
        let claimed = jobs.store.claim(MODEL, "w", 1, lease, now).await.unwrap();
        let report = Report::Completed(json!({"text": ""}));
        let finished = jobs.store.finish(claimed[0].lease, report, now).await;
        assert_eq!(finished.unwrap(), Status::Completed);
        jobs.cancel_batch(TENANT, &batch.id).await.unwrap();
        let drive = driver::Drive {
            jobs: Arc::clone(&jobs),
            tenant: TENANT.to_owned(),
            id: batch.id.clone(),
        };
        for _ in 0..errors {
            drive.give_up(&never).await.unwrap();
        }
        let batch = driven(&jobs, &batch).await;
        assert_eq!((batch.status, batch.errors.len()), (end, 1), "{batch:?}");
        let is_kept = end == BatchStatus::Cancelled;
        assert_eq!(batch.output_file_id.is_some(), is_kept, "{batch:?}");
    }
}

/// Who could not be asked, and why.
async fn results(jobs: &Jobs, file: Option<&str>) -> Vec<(String, String)> {
    let path = jobs.contents.path(file.unwrap()).unwrap();
    let lines = std::fs::read_to_string(path).unwrap();
    let said = lines.lines().map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        (text(&line["custom_id"]), text(&line["error"]["code"]))
    });
    said.collect()
}

/// The input is a pipe, which the only thread of the runtime fills: if it waited for it, nobody would.
#[cfg(unix)]
#[tokio::test]
async fn a_slow_input_keeps_nobody_waiting_when_a_batch_ends() {
    let jobs = jobs();
    let batch = begun(&jobs, "", 3000, 0).await;
    let cancelled = jobs.cancel_batch(TENANT, &batch.id).await.unwrap();
    assert_eq!(cancelled.unwrap().status, BatchStatus::Cancelling);
    let path = jobs.contents.path(&batch.input_file_id).unwrap();
    std::fs::remove_file(&path).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&path).status();
    assert!(made.unwrap().success());
    let (alive, others) = std::sync::mpsc::channel();
    let filling = std::thread::spawn(move || {
        let mut pipe = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        // The input has been opened: what was said before does not count, nor a little after.
        while others.try_recv().is_ok() {}
        let is_alive = (0..50).all(|_| others.recv_timeout(Duration::from_secs(30)).is_ok());
        for n in 0..3000 {
            pipe.write_all(line(&n.to_string()).as_bytes()).unwrap();
        }
        is_alive
    });
    let breathing = tokio::spawn(async move {
        while alive.send(()).is_ok() {
            sleep(Duration::from_millis(2)).await;
        }
    });
    let batch = driven(&jobs, &batch).await;
    assert!(filling.join().unwrap(), "the input was waited for");
    breathing.await.unwrap();
    assert_eq!(batch.status, BatchStatus::Cancelled, "{batch:?}");
    let unanswered = results(&jobs, batch.error_file_id.as_deref()).await;
    let all = (0..3000).map(|n| (n.to_string(), "batch_cancelled".to_owned()));
    assert!(unanswered.into_iter().eq(all), "every line once");
}

#[tokio::test]
async fn a_batch_is_begun_even_if_nobody_waits_for_it_and_is_not_kept_for_ever() {
    let jobs = jobs();
    let wanted = wanted(&jobs, &line("a")).await;
    {
        let mut begun = std::pin::pin!(jobs.create_batch(TENANT, wanted));
        // Begun, and left at once.
        let _ = std::future::poll_fn(|cx| Poll::Ready(begun.as_mut().poll(cx).is_ready())).await;
    }
    let begin = Instant::now();
    while jobs.store.backlog(POOL).await.unwrap().is_empty() {
        assert!(begin.elapsed() < Duration::from_mins(1), "nobody drives it");
        sleep(Duration::from_millis(2)).await;
    }
    let (batches, _) = jobs.batches(TENANT, Paging::default()).await.unwrap();
    let end = batches[0].expires_at.cast_signed() * 1000;
    for cancels in [false, true] {
        if cancels {
            let cancelled = jobs.cancel_batch(TENANT, &batches[0].id).await;
            assert!(cancelled.unwrap().is_some());
        }
        let record = jobs.store.record(KIND, &batches[0].id, None).await;
        let expires = record.unwrap().unwrap().expires.unwrap();
        assert!(expires.as_millis() >= end, "it is not over before its time");
    }
}
