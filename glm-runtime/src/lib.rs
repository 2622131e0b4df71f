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

mod batch;
pub mod bench;
mod engine;
mod error;
pub mod inspect;
mod kv;
mod layers;
mod load;
mod memory;
mod models;
pub mod perplexity;
pub mod quantize;
mod request;
mod sampling;
mod scheduler;
mod text;

pub use engine::{
    Completion, Engine, EngineBuilder, EngineHandle, EngineOptions, EngineStats, Events, ModelInfo, RequestStream, SeqEvent, SeqToken, Trace,
};
pub use error::{BuildError, EngineError, ErrorKind};
pub use glm_core::{OpenOptions, Progress, Tokenizer};
pub use glm_kernels::{Isa, KvDType, WeightFormat};
pub use load::{ModelSource, RandomWeights, SourceTensor, TensorSpec};
pub use memory::{EstimateOptions, MemoryEstimate, MemoryShortage, available_memory};
pub use request::{
    ChatOptions, Event, FinishReason, Finished, GenerateOptions, Prompt, Request, RequestId, Timings, Token, Usage,
};
pub use sampling::{InvalidSampling, MAX_LOGPROBS, SamplingParams, TokenLogprob};
