//! Measures an engine: prefill and decode speed, latencies, how near they come to what the machine can do, and where the time
//! goes.
//!
//! Everything goes through [`EngineHandle::submit`], so scheduling and sampling are part of what is measured. Prompts are random
//! token ids; end tokens are ignored.
//!
//! [`run`] measures a whole [`BenchOptions`]; a [`Session`] measures one thing at a time, which is what a comparison with
//! another program needs: the two take turns.

mod machine;
mod options;
mod prompts;
mod report;
mod session;
mod stats;

pub use machine::{Machine, peak_memory};
pub use options::BenchOptions;
pub use report::{BenchReport, Decode, Prefill};
pub use session::{Measurement, Query, Session};
pub use stats::{Spread, percentile};

use glm_kernels::KernelError;

use crate::engine::EngineHandle;
use crate::error::EngineError;

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
    /// A sequence had all its tokens before the others were measured.
    #[error(
        "of a batch of {batch} after {depth} tokens some ended before all were measured, because steps read less of prompts than was reckoned with: measure fewer at a time, or less deep"
    )]
    Ended {
        /// Sequences.
        batch: usize,
        /// Tokens of context when the measurement started.
        depth: usize,
    },
    /// The machine could not be measured.
    #[error("cannot measure this machine")]
    Machine(#[source] KernelError),
    /// The engine refused or failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Measures everything that `options` asks for; `report` hears of each result as it comes.
///
/// # Errors
/// [`BenchError::Context`] and [`BenchError::Capacity`] before anything is measured; [`BenchError::Engine`] if the engine fails.
pub fn run(
    engine: &EngineHandle,
    machine: Machine,
    options: &BenchOptions,
    mut report: impl FnMut(&Measurement),
) -> Result<BenchReport, BenchError> {
    if let Some(option) = options.zero() {
        return Err(BenchError::Zero(option));
    }
    let mut session = Session::new(engine, machine, options.seed)?;
    // What cannot fit is refused before minutes are spent on what can.
    for (tokens, depth) in options.prefills() {
        session.check_prefill(tokens, depth)?;
    }
    for (batch, depth) in options.decodes() {
        session.check_decode(batch, depth, options.gen_tokens)?;
    }
    let mut prefill = Vec::new();
    for (tokens, depth) in options.prefills() {
        let mut result = session.prefill(tokens, depth, options.repeat)?;
        if options.profile {
            result.profile = session.profile_prefill(tokens, depth)?;
        }
        report(&Measurement::Prefill(result.clone()));
        prefill.push(result);
    }
    let mut decode = Vec::new();
    for (batch, depth) in options.decodes() {
        let mut result = session.decode(batch, depth, options.gen_tokens, options.repeat)?;
        if options.profile {
            result.profile = session.profile_decode(batch, depth, options.gen_tokens)?;
        }
        report(&Measurement::Decode(result.clone()));
        decode.push(result);
    }
    let info = engine.model_info();
    Ok(BenchReport {
        model: info.name.clone(),
        weight_bytes: info.weight_bytes,
        prefill,
        decode,
        machine: session.machine(),
    })
}
