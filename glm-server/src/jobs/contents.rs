//! What is in files: one file each in a directory, called by its id. What they are called by their owners is never a path.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncWriteExt, BufWriter};
use uuid::Uuid;

use super::{JobsError, create_private};

/// Where a file is until it is complete.
const INCOMING: &str = "incoming";
/// How long a file that nobody knows is left alone: its description may be on its way.
const GRACE: Duration = Duration::from_secs(3600);

/// The directory.
#[derive(Debug)]
pub(super) struct Contents {
    dir: PathBuf,
    /// It goes with the service.
    is_temporary: bool,
}

impl Contents {
    /// Opens a directory that is to stay, or makes one that goes with the service.
    ///
    /// # Errors
    /// [`JobsError::Directory`].
    pub(super) fn open(dir: Option<PathBuf>) -> Result<Self, JobsError> {
        let is_temporary = dir.is_none();
        let dir = dir.unwrap_or_else(|| {
            std::env::temp_dir().join(format!("glm-files-{}", Uuid::now_v7().simple()))
        });
        if !is_temporary {
            create_private(&dir.join(INCOMING))?;
        }
        Ok(Self { dir, is_temporary })
    }

    /// Begins a file.
    pub(super) async fn begin(&self) -> io::Result<Incoming> {
        if self.is_temporary {
            // Most services never see a file.
            create_private(&self.dir.join(INCOMING)).map_err(io::Error::other)?;
        }
        let path = self
            .dir
            .join(INCOMING)
            .join(Uuid::now_v7().simple().to_string());
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        options.mode(0o600);
        Ok(Incoming {
            file: BufWriter::with_capacity(1 << 16, options.open(&path).await?),
            path: Some(path),
            bytes: 0,
        })
    }

    /// Keeps a complete file under this id. One that has it already is replaced.
    pub(super) async fn keep(&self, mut incoming: Incoming, id: &str) -> io::Result<()> {
        incoming.file.flush().await?;
        incoming.file.get_ref().sync_all().await?;
        if let Some(path) = incoming.path.take() {
            tokio::fs::rename(path, self.path(id)?).await?;
            // The name is on the disk too before anybody is told of it.
            File::open(&self.dir).await?.sync_all().await?;
        }
        Ok(())
    }

    /// Where the file of this id is.
    ///
    /// # Errors
    /// If it is no id, and could be a way out of the directory.
    pub(super) fn path(&self, id: &str) -> io::Result<PathBuf> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        match id.starts_with("file-") && id.bytes().all(is_plain) {
            true => Ok(self.dir.join(id)),
            false => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// Deletes a file; that it is gone already is no error.
    pub(super) async fn remove(&self, id: &str) -> io::Result<()> {
        match tokio::fs::remove_file(self.path(id)?).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Deletes what was not to stay.
    pub(super) fn close(&self) {
        if self.is_temporary {
            // It need not be there, and what is left is in the directory for what is temporary.
            let _ = fs::remove_dir_all(&self.dir);
        }
    }

    /// Whether files can be written.
    pub(super) async fn prove(&self) -> io::Result<()> {
        if self.is_temporary {
            return Ok(());
        }
        let mut probe = self.begin().await?;
        probe.write(b"probe").await?;
        probe.file.flush().await
    }

    /// Ids of complete files that have not been touched for some time. What was never completed is deleted on the way.
    pub(super) fn old(&self) -> io::Result<HashSet<String>> {
        if !self.dir.exists() {
            return Ok(HashSet::new());
        }
        let now = SystemTime::now();
        for path in old_files(&self.dir.join(INCOMING), now)? {
            // Somebody else may have done it.
            let _ = fs::remove_file(path);
        }
        let ids = old_files(&self.dir, now)?.into_iter();
        Ok(ids
            .filter_map(|path| path.file_name()?.to_str().map(str::to_owned))
            .collect())
    }
}

impl Drop for Contents {
    fn drop(&mut self) {
        self.close();
    }
}

fn old_files(dir: &Path, now: SystemTime) -> io::Result<Vec<PathBuf>> {
    let mut old = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // It may just have been renamed.
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        let age = metadata
            .modified()
            .ok()
            .and_then(|at| now.duration_since(at).ok());
        if metadata.is_file() && age.is_some_and(|age| age > GRACE) {
            old.push(entry.path());
        }
    }
    Ok(old)
}

/// A file that is not complete. Dropping it deletes it.
#[derive(Debug)]
pub(crate) struct Incoming {
    file: BufWriter<File>,
    path: Option<PathBuf>,
    bytes: u64,
}

impl Incoming {
    /// Appends to it.
    pub(crate) async fn write(&mut self, part: &[u8]) -> io::Result<()> {
        self.file.write_all(part).await?;
        self.bytes += part.len() as u64;
        Ok(())
    }

    /// How much there is.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Some(path) = self.path.take() {
            let _ = fs::remove_file(path);
        }
    }
}
