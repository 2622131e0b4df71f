//! [`ForwardBatch`]: where the scheduler's arithmetic and the model's tensors meet.

use glm_kernels::{AttnBatch, Indices};

use crate::kv::BLOCK_SIZE;
use crate::lora::AdapterRows;
use crate::scheduler::ChunkTokens;

/// Everything one forward pass needs to know: prefill, decode and any mix of them. T tokens of S sequences.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ForwardBatch {
    /// `[T]`: token ids, sequence after sequence.
    pub token_ids: Indices,
    /// `[T]`: position of each token in its sequence.
    pub positions: Indices,
    /// `[T]`: where each token's key and value go, `block * BLOCK_SIZE + offset`.
    pub slot_mapping: Indices,
    /// Which tokens belong to which sequence, how long each is after this step, and its blocks in order of position.
    pub attn: AttnBatch,
    /// `[S]`: how many of each sequence's tokens its request brought; the others are its answer.
    pub prompt_lens: Vec<u32>,
    /// Rows of which logits are wanted, ascending.
    pub logit_rows: Indices,
    /// Rows that adapters change; none where nobody asked for one.
    pub adapters: Vec<AdapterRows>,
}

impl ForwardBatch {
    /// The batch of a step, one chunk per sequence; logits are wanted for the last token of those that are sampled, and for each
    /// guess after it.
    pub fn new<'a>(chunks: impl Iterator<Item = ChunkTokens<'a>> + Clone) -> Self {
        let lens = chunks.clone().map(|chunk| chunk.block_table.len());
        let max_blocks_per_seq = lens.max().unwrap_or(0);
        let (mut token_ids, mut positions, mut slot_mapping) = (vec![], vec![], vec![]);
        let (mut query_start, mut context_lens, mut block_tables) = (vec![0], vec![], vec![]);
        let (mut prompt_lens, mut logit_rows) = (vec![], vec![]);
        for chunk in chunks {
            let end = chunk.start + chunk.tokens.len() + chunk.draft.len();
            token_ids.extend(chunk.tokens.iter().chain(chunk.draft));
            positions.extend(chunk.start as u32..end as u32);
            let slot = |position: usize| {
                chunk.block_table[position / BLOCK_SIZE].slot(position % BLOCK_SIZE)
            };
            slot_mapping.extend((chunk.start..end).map(slot));
            query_start.push(token_ids.len() as u32);
            context_lens.push(end as u32);
            prompt_lens.push(chunk.prompt_len as u32);
            let row_end = block_tables.len() + max_blocks_per_seq;
            block_tables.extend(chunk.block_table.iter().map(|block| block.0));
            block_tables.resize(row_end, 0);
            if chunk.samples {
                let row_end = token_ids.len() as u32;
                let first = row_end - 1 - chunk.draft.len() as u32;
                logit_rows.extend(first..row_end);
            }
        }
        // One list after the other, so that they go to a device in one copy.
        let lists = [
            &token_ids[..],
            &positions,
            &slot_mapping,
            &query_start,
            &context_lens,
            &block_tables,
            &logit_rows,
        ];
        let [
            token_ids,
            positions,
            slot_mapping,
            query_start,
            context_lens,
            block_tables,
            logit_rows,
        ] = Indices::pack(lists);
        Self {
            token_ids,
            positions,
            slot_mapping,
            attn: AttnBatch {
                query_start,
                context_lens,
                block_tables,
                max_blocks_per_seq,
            },
            prompt_lens,
            logit_rows,
            adapters: Vec::new(),
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
            token_ids: [5, 9, 6, 7, 8].into(),
            positions: [15, 16, 0, 1, 2].into(),
            slot_mapping: [63, 16, 32, 33, 34].into(),
            attn: AttnBatch {
                query_start: [0, 2, 5].into(),
                context_lens: [17, 3].into(),
                block_tables: [3, 1, 2, 0].into(),
                max_blocks_per_seq: 2,
            },
            prompt_lens: vec![7, 7],
            logit_rows: [0, 1].into(),
            adapters: Vec::new(),
        };
        assert_eq!(batch, expected);
    }
}
