//! The output: one line for each line of the input that has a result, in any order.

use std::borrow::Cow;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::BatchError;
use super::input::Fingerprints;
use super::lines::{Line, Lines};
use crate::openai::ApiError;

/// Longest line of an output that is read back: more than any answer has.
const MAX_RESULT_BYTES: usize = 1 << 30;

/// What comes before the number of the line in the `id` of its result.
const ID: &str = "batch_req_";
/// How every result begins; what a torn last line is recognised by.
const BEGINNING: &[u8] = br#"{"id":"batch_req_"#;

/// A line of the output, in OpenAI's shape.
#[derive(Debug, Serialize)]
pub(crate) struct BatchResult<'a> {
    id: String,
    custom_id: Option<&'a str>,
    response: Option<Response>,
    error: Option<LineError>,
}

/// What a server would have answered.
#[derive(Debug, Serialize)]
struct Response {
    status_code: u16,
    request_id: String,
    body: Value,
}

#[derive(Debug, Serialize)]
struct LineError {
    code: Option<Cow<'static, str>>,
    message: String,
    param: Option<String>,
    line: u64,
}

impl<'a> BatchResult<'a> {
    pub(crate) fn answer(line: u64, custom_id: &'a str, request_id: String, body: Value) -> Self {
        Self {
            id: format!("{ID}{line}"),
            custom_id: Some(custom_id),
            response: Some(Response {
                status_code: 200,
                request_id,
                body,
            }),
            error: None,
        }
    }

    /// A line that never became a request.
    pub(crate) fn bad_line(line: u64, custom_id: Option<&'a str>, error: ApiError) -> Self {
        Self {
            id: format!("{ID}{line}"),
            custom_id,
            response: None,
            error: Some(LineError {
                code: error.code.map(Cow::Borrowed),
                message: format!("line {line}: {}", error.message),
                param: error.param,
                line,
            }),
        }
    }

    /// A request that was refused or failed.
    pub(crate) fn failure(
        line: u64,
        custom_id: &'a str,
        request_id: String,
        error: ApiError,
    ) -> Self {
        let response = Response {
            status_code: error.status,
            request_id,
            body: json!(error.body()),
        };
        Self {
            response: Some(response),
            ..Self::bad_line(line, Some(custom_id), error)
        }
    }

    /// A request that failed, with an error as a response had it, and as it was kept.
    pub(crate) fn kept_failure(
        line: u64,
        custom_id: &'a str,
        request_id: String,
        status_code: u16,
        error: Value,
    ) -> Self {
        let text = |name: &str| error[name].as_str().map(str::to_owned);
        Self {
            id: format!("{ID}{line}"),
            custom_id: Some(custom_id),
            error: Some(LineError {
                code: text("code").map(Cow::Owned),
                message: text("message").unwrap_or_default(),
                param: text("param"),
                line,
            }),
            response: Some(Response {
                status_code,
                request_id,
                body: json!({ "error": error }),
            }),
        }
    }

    pub(super) fn is_error(&self) -> bool {
        self.error.is_some()
    }
}

/// A result that is in the output already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Done {
    /// The line of the input, from 1.
    pub(super) line: u64,
    /// Fingerprint of its `custom_id`.
    pub(super) custom_id: u128,
}

/// What an output holds.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// In the order of the input.
    pub(super) done: Vec<Done>,
    /// How many of them are errors.
    pub(super) errors: u64,
    /// Where the last whole line ends.
    pub(super) end: u64,
}

/// The output, locked against other runs until it is dropped.
#[derive(Debug)]
pub(super) struct Output {
    file: File,
    path: PathBuf,
}

impl Output {
    /// Opens or creates the output, leaving what is in it.
    pub(super) fn open(path: &Path) -> Result<Self, BatchError> {
        // Opening a pipe that nobody reads would wait for ever.
        if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
            return Err(BatchError::NotAFile(path.to_owned()));
        }
        let mut options = OpenOptions::new();
        let file = options.read(true).append(true).create(true).open(path);
        let file = file.map_err(BatchError::io("open", path))?;
        match file.try_lock() {
            Ok(()) => Ok(Self {
                file,
                path: path.to_owned(),
            }),
            Err(TryLockError::WouldBlock) => Err(BatchError::Locked(path.to_owned())),
            Err(TryLockError::Error(source)) => Err(BatchError::io("lock", path)(source)),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Reads what is there; to be called once, before anything is written.
    pub(super) fn read(&self, fingerprints: &Fingerprints) -> Result<Held, BatchError> {
        let mut lines = Lines::new(BufReader::new(&self.file), MAX_RESULT_BYTES);
        let mut held = Held::default();
        let failed = BatchError::io("read", &self.path);
        while let Some(line) = lines.next().map_err(&failed)? {
            match (read_result(&line, fingerprints), line.ended) {
                (Some((done, is_error)), true) => {
                    held.done.push(done);
                    held.errors += u64::from(is_error);
                    held.end = line.offset + line.text.map_or(0, <[u8]>::len) as u64 + 1;
                }
                (_, false) if line.text.is_some_and(is_torn) => {}
                _ => {
                    return Err(BatchError::NotAResult {
                        path: self.path.clone(),
                        line: line.number,
                    });
                }
            }
        }
        held.done.sort_unstable();
        match held
            .done
            .windows(2)
            .find(|pair| pair[0].line == pair[1].line)
        {
            Some(pair) => Err(BatchError::TwoResults {
                path: self.path.clone(),
                line: pair[0].line,
            }),
            None => Ok(held),
        }
    }

    /// Cuts off a last line of which only a part was written.
    pub(super) fn cut(&self, end: u64) -> Result<(), BatchError> {
        self.file
            .set_len(end)
            .map_err(BatchError::io("shorten", &self.path))
    }

    /// Appends a result. Whoever is killed in between leaves a torn line, which the next run cuts off.
    pub(super) fn write(&mut self, result: &BatchResult<'_>) -> Result<(), BatchError> {
        let failed = BatchError::io("write", &self.path);
        let mut line = serde_json::to_vec(result).map_err(|error| failed(error.into()))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(failed)
    }

    /// Waits until everything is on the disk.
    pub(super) fn sync(&self) -> Result<(), BatchError> {
        self.file
            .sync_data()
            .map_err(BatchError::io("write", &self.path))
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // Closing would not do: the lock belongs to the open file, which a process that is being started elsewhere in this
        // one shares until it runs its own program.
        let _ = self.file.unlock();
    }
}

/// The parts of a result by which it is known again.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    custom_id: Option<Cow<'a, str>>,
    error: Option<IgnoredAny>,
}

/// Whose result it is, and whether it is an error.
fn read_result(line: &Line<'_>, fingerprints: &Fingerprints) -> Option<(Done, bool)> {
    let head: Head<'_> = serde_json::from_slice(line.text?).ok()?;
    let done = Done {
        line: head.id.strip_prefix(ID)?.parse().ok()?,
        custom_id: fingerprints.of(head.custom_id.as_deref()),
    };
    Some((done, head.error.is_some()))
}

/// Whether this may be what was written of a result before the end.
fn is_torn(text: &[u8]) -> bool {
    text.starts_with(BEGINNING) || BEGINNING.starts_with(text)
}
