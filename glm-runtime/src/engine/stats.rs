//! Numbers about a running engine.

use serde::Serialize;

/// What an engine is doing and has done; counters start at 0 when it is built.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct EngineStats {
    /// Requests that wait for their first (or, after a preemption, next) step.
    pub waiting: usize,
    /// Tokens of the waiting requests.
    pub waiting_tokens: usize,
    /// Requests that hold blocks.
    pub running: usize,
    /// Blocks of the KV cache.
    pub kv_blocks_total: usize,
    /// Blocks that nobody holds.
    pub kv_blocks_free: usize,
    /// How many of the free blocks hold the beginning of a text that may come again.
    pub kv_blocks_cached: usize,
    /// LoRA adapters that requests can choose: [`EngineHandle::adapters`](crate::EngineHandle::adapters) lists them.
    pub adapters: usize,
    /// Bytes that they take, and those that were unloaded and are still in use.
    pub adapter_bytes: u64,
    /// Forward passes.
    pub steps: u64,
    /// Those of them that a graphics processor repeated as it had recorded them.
    pub graph_steps: u64,
    /// Why it records none any more, if something went wrong with that; the engine goes on without.
    pub graph_error: Option<String>,
    /// Those that a graphics processor was asked for before the tokens of the step before them were known.
    pub steps_ahead: u64,
    /// Products that a graphics processor was asked for from NVIDIA's library (cuBLASLt).
    pub cublaslt_products: u64,
    /// What went wrong first with that library, if something did; own kernels do what it does not.
    pub cublaslt_error: Option<String>,
    /// Prompt tokens computed, recomputed ones included.
    pub prefill_tokens: u64,
    /// Tokens looked up in the prefix cache: those of requests that began, or began again after a preemption.
    pub prefix_cache_queries: u64,
    /// How many of them were found there and not computed.
    pub prefix_cache_hits: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
    /// Tokens guessed ahead and checked ([`Speculation`](crate::Speculation)).
    pub drafted_tokens: u64,
    /// Those of them that were right, each of which spared a step.
    pub accepted_tokens: u64,
    /// Steps that went on without guesses because the draft model failed.
    pub drafter_failures: u64,
    /// Tokens that came from the file of the prefix cache when the engine was built.
    pub prefix_cache_restored: u64,
    /// Why the prefix cache could not be written to its file, if the latest attempt failed.
    pub prefix_cache_error: Option<String>,
    /// Requests that lost their blocks to others and had to be computed again, or copied back.
    pub preemptions: u64,
    /// Those of them whose blocks were copied to host memory.
    pub swapped_out: u64,
    /// Tokens whose keys and values were copied back from there.
    pub swapped_tokens: u64,
    /// Blocks for which there is room in host memory.
    pub swap_blocks_total: usize,
    /// How many more it could take now.
    pub swap_blocks_free: usize,
    /// Requests accepted: those waiting or running now, finished, failed and handed back together.
    pub accepted: u64,
    /// Requests that ended with [`Event::Finished`](crate::Event::Finished).
    pub finished: u64,
    /// Those of them that were cancelled, or whose stream was dropped.
    pub cancelled: u64,
    /// Requests that ended with [`Event::Failed`](crate::Event::Failed) after they were accepted.
    pub failed: u64,
    /// Those of them that ran out of their time.
    pub timed_out: u64,
    /// Requests given back before they had started.
    pub handed_back: u64,
}
