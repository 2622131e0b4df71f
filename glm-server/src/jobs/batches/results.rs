//! The files of results: what was answered in one, what was not in another; each line of the input once.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::super::JobFailure;
use super::super::contents::Incoming;
use super::super::files::NewFile;
use super::driver::{Drive, Input, blocking};
use super::{Batch, BatchStatus};
use crate::batch::BatchResult;
use crate::openai::ApiError;
use crate::queue::{Filter, Paging, Status, Task, TaskInfo};

/// How many tasks are looked up at a time.
const PAGE: usize = 200;
/// How many lines of the input that were no tasks are looked up at a time.
const PART: usize = 1000;
/// How many bytes their names may have together, roughly. In an input that was not checked a name may be as long as a line.
const PART_BYTES: usize = 1 << 20;

/// What was written.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) output: Option<String>,
    pub(super) errors: Option<String>,
    pub(super) completed: u64,
    pub(super) failed: u64,
    /// The time of some lines was over.
    pub(super) expired: bool,
}

/// A file of results that comes to be with its first line.
struct Output<'a> {
    drive: &'a Drive,
    incoming: Option<Incoming>,
    lines: u64,
}

impl<'a> Output<'a> {
    fn new(drive: &'a Drive) -> Self {
        Self {
            drive,
            incoming: None,
            lines: 0,
        }
    }

    async fn write(&mut self, result: &BatchResult<'_>) -> Result<(), JobFailure> {
        let incoming = match &mut self.incoming {
            Some(incoming) => incoming,
            none => none.insert(self.drive.jobs.begin_file().await?),
        };
        let mut line = serde_json::to_vec(result).map_err(io::Error::from)?;
        line.push(b'\n');
        incoming.write(&line).await?;
        self.lines += 1;
        Ok(())
    }

    /// Keeps the file, if there is one, under the id that follows from the batch: who writes it again replaces it by the same.
    async fn keep(self, batch: &Batch, what: &str) -> Result<Option<String>, JobFailure> {
        let Some(incoming) = self.incoming else {
            return Ok(None);
        };
        let name = batch.id.trim_start_matches("batch_");
        let new = NewFile {
            filename: format!("{}_{what}.jsonl", batch.id),
            purpose: "batch_output".to_owned(),
            expires_after: batch.output_seconds.map(Duration::from_secs),
        };
        let Drive { jobs, tenant, .. } = self.drive;
        let id = format!("file-{name}-{what}");
        let info = jobs.keep_file_as(tenant, id, incoming, new).await?;
        Ok(Some(info.id))
    }
}

/// Writes the files of a batch whose tasks have all ended.
pub(super) async fn write(drive: &Drive, batch: &Batch) -> Result<Written, JobFailure> {
    let (mut output, mut errors) = (Output::new(drive), Output::new(drive));
    let mut written = Written::default();
    let mut seen = HashSet::new();
    let mut paging = Paging {
        limit: PAGE,
        oldest_first: true,
        ..Paging::default()
    };
    loop {
        let filter = Filter {
            tenant: Some(drive.tenant.clone()),
            group: Some(batch.id.clone()),
            ..Filter::default()
        };
        let page = drive.jobs.store.list(filter, paging).await?;
        paging.after = page.items.last().map(|task| task.id);
        for info in &page.items {
            let Some(line) = line_of(info) else { continue };
            let found = drive.jobs.store.get(info.id, Some(&drive.tenant)).await?;
            let Some(task) = found else { continue };
            let result = result(line, &task);
            match info.status {
                Status::Completed => output.write(&result).await?,
                _ => errors.write(&result).await?,
            }
            written.failed += u64::from(matches!(info.status, Status::Failed | Status::Expired));
            written.expired |= info.status == Status::Expired;
            seen.insert(line);
        }
        if !page.has_more {
            break;
        }
    }
    if (seen.len() as u64) < batch.total || batch.total == 0 {
        unseen(drive, batch, seen, &mut errors).await?;
    }
    written.completed = output.lines;
    written.output = output.keep(batch, "output").await?;
    written.errors = errors.keep(batch, "errors").await?;
    Ok(written)
}

/// The line of the input that a task was made of: the end of its key.
fn line_of(info: &TaskInfo) -> Option<u64> {
    let (_, line) = info.idempotency_key.as_deref()?.rsplit_once('/')?;
    line.parse().ok()
}

fn result(line: u64, task: &Task) -> BatchResult<'_> {
    let info = &task.info;
    let custom_id = info.label.as_deref().unwrap_or_default();
    let request_id = format!("req_{}", info.id.to_string().replace('-', ""));
    match (info.status, &task.result, &info.error) {
        (Status::Completed, Some(result), _) => {
            BatchResult::answer(line, custom_id, request_id, result.clone())
        }
        (Status::Failed, _, Some(error)) => {
            let mut error = error.clone();
            let status = error
                .as_object_mut()
                .and_then(|error| error.remove("status"));
            let status = status.as_ref().and_then(Value::as_u64);
            let status = status.and_then(|status| status.try_into().ok());
            BatchResult::kept_failure(line, custom_id, request_id, status.unwrap_or(500), error)
        }
        (Status::Cancelled, ..) => never(line, custom_id, CANCELLED),
        _ => never(line, custom_id, EXPIRED),
    }
}

/// Why a line was not answered: a code, and a message.
type Why = (&'static str, &'static str);

const CANCELLED: Why = (
    "batch_cancelled",
    "the batch was cancelled before this request was answered",
);
const EXPIRED: Why = (
    "batch_expired",
    "this request was not answered before the completion window was over",
);
const FAILED: Why = (
    "batch_failed",
    "the batch failed before this request was a task: `errors` of the batch say why",
);

/// A line that was not answered.
fn never(line: u64, custom_id: &str, (code, message): Why) -> BatchResult<'_> {
    let error = ApiError {
        param: None,
        code: Some(code),
        ..ApiError::invalid("", message)
    };
    BatchResult::bad_line(line, Some(custom_id), error)
}

/// Lines that never were tasks, because the batch was cancelled, or failed, before.
async fn unseen(
    drive: &Drive,
    batch: &Batch,
    seen: HashSet<u64>,
    errors: &mut Output<'_>,
) -> Result<(), JobFailure> {
    let mut input = match drive.input(batch).await {
        // Somebody has deleted it: what it held can no longer be said.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        input => input?,
    };
    let why = match batch.status {
        BatchStatus::Cancelling => CANCELLED,
        _ if !batch.errors.is_empty() => FAILED,
        _ => EXPIRED,
    };
    let seen = Arc::new(seen);
    loop {
        let known = Arc::clone(&seen);
        let read = move || part(&mut input, &known).map(|part| (input, part));
        let (rest, (lines, at_end)) = blocking(read).await?;
        input = rest;
        for (line, custom_id) in &lines {
            errors.write(&never(*line, custom_id, why)).await?;
        }
        if at_end {
            return Ok(());
        }
    }
}

/// Of the next lines those that are not known, with their `custom_id`; and whether there are no more.
fn part(input: &mut Input, known: &HashSet<u64>) -> io::Result<(Vec<(u64, String)>, bool)> {
    let (mut lines, mut bytes) = (Vec::new(), 0);
    while lines.len() < PART && bytes < PART_BYTES {
        let Some((line, request)) = input.next()? else {
            return Ok((lines, true));
        };
        if let Ok(request) = request
            && !known.contains(&line)
        {
            bytes += request.custom_id.len();
            lines.push((line, request.custom_id));
        }
    }
    Ok((lines, false))
}
