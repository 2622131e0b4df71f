//! GGUF, llama.cpp's file format: versions 2 and 3, little-endian.
//!
//! A file is a header, metadata (`key = value`), a list of tensors and their data. [`Reader`] maps a file and checks every count,
//! length and offset before using it; [`Writer`] streams tensors into a new file that appears under its name only when whole.
//! Specification: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

mod cursor;
mod reader;
mod tokenizer;
mod value;
mod writer;

pub use reader::{Reader, TensorEntry};
pub use tokenizer::{tokenizer_metadata, vocabulary};
pub use value::{Array, Value};
pub use writer::{TensorSpec, Writer};

pub use crate::config::gguf_metadata;
pub use crate::names::gguf_tensor_name as tensor_name;

/// First four bytes of every GGUF file.
pub const MAGIC: [u8; 4] = *b"GGUF";

/// Alignment of tensor data when the metadata does not set `general.alignment`.
pub const DEFAULT_ALIGNMENT: u64 = 32;

/// More dimensions than this GGML cannot represent (`GGML_MAX_DIMS`).
pub(crate) const MAX_DIMS: u32 = 4;
