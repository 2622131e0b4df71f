//! What one step computes.

use super::SeqId;
use crate::kv::BlockId;
use crate::kv::swap::BlockCopies;

/// The work of one step: at most one chunk per sequence.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StepPlan {
    /// Chunks in the order of the batch: decoding sequences first.
    pub chunks: Vec<Chunk>,
    /// Blocks to be copied before anything is computed.
    pub copies: BlockCopies,
    /// For a step that runs ahead: which row of logits of the step before it decides over the token of each chunk. Empty for others.
    pub follows: Vec<u32>,
    /// Guesses at what follows the chunks, one after the other.
    pub(super) drafts: Vec<u32>,
}

/// Which tokens of one sequence. [`Scheduler::tokens`](super::Scheduler::tokens) has the tokens themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Whose tokens.
    pub seq: SeqId,
    /// Its place among the running sequences while the plan is carried out.
    pub(super) at: usize,
    /// Position of the first token.
    pub start: usize,
    /// How many.
    pub len: usize,
    /// Whether these are the last known tokens, so that the next one is sampled from the last row.
    pub samples: bool,
    /// Whether this is prompt (or recomputation), not the decoding of one token.
    pub prefill: bool,
    /// Where its guesses begin in the plan's, and how many they are.
    pub(super) draft: (usize, usize),
}

/// Consecutive tokens of one sequence and where their keys and values are.
#[derive(Debug, Clone, Copy)]
pub struct ChunkTokens<'a> {
    /// Position of the first token.
    pub start: usize,
    /// The ids.
    pub tokens: &'a [u32],
    /// Guesses at the ids that follow, computed with them so that they can be checked.
    pub draft: &'a [u32],
    /// Tokens that the sequence started with.
    pub prompt_len: usize,
    /// The sequence's blocks, long enough for `start + tokens.len() + draft.len()` tokens.
    pub block_table: &'a [BlockId],
    /// Whether the logits of the last token are wanted, and those of the guesses after it.
    pub samples: bool,
}

impl StepPlan {
    /// Tokens in all chunks, guesses included.
    pub fn num_tokens(&self) -> usize {
        let known: usize = self.chunks.iter().map(|chunk| chunk.len).sum();
        known + self.drafts.len()
    }

    /// Whether the tokens that it begins with are not known yet.
    pub fn runs_ahead(&self) -> bool {
        !self.follows.is_empty()
    }

    /// Sequences whose next token is sampled, in the order of the logits' rows.
    pub fn sampled(&self) -> impl Iterator<Item = SeqId> {
        let sampled = self.chunks.iter().filter(|chunk| chunk.samples);
        sampled.map(|chunk| chunk.seq)
    }

    /// The guesses of each of [`Self::sampled`]: one row of logits belongs to its last token, and one to each guess.
    pub fn drafts(&self) -> impl Iterator<Item = &[u32]> {
        let sampled = self.chunks.iter().filter(|chunk| chunk.samples);
        sampled.map(|chunk| self.draft_of(chunk))
    }

    pub(super) fn draft_of(&self, chunk: &Chunk) -> &[u32] {
        let (start, len) = chunk.draft;
        &self.drafts[start..start + len]
    }
}

impl Chunk {
    /// Position after the last token.
    pub fn end(&self) -> usize {
        self.start + self.len
    }
}
