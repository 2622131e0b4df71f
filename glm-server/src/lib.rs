//! What a service for GLM language models needs above the engine: OpenAI's dialect, and batches. **The service itself is not
//! there yet**: nothing in here opens a port, and `glm-cli` has no `serve` command.
//!
//! - [`openai`]: bodies of chat completions and completions to requests for [`glm_runtime`], and its answers to bodies. This is
//!   the only crate that knows their JSON: what it hands on are token ids, sampling parameters and limits.
//! - [`batch`]: a file of requests to a file of results, to be run again after whatever ended it.
//! - [`queue`]: tasks that are answered later, and survive whatever ends the process; nothing uses it yet.
//!
//! # What it will hold
//!
//! - The rest of the dialect (embeddings, responses, files and batches) and the Anthropic messages dialect, streaming included.
//! - A bounded queue that answers overload with 429 or 503 and `Retry-After`, asynchronous tasks over the
//!   durable queue, and a router over several engines.
//! - Liveness, readiness and startup probes, metrics, traces, and supervision of the engine thread.
//! - A drain on SIGTERM: not ready at once, streams finish within a limit, exit code 0.
//!
//! # What it will not hold
//!
//! Kernels, candle, clap or a terminal: see `docs/ARCHITECTURE.md`, and `benches/tests/arrows.rs` which enforces it.
#![forbid(unsafe_code)]

pub mod batch;
pub mod openai;
pub mod queue;
