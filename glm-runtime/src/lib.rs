//! Runs GLM language models inside a Rust program.
//!
//! ```no_run
//! use glm_runtime::{ChatOptions, Engine, Message};
//!
//! let engine = Engine::builder("demo").build()?;
//! for text in engine.chat([Message::user("What is a token?")], ChatOptions::default())?.texts() {
//!     print!("{}", text?);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod engine;
mod error;
mod load;
mod memory;
mod request;
mod sampling;

pub use engine::{
    Completion, Engine, EngineBuilder, EngineHandle, EngineOptions, EngineStats, ModelInfo, RequestStream, SeqEvent,
};
pub use error::{BuildError, EngineError, ErrorKind};
pub use glm_core::{Message, OpenOptions, Progress, Tokenizer};
pub use glm_kernels::{Isa, KvDType, WeightFormat};
pub use load::{ModelSource, RandomWeights, SourceTensor, TensorSpec};
pub use memory::{EstimateOptions, MemoryEstimate, MemoryShortage, available_memory};
pub use request::{
    ChatOptions, Event, FinishReason, Finished, GenerateOptions, Prompt, Request, RequestId, Timings, Token, Usage,
};
pub use sampling::{InvalidSampling, MAX_LOGPROBS, SamplingParams, TokenLogprob};
