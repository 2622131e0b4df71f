//! What one step computes.

use super::SeqId;
use crate::kv::BlockId;

/// The work of one step: at most one chunk per sequence.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StepPlan {
    /// Chunks in the order of the batch: decoding sequences first, each oldest first.
    pub chunks: Vec<Chunk>,
}

/// Consecutive tokens of one sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Whose tokens.
    pub seq: SeqId,
    /// Position of the first one.
    pub start: usize,
    /// The ids.
    pub tokens: Vec<u32>,
    /// The sequence's blocks, long enough for `start + tokens.len()` tokens.
    pub block_table: Vec<BlockId>,
    /// Whether these are the last known tokens, so that the next one is sampled from the last row.
    pub samples: bool,
    /// Whether this is prompt (or recomputation), not the decoding of one token.
    pub prefill: bool,
}

impl StepPlan {
    /// Tokens in all chunks.
    pub fn num_tokens(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.tokens.len()).sum()
    }

    /// Sequences whose next token is sampled, in the order of the logits' rows.
    pub fn sampled(&self) -> impl Iterator<Item = SeqId> {
        self.chunks
            .iter()
            .filter(|chunk| chunk.samples)
            .map(|chunk| chunk.seq)
    }
}
