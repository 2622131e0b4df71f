//! Batches that another service takes over, or that lose their input.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use super::super::{JobFailure, Jobs, JobsOptions, NewFile, Runner};
use super::{Batch, BatchStatus, Driver, NewBatch, POOL, driver};
use crate::queue::{NewTask, Report, Timestamp};

const TENANT: &str = "t";
const MODEL: &str = "model";
const ENDPOINT: &str = "/v1/completions";

fn line(id: &str) -> String {
    json!({"custom_id": id, "method": "POST", "url": ENDPOINT, "body": {"prompt": id}}).to_string()
        + "\n"
}

/// A batch of this input, whose lines are tasks up to `submitted`.
async fn begun(jobs: &Jobs, input: &str, total: u64, submitted: u64) -> Batch {
    let mut incoming = jobs.begin_file().await.unwrap();
    incoming.write(input.as_bytes()).await.unwrap();
    let new = NewFile {
        filename: "input.jsonl".to_owned(),
        purpose: "batch".to_owned(),
        expires_after: None,
    };
    let input = jobs.keep_file(TENANT, incoming, new).await.unwrap();
    let new = NewBatch {
        endpoint: ENDPOINT.to_owned(),
        model: MODEL.to_owned(),
        input,
        completion_window: "1h".to_owned(),
        window: Duration::from_hours(1),
        metadata: None,
        output_expires_after: None,
        payer: None,
    };
    let batch = jobs.create_batch(TENANT, new).await.unwrap();
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
    let jobs = Arc::new(Jobs::open(JobsOptions::default()).unwrap());
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
    let jobs = Arc::new(Jobs::open(JobsOptions::default()).unwrap());
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
    let full = io::Error::from(io::ErrorKind::StorageFull);
    assert_eq!(driver::later(JobFailure::Disk(full)).status, 500);
}
