//! Batches: a file of requests, each of which becomes a task, and in the end a file of results.
//!
//! A batch is a record in the queue's database, and a task in the pool [`POOL`]: whichever service claims that task drives the batch to
//! its end ([`Driver`]). Every step can be repeated, so a service that dies leaves nothing half done: lines are submitted under keys
//! of their own, and files of results have ids that follow from the batch.

mod driver;
mod record;
mod results;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

pub(crate) use self::driver::Driver;
pub(crate) use self::record::{Batch, BatchStatus};
use super::files::{FileInfo, seconds};
use super::{JobFailure, Jobs};
use crate::queue::{NewRecord, NewTask, Paging, Record, StoreError, Timestamp};

/// The pool of the tasks that drive batches.
pub(crate) const POOL: &str = "batches";
/// Most batches that one service drives at a time. Driving is mostly waiting.
pub(crate) const MAX_DRIVEN: usize = 256;
/// Most requests of a batch, which is OpenAI's limit.
const MAX_REQUESTS: u64 = 50_000;
/// Of the tasks of a batch: a request that somebody submitted alone goes before those of a batch that are up to ten minutes older.
const PRIORITY: i32 = -10;

const KIND: &str = "batch";
/// Whose the tasks are that drive batches: nobody's who could ask for them.
const NOBODY: &str = "";

/// What a batch is made of.
#[derive(Debug)]
pub(crate) struct NewBatch {
    pub(crate) endpoint: String,
    pub(crate) model: String,
    pub(crate) input: FileInfo,
    pub(crate) completion_window: String,
    /// What `completion_window` says.
    pub(crate) window: Duration,
    pub(crate) metadata: Option<Map<String, Value>>,
    /// How long the files of results are kept.
    pub(crate) output_expires_after: Option<Duration>,
    /// Whose limits its tasks use up.
    pub(crate) payer: Option<String>,
}

impl Jobs {
    /// Begins a batch, even if nobody waits for the answer: half of one is of no use.
    ///
    /// # Errors
    /// [`JobFailure::Store`].
    pub(crate) async fn create_batch(
        self: &Arc<Self>,
        tenant: &str,
        new: NewBatch,
    ) -> Result<Batch, JobFailure> {
        let begun = Arc::clone(self).begin_batch(tenant.to_owned(), new);
        tokio::spawn(begun).await.map_err(io::Error::other)?
    }

    async fn begin_batch(
        self: Arc<Self>,
        tenant: String,
        new: NewBatch,
    ) -> Result<Batch, JobFailure> {
        let now = Timestamp::now();
        let batch = Batch {
            id: format!("batch_{}", Uuid::now_v7().simple()),
            endpoint: new.endpoint,
            model: new.model,
            input_file_id: new.input.id,
            completion_window: new.completion_window,
            created_at: seconds(now),
            expires_at: seconds(now.after(new.window)),
            metadata: new.metadata,
            output_seconds: new.output_expires_after.map(|time| time.as_secs()),
            payer: new.payer,
            ..Batch::default()
        };
        // Its tasks have come to their end by then and are kept no longer.
        let kept = self.kept(new.window).saturating_add(new.window);
        let record = NewRecord {
            expires: Some(now.after(kept)),
            ..NewRecord::new(KIND, &*batch.id, &*tenant, json!(batch))
        };
        self.store.put_record(record, 0, now).await?;
        // Whoever dies in between leaves a batch that nobody drives, and that nobody was told of: it is deleted when its time is over.
        let body = json!({"tenant": tenant, "batch": batch.id});
        let task = NewTask {
            pool: POOL.to_owned(),
            max_retries: u32::MAX >> 1,
            idempotency_key: Some(batch.id.clone()),
            ..NewTask::new(NOBODY, "batch", body)
        };
        self.submit(task).await?;
        Ok(batch)
    }

    /// How long the tasks of a batch are kept after their end: their results are needed until the batch ends, which may be long after them.
    fn kept(&self, window: Duration) -> Duration {
        let longest = window.saturating_add(Duration::from_hours(24));
        self.options.retention.max(longest)
    }

    /// A batch of this tenant, with the counts of this moment.
    pub(crate) async fn batch(&self, tenant: &str, id: &str) -> Result<Option<Batch>, JobFailure> {
        let record = self.store.record(KIND, id, Some(tenant)).await?;
        match record.as_ref().and_then(read) {
            Some(batch) => Ok(Some(self.counted(tenant, batch).await?)),
            None => Ok(None),
        }
    }

    /// Batches of this tenant, and whether there are more.
    pub(crate) async fn batches(
        &self,
        tenant: &str,
        paging: Paging<String>,
    ) -> Result<(Vec<Batch>, bool), JobFailure> {
        let page = self.store.records(KIND, Some(tenant), paging).await?;
        let mut batches = Vec::new();
        for batch in page.items.iter().filter_map(read) {
            batches.push(self.counted(tenant, batch).await?);
        }
        Ok((batches, page.has_more))
    }

    async fn counted(&self, tenant: &str, mut batch: Batch) -> Result<Batch, JobFailure> {
        // What is over is counted, and its tasks may be gone.
        if !batch.status.is_final() {
            let counts = self.store.counts(&batch.id, Some(tenant)).await?;
            batch.completed = counts.completed;
            batch.failed = counts.failed + counts.expired;
        }
        Ok(batch)
    }

    /// Asks for the end of a batch of this tenant. Answers it as it is then: one that has come to its end already is not changed.
    pub(crate) async fn cancel_batch(
        &self,
        tenant: &str,
        id: &str,
    ) -> Result<Option<Batch>, JobFailure> {
        let cancel = |batch: &mut Batch| {
            use BatchStatus::{Cancelling, InProgress, Validating};
            if matches!(batch.status, Validating | InProgress) {
                batch.status = Cancelling;
                batch.cancelling_at = Some(seconds(Timestamp::now()));
            }
        };
        if self.change_batch(tenant, id, cancel).await?.is_none() {
            return Ok(None);
        }
        let batch = self.batch(tenant, id).await?;
        if batch
            .as_ref()
            .is_some_and(|b| b.status == BatchStatus::Cancelling)
        {
            self.cancel_lines(tenant, id).await?;
        }
        Ok(batch)
    }

    /// Ends all tasks of a batch: those that run here at once, those that run elsewhere at their next heartbeat.
    async fn cancel_lines(&self, tenant: &str, id: &str) -> Result<(), JobFailure> {
        let now = Timestamp::now();
        self.store.cancel_group(id, Some(tenant), now).await?;
        self.held.cancel_group(id);
        Ok(())
    }

    /// Changes a batch, whatever others do to it meanwhile. Answers what it is then.
    async fn change_batch(
        &self,
        tenant: &str,
        id: &str,
        change: impl Fn(&mut Batch) + Send,
    ) -> Result<Option<Batch>, JobFailure> {
        loop {
            let Some(record) = self.store.record(KIND, id, Some(tenant)).await? else {
                return Ok(None);
            };
            let Some(before) = read(&record) else {
                return Ok(None);
            };
            let mut batch = before.clone();
            change(&mut batch);
            if batch == before {
                return Ok(Some(batch));
            }
            let now = Timestamp::now();
            let retention = self.options.retention;
            let new = NewRecord {
                expires: match batch.status.is_final() {
                    true => Some(now.after(retention)),
                    false => record.expires,
                },
                ..NewRecord::new(KIND, id, tenant, json!(batch))
            };
            match self.store.put_record(new, record.version, now).await {
                Ok(_) => return Ok(Some(batch)),
                Err(StoreError::Changed { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn read(record: &Record) -> Option<Batch> {
    Batch::deserialize(&record.value).ok()
}
