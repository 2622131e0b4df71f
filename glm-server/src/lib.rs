//! The service for GLM language models: **not there yet**.
//!
//! The crate holds its place in the workspace, so that the layering is checked from the first day. It exports nothing, opens
//! no port and answers no request; `glm-cli` has no `serve` command until it does.
//!
//! # What it will hold
//!
//! - The OpenAI dialect (chat completions, completions, embeddings, responses, files and batches) and the Anthropic messages
//!   dialect, streaming included. This will be the only crate that knows their JSON: what it hands to
//!   [`glm_runtime`] are token ids, sampling parameters and limits.
//! - A bounded queue that answers overload with 429 or 503 and `Retry-After`, a durable queue for asynchronous tasks, and
//!   a router over several engines.
//! - Liveness, readiness and startup probes, metrics, traces, and supervision of the engine thread.
//! - A drain on SIGTERM: not ready at once, streams finish within a limit, exit code 0.
//!
//! # What it will not hold
//!
//! Kernels, candle, clap or a terminal: see `docs/ARCHITECTURE.md`, and `benches/tests/arrows.rs` which enforces it.
#![forbid(unsafe_code)]
