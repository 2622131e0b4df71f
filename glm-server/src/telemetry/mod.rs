//! Structured logs: one line for each event, as JSON for machines or as text for people, to stderr or to files that are rotated.
//!
//! Spans of requests go to a [`SpanSink`], such as [`OtlpExporter`].
//!
//! [`init`] installs the log for the whole process; what the service says with `tracing` goes there from then on. Lines are written by
//! a thread of their own, so a disk or a reader that is slow slows nobody else; what does not fit between is dropped and counted.
//! Prompts and answers are not logged, unless [`ServeOptions::log_bodies`](crate::http::ServeOptions::log_bodies) asks for it.

mod format;
mod otlp;
mod rotate;
mod spans;
mod writer;

use std::io::{self, Write};
use std::path::PathBuf;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::{Layer, Registry};

use format::Lines;
use rotate::RotatingFile;
use writer::Writer;

pub use otlp::{OtlpEndpoint, OtlpError, OtlpExporter};
pub use spans::{Attribute, Span, SpanSink};
pub use tracing::level_filters::LevelFilter as LogLevel;

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line: `timestamp`, `level`, `service_name`, `message`, `target`, `request_id` and `trace_id` where the event is
    /// about a request, and what else the event says.
    Json,
    /// For people.
    Text,
}

/// Where lines go, instead of to stderr.
#[derive(Debug, Clone)]
pub struct LogFile {
    /// The file that is written to. Earlier ones lie beside it, with the day and a number behind the name.
    pub path: PathBuf,
    /// A new file begins when this one would be larger, and with every day (UTC).
    pub max_bytes: u64,
    /// Earlier files that are kept.
    pub keep: usize,
}

/// What is logged, and how.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// How lines look.
    pub format: LogFormat,
    /// The least important events that are logged.
    pub level: LevelFilter,
    /// `service_name` in every line.
    pub service_name: String,
    /// A file; `None`: stderr.
    pub file: Option<LogFile>,
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The file cannot be written.
    #[error("cannot write the log to {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The system gives no thread.
    #[error("cannot start the thread that writes the log")]
    Thread(#[source] io::Error),
    /// The process has one already.
    #[error("the process has a log already")]
    Installed,
}

/// The log of the process.
#[derive(Debug)]
pub struct Log {
    writer: Writer,
    level: reload::Handle<LevelFilter, Registry>,
}

impl Log {
    /// Logs events of this level and above from now on.
    pub fn set_level(&self, level: LevelFilter) {
        // It fails where the subscriber is gone, and nobody logs then.
        let _ = self.level.reload(level);
    }

    /// Waits a second at most until what has been said is written: to be called before the process ends.
    pub fn flush(&self) {
        self.writer.flush();
    }
}

/// Installs the log of the process.
///
/// # Errors
/// [`LogError`].
pub fn init(options: LogOptions) -> Result<Log, LogError> {
    let target: Box<dyn Write + Send> = match &options.file {
        Some(file) => Box::new(RotatingFile::open(file).map_err(|source| LogError::File {
            path: file.path.clone(),
            source,
        })?),
        None => Box::new(io::stderr()),
    };
    let writer = Writer::start(target).map_err(LogError::Thread)?;
    let (filter, level) = reload::Layer::new(options.level);
    let lines = Lines::new(options.format, options.service_name, writer.clone());
    let subscriber = Registry::default().with(filter.and_then(lines));
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::Installed)?;
    Ok(Log { writer, level })
}
