//! [`ForwardBatch`]: where the scheduler's arithmetic and the model's tensors meet.

use glm_kernels::{AttnBatch, Indices};

use crate::kv::{BLOCK_SIZE, BlockId};
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

/// Sizes of a step that decodes one token of each sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DecodeShape {
    /// Sequences.
    pub sequences: usize,
    /// Blocks of each.
    pub blocks: usize,
}

impl ForwardBatch {
    /// The batch of a step, one chunk per sequence; logits are wanted for the last token of those that are sampled, and for each
    /// guess after it.
    pub fn new<'a>(chunks: impl Iterator<Item = ChunkTokens<'a>> + Clone) -> Self {
        let lens = chunks.clone().map(|chunk| chunk.block_table.len());
        let max_blocks = lens.max().unwrap_or(0);
        let mut lists = Lists::new(max_blocks);
        chunks.for_each(|chunk| lists.push(&chunk));
        lists.pack()
    }

    /// The same of a step that decodes one token of each sequence, brought to a shape that has room for all. What it is filled up
    /// with are texts of one token each, whose keys and values go to the block `spare`, and logits that nobody asked for, behind
    /// the others.
    pub(crate) fn filled_up<'a>(
        chunks: impl Iterator<Item = ChunkTokens<'a>>,
        shape: DecodeShape,
        spare: BlockId,
    ) -> Self {
        let mut lists = Lists::new(shape.blocks);
        chunks.for_each(|chunk| lists.push(&chunk));
        let filling = ChunkTokens {
            start: 0,
            tokens: &[0],
            draft: &[],
            prompt_len: 1,
            block_table: &[spare],
            samples: true,
        };
        while lists.context_lens.len() < shape.sequences {
            lists.push(&filling);
        }
        lists.pack()
    }
}

/// A batch that is being put together, as its fields are called.
struct Lists {
    max_blocks: usize,
    token_ids: Vec<u32>,
    positions: Vec<u32>,
    slot_mapping: Vec<u32>,
    query_start: Vec<u32>,
    context_lens: Vec<u32>,
    block_tables: Vec<u32>,
    prompt_lens: Vec<u32>,
    logit_rows: Vec<u32>,
}

impl Lists {
    /// No tokens, of sequences with at most `max_blocks` blocks.
    fn new(max_blocks: usize) -> Self {
        Self {
            max_blocks,
            token_ids: vec![],
            positions: vec![],
            slot_mapping: vec![],
            query_start: vec![0],
            context_lens: vec![],
            block_tables: vec![],
            prompt_lens: vec![],
            logit_rows: vec![],
        }
    }

    fn push(&mut self, chunk: &ChunkTokens<'_>) {
        let end = chunk.start + chunk.tokens.len() + chunk.draft.len();
        self.token_ids
            .extend(chunk.tokens.iter().chain(chunk.draft));
        self.positions.extend(chunk.start as u32..end as u32);
        let slot =
            |position: usize| chunk.block_table[position / BLOCK_SIZE].slot(position % BLOCK_SIZE);
        self.slot_mapping.extend((chunk.start..end).map(slot));
        let tokens = self.token_ids.len() as u32;
        self.query_start.push(tokens);
        self.context_lens.push(end as u32);
        self.prompt_lens.push(chunk.prompt_len as u32);
        // A sequence may have blocks already that it does not need in this step.
        let blocks = chunk.block_table.iter().take(self.max_blocks);
        let row_end = self.block_tables.len() + self.max_blocks;
        self.block_tables.extend(blocks.map(|block| block.0));
        self.block_tables.resize(row_end, 0);
        if chunk.samples {
            let first = tokens - 1 - chunk.draft.len() as u32;
            self.logit_rows.extend(first..tokens);
        }
    }

    fn pack(self) -> ForwardBatch {
        // One list after the other, so that they go to a device in one copy.
        let lists = [
            &self.token_ids[..],
            &self.positions,
            &self.slot_mapping,
            &self.query_start,
            &self.context_lens,
            &self.block_tables,
            &self.logit_rows,
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
        ForwardBatch {
            token_ids,
            positions,
            slot_mapping,
            attn: AttnBatch {
                query_start,
                context_lens,
                block_tables,
                max_blocks_per_seq: self.max_blocks,
            },
            prompt_lens: self.prompt_lens,
            logit_rows,
            adapters: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn a_decoding_step_is_brought_to_a_shape() {
        let tables = [vec![BlockId(3), BlockId(1)], vec![BlockId(2), BlockId(5)]];
        let chunk = |start, token, block_table| ChunkTokens {
            start,
            tokens: token,
            draft: &[],
            prompt_len: 7,
            block_table,
            samples: true,
        };
        let chunks = [
            chunk(15, &[5], &tables[0][..]),
            chunk(3, &[6], &tables[1][..]),
        ];
        let shape = |blocks| DecodeShape {
            sequences: 4,
            blocks,
        };
        let batch = ForwardBatch::filled_up(chunks.into_iter(), shape(1), BlockId(9));
        let expected = ForwardBatch {
            token_ids: [5, 6, 0, 0].into(),
            positions: [15, 3, 0, 0].into(),
            slot_mapping: [63, 35, 144, 144].into(),
            attn: AttnBatch {
                query_start: [0, 1, 2, 3, 4].into(),
                context_lens: [16, 4, 1, 1].into(),
                block_tables: [3, 2, 9, 9].into(),
                max_blocks_per_seq: 1,
            },
            prompt_lens: vec![7, 7, 1, 1],
            logit_rows: [0, 1, 2, 3].into(),
            adapters: Vec::new(),
        };
        assert_eq!(batch, expected);
        let batch = ForwardBatch::filled_up(chunks.into_iter(), shape(3), BlockId(9));
        let wider = [3, 1, 0, 2, 5, 0, 9, 0, 0, 9, 0, 0];
        assert_eq!(batch.attn.block_tables, Indices::from(wider));
    }
}
