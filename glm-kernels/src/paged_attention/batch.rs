//! Which queries a step has and where their keys and values are.

use crate::indices::Bound;
use crate::{Indices, KernelError, KvLayer};

use super::OP;

/// The sequences of a step, as plain numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttnBatch {
    /// `[S + 1]`: tokens `query_start[s]..query_start[s + 1]` of the step are the last tokens of
    /// sequence `s`.
    pub query_start: Indices,
    /// `[S]`: stored positions of each sequence, those of this step included.
    pub context_lens: Indices,
    /// `[S, max_blocks_per_seq]`: ids of a sequence's blocks in order of position; entries beyond
    /// its context are not read.
    pub block_tables: Indices,
    /// The length of a row of `block_tables`.
    pub max_blocks_per_seq: usize,
}

/// One sequence of a batch that was checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sequence<'a> {
    /// The step's token that is its first query.
    pub first_token: usize,
    pub queries: usize,
    pub context_len: usize,
    pub block_table: &'a [u32],
}

impl Sequence<'_> {
    /// How many positions its query number `query` sees: its own and all before.
    pub fn visible(&self, query: usize) -> usize {
        self.context_len - self.queries + query + 1
    }
}

impl AttnBatch {
    /// The sequences, if everything fits: `tokens` queries in all, and blocks that `kv` has.
    pub(super) fn sequences(
        &self,
        tokens: usize,
        kv: &KvLayer,
    ) -> Result<Vec<Sequence<'_>>, KernelError> {
        let count = self.context_lens.len();
        let lengths = [
            ("query_start", count + 1, self.query_start.len()),
            (
                "block_tables",
                count.saturating_mul(self.max_blocks_per_seq),
                self.block_tables.len(),
            ),
            (
                "query_start[0]",
                0,
                self.query_start.first().map_or(0, |start| *start as usize),
            ),
            (
                "query_start[S]",
                tokens,
                self.query_start.last().map_or(0, |end| *end as usize),
            ),
        ];
        if let Some((name, expected, found)) = lengths
            .into_iter()
            .find(|(_, expected, found)| expected != found)
        {
            return Err(KernelError::Length {
                op: OP,
                name,
                expected,
                found,
            });
        }
        let room = self.max_blocks_per_seq.saturating_mul(kv.block_size());
        self.query_start.checked(Bound::Same);
        self.context_lens
            .checked(Bound::Below(room.saturating_add(1)));
        // Nearly always; and then the tables need not be walked through in every layer.
        let blocks_are_there = self
            .block_tables
            .check_below(OP, "block", kv.num_blocks())
            .is_ok();
        if !blocks_are_there {
            self.block_tables.checked(Bound::Same);
        }
        (0..count)
            .map(|index| self.sequence(index, kv, blocks_are_there))
            .collect()
    }

    fn sequence(
        &self,
        index: usize,
        kv: &KvLayer,
        blocks_are_there: bool,
    ) -> Result<Sequence<'_>, KernelError> {
        let (first_token, end) = (
            self.query_start[index] as usize,
            self.query_start[index + 1] as usize,
        );
        let context_len = self.context_lens[index] as usize;
        let Some(queries) = end.checked_sub(first_token) else {
            return Err(KernelError::Value {
                op: OP,
                name: "query_start",
                found: end,
                rule: "at least the one before",
            });
        };
        if queries > context_len {
            return Err(KernelError::Value {
                op: OP,
                name: "context_len",
                found: context_len,
                rule: "at least the number of queries",
            });
        }
        let blocks = context_len.div_ceil(kv.block_size());
        let row = &self.block_tables[index * self.max_blocks_per_seq..][..self.max_blocks_per_seq];
        let Some(block_table) = row.get(..blocks) else {
            return Err(KernelError::Length {
                op: OP,
                name: "block table",
                expected: blocks,
                found: row.len(),
            });
        };
        let is_missing = |block: &&u32| **block as usize >= kv.num_blocks();
        if !blocks_are_there && let Some(block) = block_table.iter().find(is_missing) {
            return Err(KernelError::Index {
                op: OP,
                name: "block",
                index: *block as usize,
                len: kv.num_blocks(),
            });
        }
        Ok(Sequence {
            first_token,
            queries,
            context_len,
            block_table,
        })
    }
}
