//! Batches: a file of requests in, a file of results out, both in OpenAI's format, one JSON object a line.
//!
//! ```no_run
//! use glm_runtime::Engine;
//! use glm_server::batch::{Batch, BatchOptions};
//!
//! let batch = Batch::open("requests.jsonl".as_ref(), "results.jsonl".as_ref())?;
//! let engine = Engine::builder("demo").build()?;
//! let end = batch.start(&engine, BatchOptions::default()).finish(|_| {})?;
//! println!("{} of {} lines have a result", end.done, end.lines);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The guarantee: however often a batch is killed, and at whatever moment, once it has been run to its end the output has exactly one
//! result for every line of the input that is not blank. It is kept by this:
//!
//! - the `id` of a result names the line of the input that it belongs to, so the output itself says what is done;
//! - a result is appended in one piece when it is there, so a run that is killed leaves whole lines and at most one torn one at the end;
//! - the next run cuts that off, skips what is done, and is refused an output whose results belong to other lines than these;
//! - the output is locked, so there is one run at a time.
//!
//! Neither file is held in memory: requests are read as the engine has room for them, and of each line that was read less than 100
//! bytes are kept.

mod error;
mod input;
mod lines;
mod output;
mod run;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use glm_runtime::EngineHandle;
use glm_runtime::batch::WindowOptions;
use serde::Serialize;

pub use self::error::BatchError;
use self::input::Fingerprints;
pub use self::input::MAX_LINE_BYTES;
pub(crate) use self::input::{BadLine, BatchLine, Requests};
use self::lines::Lines;
pub(crate) use self::output::BatchResult;
use self::output::{Done, Output};
pub use self::run::Run;

/// What can be chosen about a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BatchOptions {
    /// For requests that bring no seed: each gets one that follows from this and from its line, so that a batch that was killed
    /// has the same results as one that was not. Default: a fresh one for each.
    pub seed: Option<u64>,
    /// How much is held in memory.
    pub window: WindowOptions,
}

/// How far a batch is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Progress {
    /// Lines of the input that are not blank.
    pub lines: u64,
    /// How many of them have a result.
    pub done: u64,
    /// How many of these results are errors.
    pub errors: u64,
    /// How many results were there before this run.
    pub earlier: u64,
    /// Tokens in the prompts that this run had answered.
    pub prompt_tokens: u64,
    /// Tokens that this run generated, in answers that are complete.
    pub completion_tokens: u64,
    /// Whether it was stopped before its end.
    pub stopped: bool,
}

/// An input and an output that belong together, checked.
#[derive(Debug)]
pub struct Batch {
    input: PathBuf,
    lines: Lines<BufReader<File>>,
    output: Output,
    fingerprints: Fingerprints,
    /// In the order of the input.
    done: Vec<Done>,
    progress: Progress,
}

impl Batch {
    /// Opens both files, and finds out what is to be done. An output that does not exist is created; a torn last line is cut off.
    ///
    /// # Errors
    /// [`BatchError`]: a file cannot be opened, or the output holds something else than results of this input. Then nothing
    /// in it is changed.
    pub fn open(input: &Path, output: &Path) -> Result<Self, BatchError> {
        let file = open_input(input)?;
        let output = Output::open(output)?;
        if is_same_file(input, &file, &output).map_err(BatchError::io("open", input))? {
            return Err(BatchError::SameFile(input.to_owned()));
        }
        let fingerprints = Fingerprints::default();
        let held = output.read(&fingerprints)?;
        let mut lines = Lines::new(BufReader::new(file), MAX_LINE_BYTES);
        let total = check(&mut lines, &held.done, &fingerprints)
            .map_err(BatchError::io("read", input))?
            .map_err(|line| BatchError::OtherInput {
                input: input.to_owned(),
                output: output.path().to_owned(),
                line,
            })?;
        output.cut(held.end)?;
        let earlier = held.done.len() as u64;
        Ok(Self {
            lines: Lines::new(BufReader::new(open_input(input)?), MAX_LINE_BYTES),
            input: input.to_owned(),
            output,
            fingerprints,
            done: held.done,
            progress: Progress {
                lines: total,
                done: earlier,
                errors: held.errors,
                earlier,
                ..Progress::default()
            },
        })
    }

    /// What is done by now.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Prepares to run what is missing on `engine`.
    pub fn start(self, engine: &EngineHandle, options: BatchOptions) -> Run {
        Run::new(self, engine, options)
    }
}

fn open_input(path: &Path) -> Result<File, BatchError> {
    let failed = BatchError::io("open", path);
    if !fs::metadata(path).map_err(&failed)?.is_file() {
        return Err(BatchError::NotAFile(path.to_owned()));
    }
    File::open(path).map_err(failed)
}

#[cfg(unix)]
fn is_same_file(_: &Path, input: &File, output: &Output) -> std::io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let (input, output) = (input.metadata()?, output.file().metadata()?);
    Ok((input.dev(), input.ino()) == (output.dev(), output.ino()))
}

#[cfg(not(unix))]
fn is_same_file(path: &Path, _: &File, output: &Output) -> std::io::Result<bool> {
    Ok(path.canonicalize()? == output.path().canonicalize()?)
}

/// Counts the lines, if everything that is done belongs to them; else the number of the first result that does not.
fn check(
    lines: &mut Lines<BufReader<File>>,
    done: &[Done],
    fingerprints: &Fingerprints,
) -> std::io::Result<Result<u64, u64>> {
    let mut done = done.iter().peekable();
    let mut total = 0;
    while let Some(line) = lines.next()? {
        total += 1;
        // A result of a line before this one, which was skipped: that line is blank.
        if let Some(result) = done.next_if(|done| done.line <= line.number) {
            let custom_id = input::custom_id(&line);
            let is_ours = fingerprints.of(custom_id.as_deref()) == result.custom_id;
            if result.line < line.number || !is_ours {
                return Ok(Err(result.line));
            }
        }
    }
    Ok(done.next().map_or(Ok(total), |result| Err(result.line)))
}
