//! Measurements of a running engine, one at a time.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::options::{BLOCK_MARGIN, sequence_tokens};
use super::prompts::Prompts;
use super::report::{Decode, Prefill, PrefillTimes};
use super::{BenchError, Machine, peak_memory};
use crate::engine::{EngineHandle, RequestStream};
use crate::error::EngineError;
use crate::profile::{Detail, Step, Summary};
use crate::request::{Event, GenerateOptions, Request};

/// How often a batch is started that did not stay together: this thread may have been late with some of its requests.
const ATTEMPTS: usize = 3;

/// One thing to measure, as a line of JSON says it: `{"measure": "decode", "batch": 8, "gen_tokens": 32}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(tag = "measure", rename_all = "snake_case", deny_unknown_fields)]
pub enum Query {
    /// Prompt tokens per second.
    Prefill {
        /// Prompt tokens that count.
        tokens: usize,
        /// Tokens before them.
        #[serde(default)]
        depth: usize,
    },
    /// Tokens per second while decoding.
    Decode {
        /// Sequences decoded together.
        batch: usize,
        /// Tokens of context when the first token is decoded.
        #[serde(default)]
        depth: usize,
        /// Tokens of each sequence that count.
        gen_tokens: usize,
    },
    /// The largest memory use so far, or since the last `machine`.
    Memory,
    /// The machine's limits, measured anew.
    Machine,
}

/// The answer to a [`Query`].
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "measure", rename_all = "snake_case")]
pub enum Measurement {
    /// Prompt tokens per second.
    Prefill(Prefill),
    /// Tokens per second while decoding.
    Decode(Decode),
    /// The largest memory use so far.
    Memory {
        /// In bytes; `None` where the system does not say.
        peak_memory_bytes: Option<u64>,
    },
    /// The machine's limits.
    Machine(Machine),
}

/// Measures one engine on one machine.
pub struct Session<'a> {
    engine: &'a EngineHandle,
    machine: Machine,
    prompts: Prompts,
}

impl<'a> Session<'a> {
    /// Starts with a short request, which pages in the weights and fills the allocator's cache.
    ///
    /// # Errors
    /// [`BenchError::Engine`].
    pub fn new(engine: &'a EngineHandle, machine: Machine, seed: u64) -> Result<Self, BenchError> {
        let info = engine.model_info();
        let mut session = Self {
            engine,
            machine,
            prompts: Prompts::new(seed, info.vocab_size),
        };
        session.prefill_once(16.min(info.max_model_len - 1), 0)?;
        Ok(session)
    }

    /// The machine as it was measured last, with this process's memory use.
    pub fn machine(&self) -> Machine {
        Machine {
            peak_memory_bytes: peak_memory(),
            ..self.machine.clone()
        }
    }

    /// Measures once what `query` asks for.
    ///
    /// # Errors
    /// [`BenchError`]: it does not fit, or the engine fails.
    pub fn answer(&mut self, query: Query) -> Result<Measurement, BenchError> {
        match query {
            Query::Prefill { tokens, depth } => {
                self.prefill(tokens, depth, 1).map(Measurement::Prefill)
            }
            Query::Decode {
                batch,
                depth,
                gen_tokens,
            } => self
                .decode(batch, depth, gen_tokens, 1)
                .map(Measurement::Decode),
            Query::Memory => Ok(Measurement::Memory {
                peak_memory_bytes: peak_memory(),
            }),
            Query::Machine => {
                let threads = Some(self.machine.threads);
                let machine = Machine::measure(threads).map_err(BenchError::Machine)?;
                self.machine = machine.of_model(self.engine.model_info());
                Ok(Measurement::Machine(self.machine.clone()))
            }
        }
    }

    /// Prefills `tokens` random tokens after `depth` others, `repeat` times.
    ///
    /// The engine computes a prompt in steps, and those after `depth` count; a depth within a step is rounded down to its start.
    ///
    /// # Errors
    /// [`BenchError`].
    pub fn prefill(
        &mut self,
        tokens: usize,
        depth: usize,
        repeat: usize,
    ) -> Result<Prefill, BenchError> {
        self.check_prefill(tokens, depth)?;
        at_least_one("repeat", repeat)?;
        let mut times = PrefillTimes {
            measured: Vec::new(),
            to_first_token: Vec::new(),
        };
        for _ in 0..repeat {
            let (measured, to_first_token) = self.prefill_once(tokens, depth)?;
            times.measured.push(measured);
            times.to_first_token.push(to_first_token);
        }
        let model = self.engine.model_info();
        Ok(Prefill::new((tokens, depth), &times, model, &self.machine))
    }

    /// Where the time of such a prefill goes.
    ///
    /// # Errors
    /// [`BenchError`].
    pub fn profile_prefill(
        &mut self,
        tokens: usize,
        depth: usize,
    ) -> Result<Option<Summary>, BenchError> {
        self.check_prefill(tokens, depth)?;
        self.engine.profiler().start(Detail::Operations);
        let done = self.time_to_first_token(tokens + depth);
        let steps = self.engine.profiler().finish();
        done?;
        Ok(self.summary(after(&steps, depth)))
    }

    /// Decodes `gen_tokens` tokens of each of `batch` sequences together, `repeat` times.
    ///
    /// At a depth the repeats follow one another in the same sequences while the context allows, so that it is prefilled once:
    /// repeat `i` starts `i * gen_tokens` deeper than the first.
    ///
    /// # Errors
    /// [`BenchError`]; [`BenchError::Ended`] if not all sequences run to the end of the measurement, in several attempts.
    pub fn decode(
        &mut self,
        batch: usize,
        depth: usize,
        gen_tokens: usize,
        repeat: usize,
    ) -> Result<Decode, BenchError> {
        self.check_decode(batch, depth, gen_tokens)?;
        at_least_one("repeat", repeat)?;
        let mut attempts = 1..ATTEMPTS;
        let windows = loop {
            match self.decode_together((batch, depth), gen_tokens, repeat) {
                Err(BenchError::Ended { .. }) if attempts.next().is_some() => {}
                windows => break windows?,
            }
        };
        let model = self.engine.model_info();
        Ok(Decode::new((batch, depth), &windows, model, &self.machine))
    }

    /// The seconds of the steps of each of `repeat` measurements.
    fn decode_together(
        &mut self,
        (batch, depth): (usize, usize),
        gen_tokens: usize,
        repeat: usize,
    ) -> Result<Vec<Vec<f64>>, BenchError> {
        let mut running = self.start(batch, depth, gen_tokens)?;
        let mut windows = Vec::with_capacity(repeat);
        for _ in 0..repeat {
            // Without a context to prefill, a fresh start costs nothing and each repeat measures the very same thing.
            if running.room() < gen_tokens || (depth == 0 && !windows.is_empty()) {
                running.finish((batch, depth))?;
                running = self.start(batch, depth, gen_tokens)?;
            }
            windows.push(running.steps(gen_tokens)?);
        }
        running.finish((batch, depth))?;
        Ok(windows)
    }

    /// Where the time of such decoding goes.
    ///
    /// # Errors
    /// [`BenchError`].
    pub fn profile_decode(
        &mut self,
        batch: usize,
        depth: usize,
        gen_tokens: usize,
    ) -> Result<Option<Summary>, BenchError> {
        self.check_decode(batch, depth, gen_tokens)?;
        // From before the first step on: the engine does not wait for its reader, and a small model may be done before the reader looks.
        self.engine.profiler().start(Detail::Operations);
        let done = self
            .start(batch, depth, gen_tokens)
            .and_then(|mut running| {
                running.steps(gen_tokens)?;
                Ok(())
            });
        let steps = self.engine.profiler().finish();
        done?;
        let steps = decoding(&steps);
        Ok(self.summary(&steps[..steps.len().min(gen_tokens)]))
    }

    fn summary(&self, steps: &[Step]) -> Option<Summary> {
        let layers = &self.engine.model_info().linear_layers;
        Summary::of(steps, |cost| {
            let mut names = layers
                .iter()
                .filter(|layer| cost.op.name == "linear" && layer.shape == cost.op.shape)
                .map(|layer| layer.name.as_str());
            match names.next() {
                // Matrices of one shape cannot be told apart.
                Some(first) => names.fold(first.to_owned(), |all, name| all + ", " + name),
                None => cost.op.name.to_owned(),
            }
        })
    }

    pub(super) fn check_prefill(&self, tokens: usize, depth: usize) -> Result<(), BenchError> {
        at_least_one("tokens", tokens)?;
        let needed = tokens.saturating_add(depth).saturating_add(1);
        let what = match depth {
            0 => format!("{tokens} prompt tokens"),
            _ => format!("{tokens} prompt tokens after {depth}"),
        };
        self.check_context(what, needed)
    }

    pub(super) fn check_decode(
        &self,
        batch: usize,
        depth: usize,
        gen_tokens: usize,
    ) -> Result<(), BenchError> {
        at_least_one("batch", batch)?;
        at_least_one("gen_tokens", gen_tokens)?;
        let tokens = self.sequence_tokens(batch, depth, gen_tokens);
        let what = format!("{gen_tokens} tokens after {depth} in a batch of {batch}");
        self.check_context(what, tokens)?;
        let capacity = self.engine.model_info().kv_capacity_tokens;
        if batch.saturating_mul(tokens) > capacity {
            return Err(BenchError::Capacity {
                batch,
                tokens,
                capacity,
            });
        }
        Ok(())
    }

    fn sequence_tokens(&self, batch: usize, depth: usize, gen_tokens: usize) -> usize {
        let step_tokens = self.engine.model_info().max_num_batched_tokens;
        sequence_tokens(batch, depth, gen_tokens, step_tokens)
    }

    fn check_context(&self, what: String, needed: usize) -> Result<(), BenchError> {
        let max_model_len = self.engine.model_info().max_model_len;
        if needed <= max_model_len {
            return Ok(());
        }
        Err(BenchError::Context {
            what,
            needed,
            max_model_len,
        })
    }

    /// Seconds of the steps after `depth`, and those to the first token.
    fn prefill_once(&mut self, tokens: usize, depth: usize) -> Result<(f64, f64), BenchError> {
        if depth == 0 {
            let seconds = self.time_to_first_token(tokens)?;
            return Ok((seconds, seconds));
        }
        self.engine.profiler().start(Detail::Steps);
        let to_first_token = self.time_to_first_token(tokens + depth);
        let steps = self.engine.profiler().finish();
        let to_first_token = to_first_token?;
        let measured = after(&steps, depth);
        let computed: usize = measured.iter().map(|step| step.prefill_tokens).sum();
        let seconds: f64 = match (measured.first(), measured.last()) {
            (Some(first), Some(last)) => (last.end - first.start).as_secs_f64(),
            _ => to_first_token,
        };
        // More than asked for, if the depth was rounded down.
        Ok((
            seconds * tokens as f64 / computed.max(tokens) as f64,
            to_first_token,
        ))
    }

    fn time_to_first_token(&mut self, tokens: usize) -> Result<f64, BenchError> {
        let prompt = self.prompts.take(tokens);
        let started = Instant::now();
        let mut stream = self.submit(prompt, 1)?;
        let at = next_token(&mut stream)?;
        // Until the request has ended, its last step may not be written down.
        while stream.recv().is_some() {}
        Ok(at.duration_since(started).as_secs_f64())
    }

    /// Prefills `batch` random prompts of `depth` tokens and waits until each has answered once.
    fn start(
        &mut self,
        batch: usize,
        depth: usize,
        gen_tokens: usize,
    ) -> Result<Running, BenchError> {
        let info = self.engine.model_info();
        let prompt = depth.max(1);
        // A sequence may not take more than its share of the pool, or the engine would have to preempt.
        let share = (info.kv_capacity_tokens / batch).saturating_sub(BLOCK_MARGIN);
        let least = self.sequence_tokens(batch, depth, gen_tokens);
        let max_tokens = share.max(least).min(info.max_model_len) - prompt;
        let lead = least - prompt - 1 - gen_tokens;
        // Before the first of them can have a token: the engine of a small model may be far ahead of this thread.
        let begun = Instant::now();
        let streams = (0..batch)
            .map(|_| {
                let ids = self.prompts.take(prompt);
                Ok((self.submit(ids, max_tokens)?, begun))
            })
            .collect::<Result<Vec<_>, EngineError>>()?;
        let mut running = Running {
            streams,
            room: max_tokens - lead,
            last_step: begun,
            step_before: begun,
        };
        running.steps(1)?;
        Ok(running)
    }

    fn submit(&self, prompt: Vec<u32>, max_tokens: usize) -> Result<RequestStream, EngineError> {
        let options = GenerateOptions {
            max_tokens: Some(max_tokens),
            ignore_eos: true,
            ..GenerateOptions::default()
        };
        self.engine
            .submit(Request::new(prompt).with_options(options))
    }
}

fn at_least_one(what: &'static str, found: usize) -> Result<(), BenchError> {
    if found == 0 {
        return Err(BenchError::Zero(what));
    }
    Ok(())
}

/// The steps of a prompt that compute what comes after its first `depth` tokens.
fn after(steps: &[Step], depth: usize) -> &[Step] {
    let mut computed = 0;
    let first = steps.iter().position(|step| {
        computed += step.prefill_tokens;
        computed > depth
    });
    &steps[first.unwrap_or(steps.len())..]
}

/// The steps after the last that computed a part of a prompt.
fn decoding(steps: &[Step]) -> &[Step] {
    let last = steps.iter().rposition(|step| step.prefill_tokens > 0);
    &steps[last.map_or(0, |last| last + 1)..]
}

/// `batch` sequences that decode together. Dropping it cancels them.
struct Running {
    /// Each with the time of the last token that was read of it.
    streams: Vec<(RequestStream, Instant)>,
    room: usize,
    /// When the last step that was waited for ended.
    last_step: Instant,
    /// And the one before it.
    step_before: Instant,
}

impl Running {
    /// Tokens that each sequence can still make while all others do.
    fn room(&self) -> usize {
        self.room
    }

    /// Lets every sequence make `count` tokens; the seconds that each step took.
    ///
    /// A step is over when the last sequence has its token. The engine's own times count: the reader of a fast model lags behind.
    fn steps(&mut self, count: usize) -> Result<Vec<f64>, EngineError> {
        let mut seconds = Vec::with_capacity(count);
        for _ in 0..count {
            let mut end = self.last_step;
            for (stream, read) in &mut self.streams {
                *read = next_token(stream)?;
                end = end.max(*read);
            }
            seconds.push((end - self.last_step).as_secs_f64());
            (self.step_before, self.last_step) = (self.last_step, end);
        }
        self.room -= count;
        Ok(seconds)
    }

    /// Makes sure that every sequence was in the last step, and so in all before it: those that began early have tokens from before them,
    /// and the number would be too good if one of them had ended meanwhile.
    fn finish(mut self, (batch, depth): (usize, usize)) -> Result<(), BenchError> {
        for (stream, read) in &mut self.streams {
            while *read <= self.step_before {
                *read = match stream.recv() {
                    Some(Event::Token(token)) => token.at,
                    Some(Event::Failed(error)) => return Err(error.into()),
                    Some(Event::Finished(_)) | None => {
                        return Err(BenchError::Ended { batch, depth });
                    }
                };
            }
        }
        Ok(())
    }
}

/// When the engine chose the next token.
fn next_token(stream: &mut RequestStream) -> Result<Instant, EngineError> {
    match stream.recv() {
        Some(Event::Token(token)) => Ok(token.at),
        Some(Event::Failed(error)) => Err(error),
        Some(Event::Finished(_)) | None => Err(EngineError::Stopped),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_after_a_depth() {
        let now = Instant::now();
        let step = |prefill_tokens| Step {
            start: now,
            end: now,
            prefill_tokens,
            decode_tokens: 0,
            costs: Vec::new(),
        };
        assert_eq!(
            decoding(&[step(5), step(0), step(1), step(0), step(0)]).len(),
            2
        );
        assert_eq!(decoding(&[step(0), step(0)]).len(), 2);
        assert!(decoding(&[step(3)]).is_empty());
        let steps = [step(512), step(512), step(100)];
        let tokens = |depth| -> Vec<usize> {
            let steps = after(&steps, depth).iter();
            steps.map(|step| step.prefill_tokens).collect()
        };
        assert_eq!(tokens(0), [512, 512, 100]);
        assert_eq!(tokens(512), [512, 100]);
        assert_eq!(tokens(600), [512, 100], "rounded down to the step's start");
        assert_eq!(tokens(1024), [100]);
        assert!(tokens(2000).is_empty());
    }

    #[test]
    fn queries_are_lines_of_json() {
        let read = |text: &str| serde_json::from_str::<Query>(text);
        let decode = read(r#"{"measure": "decode", "batch": 8, "gen_tokens": 32}"#).unwrap();
        let expected = Query::Decode {
            batch: 8,
            depth: 0,
            gen_tokens: 32,
        };
        assert_eq!(decode, expected);
        assert_eq!(read(r#"{"measure": "memory"}"#).unwrap(), Query::Memory);
        assert!(read(r#"{"measure": "decode", "batch": 8}"#).is_err());
        assert!(read(r#"{"measure": "prefill", "tokens": 8, "speed": 1}"#).is_err());
    }
}
