//! skeleton
mod handle;
mod options;
mod stats;
mod stream;

pub use handle::EngineHandle;
pub use options::{EngineBuilder, EngineOptions, ModelInfo};
pub use stats::EngineStats;
pub use stream::{Completion, RequestStream};

use crate::error::{BuildError, EngineError};
use crate::request::{Finished, Request, RequestId};
use crate::sampling::TokenLogprob;

/// skeleton
pub struct Engine;

/// What one step did to one request; exactly one of the last two ends it.
#[derive(Debug, Clone)]
pub enum SeqEvent {
    /// One more token.
    Token {
        /// Whose.
        request: RequestId,
        /// Position in the answer, from 0.
        index: usize,
        /// Token id.
        id: u32,
        /// Log-probability, if asked for.
        logprob: Option<f32>,
        /// Alternatives, if asked for.
        top_logprobs: Vec<TokenLogprob>,
    },
    /// The answer is complete.
    Finished {
        /// Whose.
        request: RequestId,
        /// How it ended.
        finished: Finished,
    },
    /// The request ended without an answer.
    Failed {
        /// Whose.
        request: RequestId,
        /// Why.
        error: EngineError,
    },
}

impl Engine {
    /// Starts building an engine for MODEL: `demo`, a directory, a `.gguf` file, a hub id or `random:PRESET`.
    pub fn builder(model: impl Into<String>) -> EngineBuilder {
        EngineBuilder::new(model.into())
    }
    pub(crate) fn load(_model: &str, _options: &EngineOptions) -> Result<Self, BuildError> {
        unimplemented!()
    }
    /// Starts the thread
    pub fn spawn(self) -> Result<EngineHandle, BuildError> {
        unimplemented!()
    }
    /// Adds a request.
    pub fn submit(&mut self, _request: Request) -> Result<RequestId, EngineError> {
        unimplemented!()
    }
    /// One iteration.
    pub fn step(&mut self) -> Vec<SeqEvent> {
        unimplemented!()
    }
    /// Whether a step would do anything.
    pub fn has_work(&self) -> bool {
        unimplemented!()
    }
    /// The device the model computes on.
    pub fn device(&self) -> &glm_kernels::Device {
        unimplemented!()
    }
}

pub(crate) struct Limits;
impl Limits {
    fn check(&self, _r: &Request) -> Result<(), EngineError> {
        unimplemented!()
    }
    fn check_score(&self, _ids: &[u32]) -> Result<(), EngineError> {
        unimplemented!()
    }
}
