//! [`ForwardBatch`]: where the scheduler's arithmetic and the model's tensors meet.

use glm_kernels::AttnBatch;

use crate::kv::BLOCK_SIZE;
use crate::lora::AdapterRows;
use crate::scheduler::ChunkTokens;

/// Everything one forward pass needs to know: prefill, decode and any mix of them. T tokens of S sequences.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ForwardBatch {
    /// `[T]`: token ids, sequence after sequence.
    pub token_ids: Vec<u32>,
    /// `[T]`: position of each token in its sequence.
    pub positions: Vec<u32>,
    /// `[T]`: where each token's key and value go, `block * BLOCK_SIZE + offset`.
    pub slot_mapping: Vec<u32>,
    /// `[S + 1]`: tokens `query_start[s]..query_start[s + 1]` belong to sequence `s`.
    pub query_start: Vec<u32>,
    /// `[S]`: positions of each sequence with keys and values after this step.
    pub context_lens: Vec<u32>,
    /// `[S]`: how many of each sequence's tokens its request brought; the others are its answer.
    pub prompt_lens: Vec<u32>,
    /// `[S, max_blocks_per_seq]`: block ids in order of position, rows padded with 0.
    pub block_tables: Vec<u32>,
    /// Row length of `block_tables`.
    pub max_blocks_per_seq: usize,
    /// Rows of which logits are wanted, ascending.
    pub logit_rows: Vec<u32>,
    /// Rows that adapters change; none where nobody asked for one.
    pub adapters: Vec<AdapterRows>,
}

impl ForwardBatch {
    /// The batch of a step, one chunk per sequence; logits are wanted for the last token of those that are sampled, and for each
    /// guess after it.
    pub fn new<'a>(chunks: impl Iterator<Item = ChunkTokens<'a>> + Clone) -> Self {
        let lens = chunks.clone().map(|chunk| chunk.block_table.len());
        let max_blocks_per_seq = lens.max().unwrap_or(0);
        let mut batch = Self {
            max_blocks_per_seq,
            query_start: vec![0],
            ..Self::default()
        };
        for chunk in chunks {
            let end = chunk.start + chunk.tokens.len() + chunk.draft.len();
            batch
                .token_ids
                .extend(chunk.tokens.iter().chain(chunk.draft));
            batch.positions.extend(chunk.start as u32..end as u32);
            let slot = |position: usize| {
                chunk.block_table[position / BLOCK_SIZE].slot(position % BLOCK_SIZE)
            };
            batch.slot_mapping.extend((chunk.start..end).map(slot));
            batch.query_start.push(batch.token_ids.len() as u32);
            batch.context_lens.push(end as u32);
            batch.prompt_lens.push(chunk.prompt_len as u32);
            let row_end = batch.block_tables.len() + max_blocks_per_seq;
            batch
                .block_tables
                .extend(chunk.block_table.iter().map(|block| block.0));
            batch.block_tables.resize(row_end, 0);
            if chunk.samples {
                let row_end = batch.token_ids.len() as u32;
                let first = row_end - 1 - chunk.draft.len() as u32;
                batch.logit_rows.extend(first..row_end);
            }
        }
        batch
    }

    /// The attention kernel's view.
    pub fn attn(&self) -> AttnBatch<'_> {
        AttnBatch {
            query_start: &self.query_start,
            context_lens: &self.context_lens,
            block_tables: &self.block_tables,
            max_blocks_per_seq: self.max_blocks_per_seq,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::BlockId;

    #[test]
    fn a_mixed_step_becomes_flat_arrays() {
        let chunk = |start, tokens, draft, block_table, samples| ChunkTokens {
            start,
            tokens,
            draft,
            prompt_len: 7,
            block_table,
            samples,
        };
        let tables = [vec![BlockId(3), BlockId(1)], vec![BlockId(2)]];
        let chunks = [
            chunk(15, &[5], &[9], &tables[0], true),
            chunk(0, &[6, 7, 8], &[], &tables[1], false),
        ];
        let batch = ForwardBatch::new(chunks.into_iter());
        let expected = ForwardBatch {
            token_ids: vec![5, 9, 6, 7, 8],
            positions: vec![15, 16, 0, 1, 2],
            slot_mapping: vec![63, 16, 32, 33, 34],
            query_start: vec![0, 2, 5],
            context_lens: vec![17, 3],
            prompt_lens: vec![7, 7],
            block_tables: vec![3, 1, 2, 0],
            max_blocks_per_seq: 2,
            logit_rows: vec![0, 1],
            adapters: Vec::new(),
        };
        assert_eq!(batch, expected);
    }
}
