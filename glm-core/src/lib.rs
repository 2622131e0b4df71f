//! Checkpoints of the GLM family: configuration, weights on disk, tokenizer and chat format.
//!
//! [`Checkpoint::open`] takes what a person would type: `demo`, a Hugging Face directory (safetensors or PyTorch), a `.gguf`
//! file, or a hub id. Whatever the source, the result is one [`ModelConfig`], one set of tensor names, one [`Tokenizer`] and
//! one [`ChatFormat`]. Tensors are mapped, not read; this crate does no arithmetic on them.
//! [`Adapter::open`] does the same for a LoRA adapter in PEFT's layout.
#![deny(unsafe_code)]

mod adapter;
pub mod chat;
mod checkpoint;
mod config;
mod error;
#[doc(hidden)]
pub mod fuzzing;
pub mod gguf;
mod names;
mod pytorch;
mod safetensors;
mod source;
mod tensor;
pub mod tokenizer;

pub use adapter::{Adapter, AdapterModule, Projection};
pub use chat::{ChatFormat, TemplateError};
pub use checkpoint::{Checkpoint, Format, OpenOptions, Progress};
pub use config::{DenseConfig, GenerationConfig, ModelConfig, RopeScaling};
pub use error::{LoadError, LoadErrorKind};
pub use tensor::{TensorData, TensorInfo, TensorType, UnknownTensorType};
pub use tokenizer::{Tokenizer, TokenizerError};
