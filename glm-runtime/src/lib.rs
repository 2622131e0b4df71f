//! Runs GLM language models inside a Rust program: loading, a paged KV cache, continuous batching, sampling and streams.
//!
//! ```
//! use glm_runtime::{ChatOptions, Engine, GenerateOptions, Message};
//!
//! let engine = Engine::builder("demo").build()?;
//! let generate = GenerateOptions { max_tokens: Some(16), ..GenerateOptions::default() };
//! let options = ChatOptions { generate, ..ChatOptions::default() };
//! for text in engine.chat([Message::user("What is a token?")], options)?.texts() {
//!     print!("{}", text?);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! - [`Engine::builder`] takes MODEL (`demo`, a directory, a `.gguf` file, a hub id, `random:PRESET`) and builds an
//!   [`EngineHandle`], which can be cloned and used from any thread: [`chat`](EngineHandle::chat),
//!   [`generate`](EngineHandle::generate), [`submit`](EngineHandle::submit), [`score`](EngineHandle::score).
//! - A [`RequestStream`] is iterated over or polled as a `futures` stream; it ends with exactly one final [`Event`].
//! - [`batch`] keeps an engine full with more requests than memory holds, and gives the answers as they come.
//! - [`Engine`] is the same without a thread: token ids in, token ids out, one [`step`](Engine::step) at a time.
//! - [`mod@bench`], [`inspect`], [`perplexity`] and [`quantize`] are the work behind the commands of `glm-cli`; [`profile`] says
//!   where an engine's time goes.
//!
//! Greedy answers, and sampled ones with a seed, do not depend on what else runs: not on companions in the batch, not on how
//! a prompt is cut into chunks, not on preemption.
#![forbid(unsafe_code)]

pub mod batch;
mod beam;
pub mod bench;
#[cfg(feature = "candle")]
pub mod candle;
mod costs;
mod engine;
mod error;
mod forward;
#[doc(hidden)]
pub mod fuzzing;
mod guide;
pub mod inspect;
#[doc(hidden)]
pub mod internals;
mod kv;
mod layers;
mod load;
mod lora;
mod memory;
mod models;
pub mod perplexity;
pub mod profile;
pub mod quantize;
mod request;
mod sampling;
mod scheduler;
mod speculate;
mod sync;
#[cfg(feature = "testing")]
pub mod testing;
mod text;

pub use beam::{Beam, BeamError, BeamOptions, EarlyStopping};
pub use engine::{
    Completion, Engine, EngineBuilder, EngineHandle, EngineOptions, EngineStats, Events, KvBudget,
    KvBudgetReason, LinearShape, ModelInfo, Pending, PendingEmbedding, PromptLogprob,
    RequestStream, SeqEvent, SeqToken, Trace,
};
pub use error::{BuildError, EngineError, ErrorKind};
pub use glm_core::chat::{Content, Message};
pub use glm_core::{OpenOptions, Progress, Tokenizer};
pub use glm_kernels::{CudaError, CudaReport, CudaTrial, DeviceInfo, Isa, KvDType, WeightFormat};
pub use guide::{Grammar, GrammarError, ToolCalls};
pub use kv::file::{PrefixCacheError, SavedPrefixCache};
pub use load::{ModelSource, Quantization, RandomWeights, SourceTensor, TensorSpec};
pub use lora::{AdapterError, AdapterInfo, UnknownAdapter};
pub use memory::{EstimateOptions, MemoryEstimate, MemoryShortage, available_memory};
pub use request::{
    ChatOptions, Event, FinishReason, Finished, GenerateOptions, MAX_PRIORITY, Part, Prompt,
    Request, RequestId, Timings, Token, Usage,
};
pub use sampling::{InvalidSampling, MAX_LOGPROBS, SamplingParams, TokenLogprob};
pub use speculate::{DraftLength, Speculation};
