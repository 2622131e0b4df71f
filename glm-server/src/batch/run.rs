//! [`Run`]: a batch on an engine.

use std::collections::{HashSet, VecDeque};
use std::time::{SystemTime, UNIX_EPOCH};

use glm_runtime::batch::{Answered, Job, Stopper, Window};
use glm_runtime::{Completion, EngineError, EngineHandle, PendingEmbedding};
use serde_json::{Map, Value};

use super::input::parse;
use super::{BadLine, Batch, BatchError, BatchLine, BatchOptions, BatchResult, Progress};
use crate::openai::{ApiError, Call, EmbeddingCall, Form, Stamp, Target, check_model};

/// A batch on an engine.
#[derive(Debug)]
pub struct Run {
    batch: Batch,
    engine: EngineHandle,
    window: Window<Asked>,
    /// Lines whose embeddings are computed, in the order of the input.
    embeddings: VecDeque<Embedding>,
    /// How many of them are computed at a time, and how many tokens they may have together for one more to be read.
    max_embeddings: usize,
    max_embedding_tokens: usize,
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

/// A request for embeddings that the engine works on.
#[derive(Debug)]
struct Embedding {
    line: u64,
    custom_id: String,
    tokens: usize,
    call: EmbeddingCall,
    pending: Vec<PendingEmbedding>,
}

/// What a line of the input comes to before the engine has seen it.
enum Read {
    /// There is a result already.
    Done,
    Job(Job<Asked>),
    Embedding(Embedding),
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
    pub(super) fn new(batch: Batch, engine: &EngineHandle, options: BatchOptions) -> Self {
        let window = Window::new(engine, options.window);
        let in_flight = options.window.in_flight;
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            engine: engine.clone(),
            window,
            max_embeddings: in_flight.unwrap_or(2 * engine.max_num_seqs()).max(1),
            max_embedding_tokens: options.window.look_ahead_tokens.max(1),
            embeddings: VecDeque::new(),
            seed: options.seed,
            next_done: 0,
            seen: HashSet::with_capacity(batch.done.len()),
            started: since_epoch.unwrap_or_default().as_secs(),
            batch,
        }
    }

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
            while !at_end && self.window.has_room() && !self.embeds_enough() {
                match self.read()? {
                    None => at_end = true,
                    Some(Read::Done) => {}
                    Some(Read::Job(job)) => self.window.push(job),
                    Some(Read::Embedding(embedding)) => self.embeddings.push_back(embedding),
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
            let is_full = self.embeds_enough();
            let answered = self.window.next();
            if self.window.is_stopped() {
                break;
            }
            let mut is_written = false;
            if let Some(answered) = answered {
                self.write_answer(answered)?;
                is_written = true;
            }
            // Their places are needed, or there is nothing else to wait for.
            if is_full || !is_written {
                is_written |= self.write_embedding()?;
            }
            if !is_written {
                break;
            }
            on_result(&self.batch.progress);
        }
        self.batch.output.sync()?;
        let progress = &mut self.batch.progress;
        progress.stopped = self.window.is_stopped();
        Ok(*progress)
    }

    /// Whether as many embeddings are computed as may.
    fn embeds_enough(&self) -> bool {
        let tokens = self.embeddings.iter().map(|embedding| embedding.tokens);
        self.embeddings.len() >= self.max_embeddings
            || tokens.sum::<usize>() >= self.max_embedding_tokens
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
            Ok(parsed) => self.ask(number, parsed)?,
            Err(BadLine { custom_id, error }) => Read::Result {
                line: number,
                custom_id,
                error,
                of_body: false,
            },
        }))
    }

    /// Makes of a line what the engine is asked for.
    fn ask(&self, line: u64, parsed: BatchLine) -> Result<Read, BatchError> {
        let BatchLine {
            custom_id,
            endpoint,
            mut body,
        } = parsed;
        // Files are written for other services as well, and name their models. Where there is one, there is nothing to choose.
        if self.engine.adapters().is_empty() {
            body.remove("model");
        }
        let read = match endpoint {
            Target::Answers(endpoint) => Call::read(&self.engine, endpoint, &body)
                .and_then(|call| self.job(line, &custom_id, call)),
            Target::Embeddings => self.embed(line, &custom_id, &body),
        };
        match read {
            // Not this line's fault: another run may answer it.
            Err(error) if error.status == 503 => Err(BatchError::Engine(EngineError::Stopped)),
            read => Ok(read.unwrap_or_else(|error| Read::Result {
                line,
                custom_id: Some(custom_id),
                error,
                of_body: true,
            })),
        }
    }

    fn job(&self, line: u64, custom_id: &str, call: Call) -> Result<Read, ApiError> {
        if call.stream {
            let message = "a batch has no streams: leave `stream` out";
            return Err(ApiError::not_supported("stream", message));
        }
        let mut requests = call.requests;
        for request in &mut requests {
            let seed = &mut request.options.sampling.seed;
            *seed = seed.or(self.seed.map(|seed| seed_of_line(seed, line)));
        }
        let key = Asked {
            line,
            custom_id: custom_id.to_owned(),
            form: call.form,
        };
        let n = call.n;
        Ok(Read::Job(Job { key, requests, n }))
    }

    fn embed(
        &self,
        line: u64,
        custom_id: &str,
        body: &Map<String, Value>,
    ) -> Result<Read, ApiError> {
        check_model(&self.engine, body)?;
        let call = EmbeddingCall::read(&self.engine, body)?;
        let pending = call.submit(&self.engine)?;
        Ok(Read::Embedding(Embedding {
            line,
            custom_id: custom_id.to_owned(),
            tokens: call.num_tokens(),
            call,
            pending,
        }))
    }

    /// Waits for the first of the embeddings; answers whether there was one.
    fn write_embedding(&mut self) -> Result<bool, BatchError> {
        let Some(asked) = self.embeddings.pop_front() else {
            return Ok(false);
        };
        let pending = asked.pending.into_iter();
        let means: Result<Vec<_>, _> = pending.map(PendingEmbedding::wait).collect();
        let request_id = self.request_id(asked.line);
        let result = match means {
            Ok(means) => {
                self.batch.progress.prompt_tokens += asked.tokens as u64;
                let body = asked.call.response(&self.engine, &means);
                BatchResult::answer(asked.line, &asked.custom_id, request_id, body)
            }
            Err(error) => failure(asked.line, &asked.custom_id, request_id, error)?,
        };
        self.write(&result)?;
        Ok(true)
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
            Err(error) => failure(line, custom_id, request_id, error)?,
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

/// The result of a request that failed.
///
/// # Errors
/// [`BatchError::Engine`] if that is not this request's fault: another run may answer it.
fn failure(
    line: u64,
    custom_id: &str,
    request_id: String,
    error: EngineError,
) -> Result<BatchResult<'_>, BatchError> {
    match error {
        EngineError::Stopped | EngineError::Draining | EngineError::Panicked(_) => {
            Err(BatchError::Engine(error))
        }
        error => Ok(BatchResult::failure(
            line,
            custom_id,
            request_id,
            error.into(),
        )),
    }
}

/// Seeds far from each other, because the answers to one prompt take those that follow.
fn seed_of_line(seed: u64, line: u64) -> u64 {
    // 2^64 over the golden ratio: multiples of it are spread evenly (Knuth, vol. 3, 6.4).
    seed.wrapping_add(line.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}
