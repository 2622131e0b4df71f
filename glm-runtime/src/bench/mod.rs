//! Measures an engine: prefill and decode speed, latencies, and how near decoding comes to the machine's read bandwidth.
//!
//! Everything goes through [`EngineHandle::submit`], so scheduling and sampling are part of what is measured. Prompts are random
//! token ids; end tokens are ignored.

mod machine;
mod stats;

use std::time::{Duration, Instant};

use serde::Serialize;

pub use machine::{Machine, peak_memory};
pub use stats::{Spread, percentile};

use crate::engine::{EngineHandle, RequestStream};
use crate::error::EngineError;
use crate::request::{Event, GenerateOptions, Request};

/// What to measure.
#[derive(Debug, Clone)]
pub struct BenchOptions {
    /// Prompt lengths for prefill, in tokens.
    pub prompt_tokens: Vec<usize>,
    /// Tokens generated per sequence in each decode measurement.
    pub gen_tokens: usize,
    /// Numbers of sequences decoded together.
    pub batch: Vec<usize>,
    /// Tokens of context already there when decoding starts.
    pub depth: Vec<usize>,
    /// Measurements of each kind.
    pub repeat: usize,
    /// Seed of the random prompts.
    pub seed: u64,
}

/// Everything measured.
#[derive(Debug, Clone, Serialize)]
pub struct BenchReport {
    /// The model's name, as it was given.
    pub model: String,
    /// Bytes of all weights in memory.
    pub weight_bytes: u64,
    /// One entry per prompt length.
    pub prefill: Vec<Prefill>,
    /// One entry per batch and depth.
    pub decode: Vec<Decode>,
    /// Where it was measured.
    pub machine: Machine,
}

/// Prefill of one prompt: medians over the repeats, with the extremes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Prefill {
    /// Prompt length.
    pub tokens: usize,
    /// Prompt tokens per second, up to and including the first answer token.
    pub tok_s: f64,
    /// Slowest repeat.
    pub tok_s_min: f64,
    /// Fastest repeat.
    pub tok_s_max: f64,
    /// Time to first token, in milliseconds.
    pub ttft_ms: f64,
    /// Number of measurements.
    pub repeat: usize,
}

/// Decoding of `batch` sequences together: medians over the repeats, with the extremes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decode {
    /// Sequences decoded together.
    pub batch: usize,
    /// Tokens of context when the first measurement started.
    pub depth: usize,
    /// Tokens per sequence in each measurement.
    pub gen_tokens: usize,
    /// Tokens per second, all sequences together.
    pub tok_s: f64,
    /// Slowest repeat.
    pub tok_s_min: f64,
    /// Fastest repeat.
    pub tok_s_max: f64,
    /// Inter-token latency: median over the steps of all repeats, in milliseconds.
    pub itl_ms: f64,
    /// The latency that 95 of 100 steps do not exceed, in milliseconds.
    pub itl_p95_ms: f64,
    /// Bytes one step must read: the weights once, the keys and values of every sequence.
    pub bytes_per_step: u64,
    /// Bytes read per second, in GB/s (1e9 bytes).
    pub gb_s: f64,
    /// `gb_s` over the machine's measured read bandwidth.
    pub bandwidth_share: f64,
    /// Number of measurements.
    pub repeat: usize,
}

/// Why a benchmark could not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// Nothing can be measured with none of something.
    #[error("{0} must be at least 1")]
    Zero(&'static str),
    /// A measurement does not fit into the context.
    #[error(
        "{what} need a context of {needed} tokens, the model has {max_model_len}: ask for fewer or raise --max-model-len"
    )]
    Context {
        /// The measurement in words.
        what: String,
        /// Tokens it takes.
        needed: usize,
        /// Tokens there are.
        max_model_len: usize,
    },
    /// The sequences of a batch do not fit into the KV cache together.
    #[error(
        "{batch} sequences of {tokens} tokens do not fit into the KV cache of {capacity} tokens together: ask for fewer, or for a smaller --kv-dtype"
    )]
    Capacity {
        /// Sequences.
        batch: usize,
        /// Tokens of each.
        tokens: usize,
        /// Tokens that the pool holds.
        capacity: usize,
    },
    /// The engine refused or failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// One result, told to the caller as soon as it is there.
#[derive(Debug, Clone)]
pub enum Measurement {
    /// A prompt length is done.
    Prefill(Prefill),
    /// A batch and depth are done.
    Decode(Decode),
}

/// Measures everything that `options` asks for; `report` hears of each result as it comes.
///
/// Repeats of a decode measurement at a depth follow one another in the same sequences while the context allows, so that a
/// deep context is prefilled once: repeat `i` starts `i * gen_tokens` deeper than the first.
///
/// # Errors
/// [`BenchError::Context`] and [`BenchError::Capacity`] before anything runs; [`BenchError::Engine`] if the engine fails.
pub fn run(
    engine: &EngineHandle,
    machine: Machine,
    options: &BenchOptions,
    mut report: impl FnMut(&Measurement),
) -> Result<BenchReport, BenchError> {
    let bench = Bench {
        engine,
        options,
        bandwidth: machine.bandwidth_gb_s,
    };
    bench.check()?;
    let mut prompts = Prompts::new(options.seed, engine.model_info().vocab_size);
    bench.warm_up(&mut prompts)?;
    let mut prefill = Vec::new();
    for &tokens in &options.prompt_tokens {
        let result = bench.prefill(tokens, &mut prompts)?;
        report(&Measurement::Prefill(result.clone()));
        prefill.push(result);
    }
    let mut decode = Vec::new();
    for (batch, depth) in options.decodes() {
        let result = bench.decode(batch, depth, &mut prompts)?;
        report(&Measurement::Decode(result.clone()));
        decode.push(result);
    }
    let info = engine.model_info();
    let machine = Machine {
        peak_memory_bytes: peak_memory(),
        ..machine
    };
    Ok(BenchReport {
        model: info.name.clone(),
        weight_bytes: info.weight_bytes,
        prefill,
        decode,
        machine,
    })
}

struct Bench<'a> {
    engine: &'a EngineHandle,
    options: &'a BenchOptions,
    bandwidth: f64,
}

impl Bench<'_> {
    /// Refuses what cannot fit, before minutes are spent on what can.
    fn check(&self) -> Result<(), BenchError> {
        let info = self.engine.model_info();
        let fits = |what: String, needed: usize| {
            let max_model_len = info.max_model_len;
            if needed <= max_model_len {
                Ok(())
            } else {
                Err(BenchError::Context {
                    what,
                    needed,
                    max_model_len,
                })
            }
        };
        if let Some(option) = self.options.zero() {
            return Err(BenchError::Zero(option));
        }
        for &tokens in &self.options.prompt_tokens {
            fits(format!("{tokens} prompt tokens"), tokens.saturating_add(1))?;
        }
        let gen_tokens = self.options.gen_tokens;
        for (batch, depth) in self.options.decodes() {
            let needed = sequence_tokens(batch, depth, gen_tokens);
            fits(
                format!("{gen_tokens} tokens after {depth} in a batch of {batch}"),
                needed,
            )?;
            let (tokens, capacity) = (needed, info.kv_capacity_tokens);
            if batch.saturating_mul(tokens) > capacity {
                return Err(BenchError::Capacity {
                    batch,
                    tokens,
                    capacity,
                });
            }
        }
        Ok(())
    }

    /// Pages in the weights and fills the allocator's cache.
    fn warm_up(&self, prompts: &mut Prompts) -> Result<(), BenchError> {
        let tokens = 16.min(self.engine.model_info().max_model_len - 1);
        self.time_to_first_token(prompts.take(tokens))?;
        Ok(())
    }

    fn prefill(&self, tokens: usize, prompts: &mut Prompts) -> Result<Prefill, BenchError> {
        let seconds = (0..self.options.repeat)
            .map(|_| {
                Ok(self
                    .time_to_first_token(prompts.take(tokens))?
                    .as_secs_f64())
            })
            .collect::<Result<Vec<_>, BenchError>>()?;
        let rates: Vec<_> = seconds.iter().map(|s| tokens as f64 / s).collect();
        let rate = Spread::of(&rates);
        Ok(Prefill {
            tokens,
            tok_s: rate.median,
            tok_s_min: rate.min,
            tok_s_max: rate.max,
            ttft_ms: Spread::of(&seconds).median * 1e3,
            repeat: self.options.repeat,
        })
    }

    fn time_to_first_token(&self, prompt: Vec<u32>) -> Result<Duration, BenchError> {
        let started = Instant::now();
        let mut stream = self.submit(prompt, 1)?;
        Ok(next_token(&mut stream)?.duration_since(started))
    }

    fn decode(
        &self,
        batch: usize,
        depth: usize,
        prompts: &mut Prompts,
    ) -> Result<Decode, BenchError> {
        let gen_tokens = self.options.gen_tokens;
        let mut running = Running::start(self, batch, depth, prompts)?;
        let (mut rates, mut steps) = (Vec::new(), Vec::new());
        for _ in 0..self.options.repeat {
            // Without a context to prefill, a fresh start costs nothing and each repeat measures the very same thing.
            if running.room() < gen_tokens || (depth == 0 && !rates.is_empty()) {
                drop(running);
                running = Running::start(self, batch, depth, prompts)?;
            }
            let window = running.steps(gen_tokens)?;
            rates.push((batch * gen_tokens) as f64 / window.iter().sum::<f64>());
            steps.extend(window);
        }
        let rate = Spread::of(&rates);
        let bytes_per_step = self.bytes_per_step(batch, depth);
        let gb_s = bytes_per_step as f64 * (rate.median / batch as f64) / 1e9;
        Ok(Decode {
            batch,
            depth,
            gen_tokens,
            tok_s: rate.median,
            tok_s_min: rate.min,
            tok_s_max: rate.max,
            itl_ms: Spread::of(&steps).median * 1e3,
            itl_p95_ms: percentile(&steps, 0.95) * 1e3,
            bytes_per_step,
            gb_s,
            bandwidth_share: if self.bandwidth > 0.0 {
                gb_s / self.bandwidth
            } else {
                0.0
            },
            repeat: self.options.repeat,
        })
    }

    /// At the middle of the first measurement; later ones read a little more.
    fn bytes_per_step(&self, batch: usize, depth: usize) -> u64 {
        let info = self.engine.model_info();
        let context = (depth.max(1) + self.options.gen_tokens / 2) as u64;
        info.weight_bytes_per_step + batch as u64 * context * info.kv_bytes_per_token
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

/// Prompt tokens that the engine is expected to compute per step, for guessing how far the first sequence of a batch gets
/// ahead of the last.
const PREFILL_CHUNK: usize = 512;

/// Sequences take whole blocks of the KV cache; no block is larger than this.
const BLOCK_MARGIN: usize = 64;

/// Tokens of one sequence in a decode measurement: a prompt of at least one token, the token that marks the start, the
/// measured ones, and those that a sequence admitted first makes while the others are prefilled. Without the last, it would
/// end early and the batch would shrink while it is measured.
fn sequence_tokens(batch: usize, depth: usize, gen_tokens: usize) -> usize {
    let prompt = depth.max(1);
    let lead = batch
        .saturating_sub(1)
        .saturating_mul(prompt.div_ceil(PREFILL_CHUNK));
    prompt
        .saturating_add(1)
        .saturating_add(gen_tokens)
        .saturating_add(lead)
}

impl BenchOptions {
    /// The context length (`max_model_len`) to build the engine with, for a model whose own is `limit`: every measurement fits
    /// if the model allows it, and so do the repeats of a decode measurement one after the other.
    pub fn max_model_len(&self, limit: usize) -> usize {
        let prefill = self
            .prompt_tokens
            .iter()
            .map(|tokens| tokens.saturating_add(1));
        let decode = self
            .decodes()
            .map(|(batch, depth)| sequence_tokens(batch, depth, self.all_gen_tokens()));
        prefill.chain(decode).max().unwrap_or(1).min(limit)
    }

    /// The KV cache, in tokens, to build the engine with: no measurement makes it preempt.
    pub fn kv_cache_tokens(&self, max_model_len: usize) -> usize {
        let decode = self.decodes().map(|(batch, depth)| {
            let all = sequence_tokens(batch, depth, self.all_gen_tokens());
            batch.saturating_mul(all.min(max_model_len).saturating_add(BLOCK_MARGIN))
        });
        decode.max().unwrap_or(1).max(max_model_len)
    }

    fn all_gen_tokens(&self) -> usize {
        self.gen_tokens.saturating_mul(self.repeat)
    }

    /// The first option that must not be 0 and is.
    fn zero(&self) -> Option<&'static str> {
        [
            ("prompt_tokens", self.prompt_tokens.contains(&0)),
            ("gen_tokens", self.gen_tokens == 0),
            ("batch", self.batch.contains(&0)),
            ("repeat", self.repeat == 0),
        ]
        .into_iter()
        .find_map(|(option, zero)| zero.then_some(option))
    }

    fn decodes(&self) -> impl Iterator<Item = (usize, usize)> {
        self.depth
            .iter()
            .flat_map(|&depth| self.batch.iter().map(move |&batch| (batch, depth)))
    }
}

/// `batch` sequences that decode together. Dropping it cancels them.
struct Running {
    streams: Vec<RequestStream>,
    room: usize,
    /// When the last step that was waited for ended.
    last_step: Instant,
}

impl Running {
    /// Prefills `batch` random prompts of `depth` tokens and waits until each has answered once.
    fn start(
        bench: &Bench<'_>,
        batch: usize,
        depth: usize,
        prompts: &mut Prompts,
    ) -> Result<Self, BenchError> {
        let info = bench.engine.model_info();
        let prompt = depth.max(1);
        // A sequence may not take more than its share of the pool, or the engine would have to preempt.
        let share = (info.kv_capacity_tokens / batch).saturating_sub(BLOCK_MARGIN);
        let least = sequence_tokens(batch, depth, bench.options.gen_tokens);
        let max_tokens = share.max(least).min(info.max_model_len) - prompt;
        let lead = least - prompt - 1 - bench.options.gen_tokens;
        let streams = (0..batch)
            .map(|_| bench.submit(prompts.take(prompt), max_tokens))
            .collect::<Result<Vec<_>, _>>()?;
        let mut running = Self {
            streams,
            room: max_tokens - lead,
            last_step: Instant::now(),
        };
        running.steps(1)?;
        Ok(running)
    }

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
            for stream in &mut self.streams {
                end = end.max(next_token(stream)?);
            }
            seconds.push((end - self.last_step).as_secs_f64());
            self.last_step = end;
        }
        self.room -= count;
        Ok(seconds)
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

/// An endless supply of random token ids: SplitMix64 (Steele et al. 2014, doi:10.1145/2660193.2660195).
struct Prompts {
    state: u64,
    vocab_size: u64,
}

impl Prompts {
    fn new(seed: u64, vocab_size: usize) -> Self {
        Self {
            state: seed,
            vocab_size: vocab_size as u64,
        }
    }

    fn take(&mut self, count: usize) -> Vec<u32> {
        (0..count)
            .map(|_| (self.next() % self.vocab_size) as u32)
            .collect()
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_the_same_for_the_same_seed_and_differ_otherwise() {
        let take = |seed| Prompts::new(seed, 1000).take(64);
        assert_eq!(take(1), take(1));
        assert_ne!(take(1), take(2));
        assert!(take(3).iter().all(|&id| id < 1000));
    }

    #[test]
    fn the_context_and_the_cache_hold_every_measurement() {
        let options = BenchOptions {
            prompt_tokens: vec![512, 2048],
            gen_tokens: 128,
            batch: vec![1, 8],
            depth: vec![0, 4096],
            repeat: 5,
            seed: 0,
        };
        // 4096 of prompt, 1 to start, 5 times 128 measured, 7 sequences of 8 chunks ahead.
        assert_eq!(options.max_model_len(100_000), 4096 + 1 + 5 * 128 + 56);
        assert_eq!(options.max_model_len(4500), 4500);
        assert!(options.kv_cache_tokens(100_000) >= 8 * (4096 + 1 + 5 * 128 + 56));
        assert!(options.kv_cache_tokens(4500) >= 8 * 4500);
    }

    #[test]
    fn absurd_numbers_are_sized_without_overflow() {
        let options = BenchOptions {
            prompt_tokens: vec![usize::MAX],
            gen_tokens: usize::MAX,
            batch: vec![0, usize::MAX],
            depth: vec![usize::MAX],
            repeat: 2,
            seed: 0,
        };
        assert_eq!(options.max_model_len(4096), 4096);
        assert_eq!(options.kv_cache_tokens(4096), usize::MAX);
        assert_eq!(options.zero(), Some("batch"));
    }
}
