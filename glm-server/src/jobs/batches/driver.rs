//! [`Driver`]: brings batches to their end, step by step.

use std::fs::File;
use std::io::{self, BufReader, Write};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::time::sleep;

use super::super::files::seconds;
use super::super::{JobFailure, Jobs, Runner, Running, refusal};
use super::record::BatchError;
use super::{Batch, BatchStatus, MAX_REQUESTS, PRIORITY, results};
use crate::batch::{BadLine, BatchLine, Requests};
use crate::openai::ApiError;
use crate::queue::{Claimed, Limits, NewTask, StoreError, Timestamp};

/// Most things that are said to be wrong with an input.
const MAX_ERRORS: usize = 100;
/// Most characters of what is said to be wrong: it may quote a line, and all of it together is one record.
const MAX_MESSAGE: usize = 500;
/// Lines that become tasks at once.
const CHUNK: usize = 500;
/// Their bodies together, roughly, in bytes.
const CHUNK_BYTES: usize = 8 << 20;
/// Of a line: servers that run many lines die more often than lines fail.
const MAX_RETRIES: u32 = 10;
/// How long to wait before the first look at whether all tasks have ended; each wait is longer.
const FIRST_LOOK: Duration = Duration::from_millis(20);
/// The longest wait between two looks.
const LAST_LOOK: Duration = Duration::from_secs(1);

/// Runs the tasks of the pool [`POOL`](super::POOL), each of which is a batch.
#[derive(Debug)]
pub(crate) struct Driver(Arc<Jobs>);

impl Driver {
    pub(crate) fn new(jobs: &Arc<Jobs>) -> Self {
        Self(Arc::clone(jobs))
    }
}

impl Runner for Driver {
    fn room(&self, _: usize) -> usize {
        usize::MAX
    }

    fn run(&self, task: &Claimed) -> Running {
        let text = |name: &str| task.body[name].as_str().unwrap_or_default().to_owned();
        let drive = Drive {
            jobs: Arc::clone(&self.0),
            tenant: text("tenant"),
            id: text("batch"),
        };
        Box::pin(async move {
            while let Err(failure) = drive.to_its_end().await {
                let Some(error) = failure.permanent() else {
                    return Err(later(failure));
                };
                drive.give_up(error).await.map_err(later)?;
            }
            Ok(Value::Null)
        })
    }
}

/// What the queue is told of a batch that cannot go on: to try again after a pause, as often as it takes. Given back unharmed (503) it would
/// be claimed again at once, and a disk that is full is no emptier by then.
pub(super) fn later(failure: JobFailure) -> ApiError {
    ApiError {
        status: 500,
        ..failure.into()
    }
}

/// A batch on its way.
pub(super) struct Drive {
    pub(super) jobs: Arc<Jobs>,
    pub(super) tenant: String,
    pub(super) id: String,
}

pub(super) type Input = Requests<BufReader<File>>;

impl Drive {
    async fn to_its_end(&self) -> Result<(), JobFailure> {
        while let Some(batch) = self.jobs.batch(&self.tenant, &self.id).await? {
            match batch.status {
                BatchStatus::Validating => self.validate(&batch).await?,
                BatchStatus::InProgress => {
                    self.submit(&batch).await?;
                    if self.all_ended(BatchStatus::InProgress).await? {
                        let goes_on = [BatchStatus::InProgress];
                        self.enter(&goes_on, BatchStatus::Finalizing).await?;
                    }
                }
                BatchStatus::Finalizing => {
                    let written = results::write(self, &batch).await?;
                    let next = match written.expired {
                        // Its input was gone before all of it had been read.
                        _ if !batch.errors.is_empty() => BatchStatus::Failed,
                        true => BatchStatus::Expired,
                        false => BatchStatus::Completed,
                    };
                    self.end(next, written).await?;
                }
                BatchStatus::Cancelling => {
                    self.jobs.cancel_lines(&self.tenant, &self.id).await?;
                    if self.all_ended(BatchStatus::Cancelling).await? {
                        let written = results::write(self, &batch).await?;
                        self.end(BatchStatus::Cancelled, written).await?;
                    }
                }
                _ => break,
            }
        }
        Ok(())
    }

    /// Says what a batch cannot get past, which ends it: at once, or when the lines that are tasks by now have ended.
    pub(super) async fn give_up(&self, error: &StoreError) -> Result<(), JobFailure> {
        let now = seconds(Timestamp::now());
        let refusal = refusal(error);
        let error = BatchError {
            param: refusal.param,
            ..whole(refusal.code.unwrap_or("invalid_value"), refusal.message)
        };
        let change = |batch: &mut Batch| {
            // One that cannot even be ended so is ended the hard way. Somebody may have cancelled it meanwhile: what was answered is kept then too.
            let has_tasks = matches!(
                batch.status,
                BatchStatus::InProgress | BatchStatus::Cancelling
            );
            let can_go_on = has_tasks && batch.errors.is_empty();
            if !batch.status.is_final() {
                batch.errors = vec![error.clone()];
                if !can_go_on {
                    batch.enter(BatchStatus::Failed, now);
                }
            }
        };
        self.change(change).await
    }

    /// Looks at every line before the first of them is a task.
    async fn validate(&self, batch: &Batch) -> Result<(), JobFailure> {
        let found = match self.input(batch).await {
            Ok(input) => {
                let endpoint = batch.endpoint.clone();
                blocking(move || check(input, &endpoint)).await?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(vec![gone(batch)]),
            Err(error) => return Err(error.into()),
        };
        let now = seconds(Timestamp::now());
        let change = |batch: &mut Batch| match &found {
            _ if batch.status != BatchStatus::Validating => {}
            Ok(total) => {
                batch.total = *total;
                batch.enter(BatchStatus::InProgress, now);
            }
            Err(errors) => {
                batch.errors.clone_from(errors);
                batch.enter(BatchStatus::Failed, now);
            }
        };
        self.change(change).await
    }

    /// Makes tasks of the lines that are none yet, unless the batch is to end without them.
    async fn submit(&self, batch: &Batch) -> Result<(), JobFailure> {
        if batch.all_submitted || !batch.errors.is_empty() {
            return Ok(());
        }
        let mut input = match self.input(batch).await {
            // Somebody has deleted it since it was looked at: what are tasks by now are all that there will be.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let is_gone = |batch: &mut Batch| batch.errors = vec![gone(batch)];
                return self.change(is_gone).await;
            }
            input => input?,
        };
        let mut done = batch.submitted;
        loop {
            let read = move || chunk(&mut input, done).map(|chunk| (input, chunk));
            let (rest, lines) = blocking(read).await?;
            input = rest;
            let Some((last, _)) = lines.last() else {
                return self.change(|batch| batch.all_submitted = true).await;
            };
            let last = *last;
            if !self.room(batch).await? {
                return Ok(());
            }
            let tasks = lines
                .into_iter()
                .map(|(number, line)| self.task(batch, number, line));
            self.jobs.submit_all(tasks.collect()).await?;
            done = last;
            self.change(|batch| batch.submitted = batch.submitted.max(done))
                .await?;
            let now = self.jobs.batch(&self.tenant, &self.id).await?;
            if now.is_none_or(|batch| batch.status != BatchStatus::InProgress) {
                return Ok(());
            }
        }
    }

    /// Waits until there is room for tasks, or the time of the batch is over; not if somebody changes how far it is.
    async fn room(&self, batch: &Batch) -> Result<bool, JobFailure> {
        while self.jobs.is_full() && seconds(Timestamp::now()) < batch.expires_at {
            sleep(LAST_LOOK).await;
            let now = self.jobs.batch(&self.tenant, &self.id).await?;
            if now.is_none_or(|now| now.status != batch.status) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn task(&self, batch: &Batch, number: u64, line: BatchLine) -> NewTask {
        let left = Timestamp::from_millis(batch.expires_at.cast_signed().saturating_mul(1000));
        let mut task = self
            .jobs
            .new_task(&self.tenant, &batch.model, line.endpoint.path());
        task.body = Value::Object(line.body);
        task.priority = PRIORITY;
        task.deadline = Some(left);
        task.max_retries = MAX_RETRIES;
        task.idempotency_key = Some(format!("{}/{number}", batch.id));
        task.group = Some(batch.id.clone());
        task.label = Some(line.custom_id);
        task.payer.clone_from(&batch.payer);
        let window = Duration::from_secs(batch.expires_at.saturating_sub(batch.created_at));
        task.retention = self.jobs.kept(window);
        task
    }

    /// Waits until all tasks have ended; not if somebody changes how far the batch is.
    async fn all_ended(&self, status: BatchStatus) -> Result<bool, JobFailure> {
        let mut wait = FIRST_LOOK;
        loop {
            let counts = self.jobs.store.counts(&self.id, Some(&self.tenant)).await?;
            if counts.queued + counts.running == 0 {
                return Ok(true);
            }
            let batch = self.jobs.batch(&self.tenant, &self.id).await?;
            if batch.is_none_or(|batch| batch.status != status) {
                return Ok(false);
            }
            sleep(wait).await;
            wait = (wait * 3 / 2).min(LAST_LOOK);
        }
    }

    async fn enter(&self, from: &[BatchStatus], to: BatchStatus) -> Result<(), JobFailure> {
        let now = seconds(Timestamp::now());
        let change = |batch: &mut Batch| {
            if from.contains(&batch.status) {
                batch.enter(to, now);
            }
        };
        self.change(change).await
    }

    async fn end(&self, status: BatchStatus, written: results::Written) -> Result<(), JobFailure> {
        let now = seconds(Timestamp::now());
        let change = |batch: &mut Batch| {
            batch.output_file_id.clone_from(&written.output);
            batch.error_file_id.clone_from(&written.errors);
            batch.completed = written.completed;
            batch.failed = written.failed;
            batch.enter(status, now);
        };
        self.change(change).await
    }

    async fn change(&self, change: impl Fn(&mut Batch) + Send) -> Result<(), JobFailure> {
        self.jobs
            .change_batch(&self.tenant, &self.id, change)
            .await?;
        Ok(())
    }

    /// The input, from its first line.
    pub(super) async fn input(&self, batch: &Batch) -> io::Result<Input> {
        let path = self.jobs.contents.path(&batch.input_file_id)?;
        let file = blocking(move || File::open(path)).await?;
        Ok(Requests::new(BufReader::new(file)))
    }
}

/// Does what waits for the disk, or computes, where nobody else has to wait for it.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}

fn whole(code: &str, message: String) -> BatchError {
    BatchError {
        code: code.to_owned(),
        message: beginning(message),
        param: None,
        line: None,
    }
}

/// Of a message as much as is kept.
fn beginning(message: String) -> String {
    match message.char_indices().nth(MAX_MESSAGE) {
        // Not the same text cut short, which would keep its memory.
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message,
    }
}

/// What is said of a batch whose input has been deleted.
fn gone(batch: &Batch) -> BatchError {
    let message = format!("the file {} is not there any more", batch.input_file_id);
    whole("file_not_found", message)
}

/// How many requests there are, or what is wrong with them.
fn check(mut input: Input, endpoint: &str) -> io::Result<Result<u64, Vec<BatchError>>> {
    let (mut total, mut errors) = (0, Vec::new());
    while let Some((line, request)) = input.next()? {
        total += 1;
        if total > MAX_REQUESTS {
            let message = format!("a batch may have {MAX_REQUESTS} requests: take several");
            return Ok(Err(vec![whole("too_many_requests", message)]));
        }
        let checked = request.map_err(|BadLine { error, .. }| error);
        if let Err(error) = checked.and_then(|request| fits(&request, endpoint))
            && errors.len() < MAX_ERRORS
        {
            errors.push(BatchError {
                param: error.param,
                line: Some(line),
                ..whole(error.code.unwrap_or("invalid_line"), error.message)
            });
        }
    }
    if total == 0 {
        let message = "the file has no requests".to_owned();
        errors.push(whole("empty_file", message));
    }
    Ok(match errors.is_empty() {
        true => Ok(total),
        false => Err(errors),
    })
}

fn fits(request: &BatchLine, endpoint: &str) -> Result<(), ApiError> {
    if request.endpoint.path() != endpoint {
        let message = format!("the batch is for {endpoint}, found `{}`", request.endpoint);
        return Err(ApiError {
            code: Some("mismatched_endpoint"),
            ..ApiError::invalid("url", message)
        });
    }
    let Limits {
        max_body_bytes,
        max_name_bytes: most,
        ..
    } = Limits::default();
    let found = written_bytes(&request.body);
    if found > max_body_bytes {
        // Longer than the line: `1e15` is written as `1000000000000000.0`.
        let message = format!(
            "`body` has {found} bytes as it is written down, at most {max_body_bytes} are allowed: divide the request"
        );
        return Err(ApiError {
            code: Some("body_too_large"),
            ..ApiError::invalid("body", message)
        });
    }
    if request.custom_id.len() > most || request.custom_id.chars().any(char::is_control) {
        let message =
            format!("`custom_id` must have at most {most} bytes and no control characters");
        return Err(ApiError::invalid("custom_id", message));
    }
    Ok(())
}

/// How long a body is where the queue keeps it.
fn written_bytes(body: &Map<String, Value>) -> usize {
    struct Count(usize);
    impl Write for Count {
        fn write(&mut self, part: &[u8]) -> io::Result<usize> {
            self.0 += part.len();
            Ok(part.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    // It cannot fail: what was read as JSON can be written as JSON.
    serde_json::to_writer(&mut count, body).map_or(usize::MAX, |()| count.0)
}

/// The next lines after line `done`. All of them are requests: that has been checked, and files do not change.
fn chunk(input: &mut Input, done: u64) -> io::Result<Vec<(u64, BatchLine)>> {
    let (mut lines, mut bytes) = (Vec::new(), 0);
    while lines.len() < CHUNK && bytes < CHUNK_BYTES {
        let Some((number, request)) = input.next()? else {
            break;
        };
        let request = request.map_err(|bad| io::Error::other(bad.error))?;
        if number > done {
            bytes += written_bytes(&request.body);
            lines.push((number, request));
        }
    }
    Ok(lines)
}
