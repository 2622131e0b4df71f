//! Files: a description in the queue's database, and the content on the disk.

use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::fs::File;
use uuid::Uuid;

use super::contents::Incoming;
use super::{JobFailure, Jobs};
use crate::queue::{MAX_PAGE, NewRecord, Paging, Record, Timestamp};

const KIND: &str = "file";

/// What a file is for, in OpenAI's words.
pub(crate) const PURPOSES: [&str; 6] = [
    "assistants",
    "batch",
    "evals",
    "fine-tune",
    "user_data",
    "vision",
];

/// What is known of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileInfo {
    pub(crate) id: String,
    pub(crate) bytes: u64,
    /// Seconds since 1970.
    pub(crate) created_at: u64,
    /// As its owner calls it.
    pub(crate) filename: String,
    pub(crate) purpose: String,
    /// Seconds since 1970.
    pub(crate) expires_at: Option<u64>,
}

impl FileInfo {
    /// As OpenAI writes it.
    pub(crate) fn view(&self) -> Value {
        json!({
            "id": self.id,
            "object": "file",
            "bytes": self.bytes,
            "created_at": self.created_at,
            "expires_at": self.expires_at,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
            "status_details": null,
        })
    }
}

/// What a file is to be called.
#[derive(Debug)]
pub(crate) struct NewFile {
    pub(crate) filename: String,
    pub(crate) purpose: String,
    pub(crate) expires_after: Option<Duration>,
}

impl Jobs {
    /// Begins a file.
    ///
    /// # Errors
    /// [`JobFailure::Disk`].
    pub(crate) async fn begin_file(&self) -> Result<Incoming, JobFailure> {
        Ok(self.contents.begin().await?)
    }

    /// Keeps a file that is complete, under a new id.
    ///
    /// # Errors
    /// [`JobFailure`]; then it is not there.
    pub(crate) async fn keep_file(
        &self,
        tenant: &str,
        incoming: Incoming,
        new: NewFile,
    ) -> Result<FileInfo, JobFailure> {
        let id = format!("file-{}", Uuid::now_v7().simple());
        self.keep_file_as(tenant, id, incoming, new).await
    }

    /// The same under an id that the caller makes. If there is one with this id already, it stays as it is described.
    pub(super) async fn keep_file_as(
        &self,
        tenant: &str,
        id: String,
        incoming: Incoming,
        new: NewFile,
    ) -> Result<FileInfo, JobFailure> {
        let now = Timestamp::now();
        let expires = new.expires_after.map(|time| now.after(time));
        let info = FileInfo {
            id,
            bytes: incoming.bytes(),
            created_at: seconds(now),
            filename: new.filename,
            purpose: new.purpose,
            expires_at: expires.map(seconds),
        };
        // The content first: what is described is there.
        self.contents.keep(incoming, &info.id).await?;
        if let Some(there) = self.file(tenant, &info.id).await? {
            return Ok(there);
        }
        let record = NewRecord {
            expires,
            ..NewRecord::new(KIND, &*info.id, tenant, json!(info))
        };
        self.store.put_record(record, 0, now).await?;
        Ok(info)
    }

    /// A file of this tenant.
    pub(crate) async fn file(
        &self,
        tenant: &str,
        id: &str,
    ) -> Result<Option<FileInfo>, JobFailure> {
        let record = self.store.record(KIND, id, Some(tenant)).await?;
        Ok(record.and_then(|record| read(&record, Timestamp::now())))
    }

    /// Files of this tenant that `wanted` says yes to: up to `limit`, and whether there are more.
    pub(crate) async fn files(
        &self,
        tenant: &str,
        paging: Paging<String>,
        wanted: impl Fn(&FileInfo) -> bool + Send,
    ) -> Result<(Vec<FileInfo>, bool), JobFailure> {
        let now = Timestamp::now();
        let mut files = Vec::new();
        let mut part = Paging {
            limit: MAX_PAGE,
            ..paging.clone()
        };
        loop {
            let page = self.store.records(KIND, Some(tenant), part.clone()).await?;
            part.after = page.items.last().map(|record| record.id.clone());
            let there = page.items.iter().filter_map(|record| read(record, now));
            files.extend(there.filter(&wanted));
            if files.len() > paging.limit || !page.has_more {
                let has_more = files.len() > paging.limit;
                files.truncate(paging.limit);
                return Ok((files, has_more));
            }
        }
    }

    /// The content of a file.
    ///
    /// # Errors
    /// [`JobFailure::Disk`], also if there is none.
    pub(crate) async fn content(&self, info: &FileInfo) -> Result<File, JobFailure> {
        Ok(File::open(self.contents.path(&info.id)?).await?)
    }

    /// Deletes a file of this tenant; whether it was there.
    pub(crate) async fn remove_file(&self, tenant: &str, id: &str) -> Result<bool, JobFailure> {
        // The description first: what is left without one is deleted some day.
        let was_there = self.store.remove_record(KIND, id, Some(tenant)).await?;
        if was_there {
            self.contents.remove(id).await?;
        }
        Ok(was_there)
    }

    /// Deletes contents that nothing describes any more.
    pub(super) async fn sweep(self: &std::sync::Arc<Self>) -> Result<(), JobFailure> {
        let jobs = std::sync::Arc::clone(self);
        let old = tokio::task::spawn_blocking(move || jobs.contents.old()).await;
        for id in old.map_err(io::Error::other)?? {
            if self.store.record(KIND, &id, None).await?.is_none() && id.starts_with("file-") {
                self.contents.remove(&id).await?;
            }
        }
        Ok(())
    }
}

/// The file of a record, unless its time is over: then it is deleted soon.
fn read(record: &Record, now: Timestamp) -> Option<FileInfo> {
    match record.expires.is_none_or(|expires| expires > now) {
        true => FileInfo::deserialize(&record.value).ok(),
        false => None,
    }
}

/// Seconds since 1970.
pub(super) fn seconds(time: Timestamp) -> u64 {
    time.as_millis().unsigned_abs() / 1000
}
