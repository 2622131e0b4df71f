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
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use glm_runtime::batch::{Answered, Job, Stopper, Window, WindowOptions};
use glm_runtime::{Completion, EngineError, EngineHandle};
use serde::Serialize;

pub use self::error::BatchError;
pub use self::input::MAX_LINE_BYTES;
pub(crate) use self::input::{BadLine, BatchLine, Requests};
use self::input::{Fingerprints, parse};
use self::lines::Lines;
pub(crate) use self::output::BatchResult;
use self::output::{Done, Output};
use crate::openai::{ApiError, Call, Form, Stamp};

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
        let window = Window::new(engine, options.window);
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        Run {
            engine: engine.clone(),
            window,
            seed: options.seed,
            next_done: 0,
            seen: HashSet::with_capacity(self.done.len()),
            started: since_epoch.unwrap_or_default().as_secs(),
            batch: self,
        }
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

/// A batch on an engine.
#[derive(Debug)]
pub struct Run {
    batch: Batch,
    engine: EngineHandle,
    window: Window<Asked>,
    seed: Option<u64>,
    /// Index of the first entry of [`Batch::done`] whose line is still to come.
    next_done: usize,
    /// Fingerprints of every `custom_id` so far.
    seen: HashSet<u128>,
    /// Seconds since 1970.
    started: u64,
}

/// A request that the engine works on.
#[derive(Debug)]
struct Asked {
    line: u64,
    custom_id: String,
    form: Form,
}

/// What a line of the input comes to before the engine has seen it.
enum Read {
    /// There is a result already.
    Done,
    Job(Job<Asked>),
    /// It is an error.
    Result {
        line: u64,
        custom_id: Option<String>,
        error: ApiError,
        /// Whether it is the body that is wrong, not the line.
        of_body: bool,
    },
}

impl Run {
    /// To be called from another thread, for Ctrl-C and the like: [`Self::finish`] then comes to its end, leaving what is not
    /// answered to another run.
    pub fn stopper(&self) -> Stopper {
        self.window.stopper()
    }

    /// Runs to the end, and calls `on_result` after every result.
    ///
    /// # Errors
    /// [`BatchError`] if a file cannot be read or written, or the engine ends. Results written before stay.
    pub fn finish(mut self, mut on_result: impl FnMut(&Progress)) -> Result<Progress, BatchError> {
        let mut at_end = false;
        loop {
            while !at_end && self.window.has_room() {
                match self.read()? {
                    None => at_end = true,
                    Some(Read::Done) => {}
                    Some(Read::Job(job)) => self.window.push(job),
                    Some(Read::Result {
                        line,
                        custom_id,
                        error,
                        of_body,
                    }) => {
                        let custom_id = custom_id.as_deref();
                        let result = match custom_id.filter(|_| of_body) {
                            Some(id) => {
                                BatchResult::failure(line, id, self.request_id(line), error)
                            }
                            None => BatchResult::bad_line(line, custom_id, error),
                        };
                        self.write(&result)?;
                        on_result(&self.batch.progress);
                    }
                }
            }
            let Some(answered) = self.window.next() else {
                break;
            };
            self.write_answer(answered)?;
            on_result(&self.batch.progress);
        }
        self.batch.output.sync()?;
        let progress = &mut self.batch.progress;
        progress.stopped = self.window.is_stopped();
        Ok(*progress)
    }

    /// Reads a line of the input.
    fn read(&mut self) -> Result<Option<Read>, BatchError> {
        let batch = &mut self.batch;
        let failed = BatchError::io("read", &batch.input);
        let Some(line) = batch.lines.next().map_err(failed)? else {
            return Ok(None);
        };
        if let Some(done) = batch.done.get(self.next_done)
            && done.line == line.number
        {
            self.next_done += 1;
            self.seen.insert(done.custom_id);
            return Ok(Some(Read::Done));
        }
        let (number, parsed) = (
            line.number,
            parse(&line, &mut self.seen, &batch.fingerprints),
        );
        Ok(Some(match parsed {
            Ok(parsed) => self.ask(number, parsed),
            Err(BadLine { custom_id, error }) => Read::Result {
                line: number,
                custom_id,
                error,
                of_body: false,
            },
        }))
    }

    /// Makes a job of a line.
    fn ask(&self, line: u64, parsed: BatchLine) -> Read {
        let BatchLine {
            custom_id,
            endpoint,
            mut body,
        } = parsed;
        // Files are written for other services as well, and name their models. Where there is one, there is nothing to choose.
        if self.engine.adapters().is_empty() {
            body.remove("model");
        }
        let call = Call::read(&self.engine, endpoint, &body).and_then(|call| match call.stream {
            true => Err(ApiError::not_supported(
                "stream",
                "a batch has no streams: leave `stream` out",
            )),
            false => Ok(call),
        });
        match call {
            Ok(Call {
                mut requests,
                n,
                form,
                ..
            }) => {
                for request in &mut requests {
                    let seed = &mut request.options.sampling.seed;
                    *seed = seed.or(self.seed.map(|seed| seed_of_line(seed, line)));
                }
                let key = Asked {
                    line,
                    custom_id,
                    form,
                };
                Read::Job(Job { key, requests, n })
            }
            Err(error) => Read::Result {
                line,
                custom_id: Some(custom_id),
                error,
                of_body: true,
            },
        }
    }

    fn write_answer(&mut self, answered: Answered<Asked>) -> Result<(), BatchError> {
        let Answered {
            key: asked,
            answers,
        } = answered;
        let (line, custom_id) = (asked.line, asked.custom_id.as_str());
        let request_id = self.request_id(line);
        let result = match answers {
            Ok(answers) => {
                self.count(&answers);
                let stamp = Stamp {
                    id: format!("{:x}-{line}", self.started),
                    created: self.started,
                };
                let body = asked.form.response(&self.engine, &stamp, &answers);
                BatchResult::answer(line, custom_id, request_id, body)
            }
            // Not this request's fault: another run may answer it.
            Err(
                error @ (EngineError::Stopped | EngineError::Draining | EngineError::Panicked(_)),
            ) => return Err(BatchError::Engine(error)),
            Err(error) => BatchResult::failure(line, custom_id, request_id, error.into()),
        };
        self.write(&result)
    }

    fn count(&mut self, answers: &[Completion]) {
        let progress = &mut self.batch.progress;
        for answer in answers {
            let usage = answer.finished.usage;
            progress.prompt_tokens += usage.prompt_tokens as u64;
            progress.completion_tokens += usage.completion_tokens as u64;
        }
    }

    fn write(&mut self, result: &BatchResult<'_>) -> Result<(), BatchError> {
        self.batch.output.write(result)?;
        let progress = &mut self.batch.progress;
        progress.done += 1;
        progress.errors += u64::from(result.is_error());
        Ok(())
    }

    fn request_id(&self, line: u64) -> String {
        format!("req_{:x}-{line}", self.started)
    }
}

/// Seeds far from each other, because the answers to one prompt take those that follow.
fn seed_of_line(seed: u64, line: u64) -> u64 {
    // 2^64 over the golden ratio: multiples of it are spread evenly (Knuth, vol. 3, 6.4).
    seed.wrapping_add(line.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}
