//! [`JobsOptions`].

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Where tasks are kept.
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum QueuePlace {
    /// In memory: they end with the service.
    #[default]
    Memory,
    /// In a file of SQLite, which several services of one machine may share. Its directory is created.
    File(PathBuf),
    /// In the PostgreSQL of this URL, which several machines may share.
    #[cfg(feature = "postgres")]
    Postgres(String),
}

impl fmt::Debug for QueuePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("Memory"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            // The URL has a password.
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => f.write_str("Postgres(***)"),
        }
    }
}

/// How the service keeps and runs what is answered later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobsOptions {
    /// Where tasks are kept. Default: in memory.
    pub queue: QueuePlace,
    /// Directory of the contents of files. Services that share a queue must share it too, and others must not: a queue deletes files that it
    /// does not know. Default: one of the service's own, which is removed when the service ends.
    pub files: Option<PathBuf>,
    /// Most tasks that wait; further ones are refused with 429, and lines of batches stay in their files. Default: 100,000.
    pub max_queued: u64,
    /// Most tasks that run at a time. Default: as many as the engine computes together.
    pub max_workers: Option<usize>,
    /// How long a task waits for another server when the one that ran it has died. Default: 30 s.
    pub lease: Duration,
    /// How long tasks are kept after their end. Default: 30 days.
    pub retention: Duration,
    /// Largest file. Default: 512 MiB.
    pub max_file_bytes: u64,
}

impl Default for JobsOptions {
    fn default() -> Self {
        Self {
            queue: QueuePlace::Memory,
            files: None,
            max_queued: 100_000,
            max_workers: None,
            lease: Duration::from_secs(30),
            retention: Duration::from_hours(30 * 24),
            max_file_bytes: 512 << 20,
        }
    }
}
