//! Options for what the service answers later.

use std::env;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueHint};
use glm_server::http::{JobsOptions, QueuePlace};

use crate::values;

/// Where tasks are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueueChoice {
    Memory,
    /// The URL of a database.
    #[cfg(feature = "postgres")]
    Postgres(String),
}

/// Options of commands that keep tasks.
#[derive(Debug, Args)]
#[command(next_help_heading = "Tasks, files and batches")]
pub struct TaskArgs {
    /// Directory of tasks and files, created if need be [default: glm in $XDG_STATE_HOME or ~/.local/state]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub state_dir: Option<PathBuf>,

    /// Keep tasks elsewhere than in the state directory: memory, or postgres://USER:PASSWORD@HOST/DATABASE, which several machines can
    /// share together with the state directory
    #[arg(long, value_name = "PLACE", value_parser = queue)]
    pub queue: Option<QueueChoice>,

    /// Most tasks that wait; further ones are refused
    #[arg(long, value_name = "N", default_value = "100000", allow_negative_numbers = true, value_parser = values::positive)]
    pub max_queued_tasks: usize,

    /// Most tasks that run at a time [default: as many as are computed together]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = values::positive)]
    pub max_workers: Option<usize>,

    /// Seconds that tasks of a server that died wait for another one
    #[arg(long, value_name = "SECONDS", default_value = "30", allow_negative_numbers = true, value_parser = values::seconds_above_zero)]
    pub task_lease: Duration,

    /// Seconds that tasks are kept after their end
    #[arg(long, value_name = "SECONDS", default_value = "2592000", allow_negative_numbers = true, value_parser = values::seconds)]
    pub task_retention: Duration,

    /// Largest file of /v1/files
    #[arg(long, value_name = "SIZE", default_value = "512MiB", value_parser = values::bytes)]
    pub max_file_size: u64,
}

fn queue(text: &str) -> Result<QueueChoice, String> {
    match text {
        "memory" => Ok(QueueChoice::Memory),
        url if url.starts_with("postgres://") || url.starts_with("postgresql://") => postgres(url),
        _ => Err(format!(
            "expected `memory` or `postgres://…`, found `{text}`"
        )),
    }
}

#[cfg(feature = "postgres")]
fn postgres(url: &str) -> Result<QueueChoice, String> {
    Ok(QueueChoice::Postgres(url.to_owned()))
}

#[cfg(not(feature = "postgres"))]
fn postgres(_: &str) -> Result<QueueChoice, String> {
    Err("this program was built without PostgreSQL: build it with `--features postgres`".to_owned())
}

impl TaskArgs {
    /// What the service is told, and what the user should know about it.
    pub fn options(&self) -> (JobsOptions, Option<String>) {
        let (dir, remark) = self.directory();
        // A queue deletes files that it does not know, so those of another one are not in the same place.
        let (queue, files) = match (&self.queue, &dir) {
            (Some(QueueChoice::Memory), _) | (None, None) => (QueuePlace::Memory, "files-memory"),
            #[cfg(feature = "postgres")]
            (Some(QueueChoice::Postgres(url)), _) => {
                (QueuePlace::Postgres(url.clone()), "files-postgres")
            }
            (None, Some(dir)) => (QueuePlace::File(dir.join("queue.db")), "files"),
        };
        let options = JobsOptions {
            queue,
            files: dir.map(|dir| dir.join(files)),
            max_queued: self.max_queued_tasks as u64,
            max_workers: self.max_workers,
            lease: self.task_lease,
            retention: self.task_retention,
            max_file_bytes: self.max_file_size,
        };
        (options, remark)
    }

    /// The state directory. Without one that can be used, unless it was asked for, the service works all the same: in a container
    /// whose files are read-only, for one.
    fn directory(&self) -> (Option<PathBuf>, Option<String>) {
        if self.state_dir.is_some() || self.queue == Some(QueueChoice::Memory) {
            return (self.state_dir.clone(), None);
        }
        let kept = match self.queue {
            None => "tasks and files are",
            Some(_) => "files are",
        };
        let remark = |why: String| {
            format!(
                "{kept} kept until the service ends: {why}; --state-dir names a directory for them"
            )
        };
        let Some(dir) = default_directory() else {
            let why = "there is no home directory".to_owned();
            return (None, Some(remark(why)));
        };
        match try_directory(&dir) {
            Ok(()) => (Some(dir), None),
            Err(error) => (None, Some(remark(format!("{}: {error}", dir.display())))),
        }
    }
}

fn default_directory() -> Option<PathBuf> {
    let of = |name| {
        env::var_os(name)
            .map(PathBuf::from)
            .filter(|dir| dir.is_absolute())
    };
    let state = of("XDG_STATE_HOME").or_else(|| Some(of("HOME")?.join(".local/state")));
    state.map(|state| state.join("glm"))
}

/// Whether files can be created there.
fn try_directory(dir: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)?;
    let probe = dir.join(format!(".probe-{}", std::process::id()));
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&probe)?;
    fs::remove_file(probe)
}
