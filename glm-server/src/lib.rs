//! The service for GLM language models: OpenAI's interface over HTTP, and what stands above an engine besides.
//!
//! - [`openai`]: bodies of chat completions and completions to requests for [`glm_runtime`], and its answers to bodies or chunks of
//!   a stream. This is the only crate that knows their JSON: what it hands on are token ids, sampling parameters and limits.
//!   `anthropic` (messages) and `responses` rewrite their bodies as chats and give the answers another form, and go the same way for the rest.
//! - [`http`]: the same over HTTP, with keys, TLS, limits, probes, metrics and a drain: what `glm-cli serve` runs.
//! - [`telemetry`]: the log, and spans to a collector.
//! - [`batch`]: a file of requests to a file of results, to be run again after whatever ended it.
//! - [`queue`]: tasks that are answered later, and survive whatever ends the process; `/v1/tasks`, `/v1/files` and `/v1/batches` are on it.
//!
//! # What it will hold
//!
//! A router over several engines, and supervision of the engine thread.
//!
//! # What it will not hold
//!
//! Kernels, candle, clap or a terminal: see `docs/ARCHITECTURE.md`, and `benches/tests/arrows.rs` which enforces it.
#![forbid(unsafe_code)]

mod anthropic;
pub mod batch;
#[cfg(feature = "grpc")]
mod grpc;
pub mod http;
mod jobs;
pub mod openai;
mod parts;
pub mod queue;
mod responses;
pub mod telemetry;
#[cfg(test)]
mod testing;
mod web;
