//! Who holds which block of the KV cache. Arithmetic on ids; the bytes are [`KvPool`](super::KvPool)'s.

/// Tokens per block. Small enough to waste little at the end of a sequence, large enough for a kernel to stream.
pub const BLOCK_SIZE: usize = 16;

/// One block of the KV cache: the same rows in every layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(pub u32);

impl BlockId {
    /// The slot of a token at `offset` within this block.
    pub fn slot(self, offset: usize) -> u32 {
        debug_assert!(offset < BLOCK_SIZE);
        self.0 * BLOCK_SIZE as u32 + offset as u32
    }
}

/// Blocks that `tokens` tokens occupy.
pub fn blocks_for(tokens: usize) -> usize {
    tokens.div_ceil(BLOCK_SIZE)
}

/// Hands out blocks and takes them back: at any time free + held = all.
#[derive(Debug, Clone)]
pub struct BlockAllocator {
    /// Free ids; the last one is handed out next, so that recently used memory is used again while it is warm.
    free: Vec<BlockId>,
    /// Whether each block is held.
    held: Vec<bool>,
}

impl BlockAllocator {
    /// An allocator over blocks `0..num_blocks`, all free.
    pub fn new(num_blocks: u32) -> Self {
        Self {
            free: (0..num_blocks).rev().map(BlockId).collect(),
            held: vec![false; num_blocks as usize],
        }
    }

    /// Number of blocks, free or not.
    pub fn num_blocks(&self) -> usize {
        self.held.len()
    }

    /// Number of blocks that nobody holds.
    pub fn num_free(&self) -> usize {
        self.free.len()
    }

    /// Takes `count` blocks, or none at all if fewer are free.
    pub fn allocate(&mut self, count: usize) -> Option<Vec<BlockId>> {
        let rest = self.free.len().checked_sub(count)?;
        let mut blocks = self.free.split_off(rest);
        blocks.reverse();
        for block in &blocks {
            self.held[block.0 as usize] = true;
        }
        Some(blocks)
    }

    /// Gives blocks back.
    ///
    /// # Panics
    /// If a block is free already: two holders would then write into it.
    pub fn release(&mut self, blocks: impl IntoIterator<Item = BlockId>) {
        for block in blocks {
            let held = std::mem::replace(&mut self.held[block.0 as usize], false);
            assert!(held, "block {} was released twice", block.0);
            self.free.push(block);
        }
    }

    /// Whether every block is either free or held, and no free id is listed twice.
    pub fn is_consistent(&self) -> bool {
        let mut listed = vec![false; self.held.len()];
        for block in &self.free {
            if std::mem::replace(&mut listed[block.0 as usize], true) {
                return false;
            }
        }
        self.held
            .iter()
            .zip(listed)
            .all(|(&held, free)| held != free)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Action {
        Allocate(usize),
        Release(usize),
    }

    fn action() -> impl Strategy<Value = Action> {
        prop_oneof![
            (0usize..6).prop_map(Action::Allocate),
            (0usize..64).prop_map(Action::Release),
        ]
    }

    proptest! {
        #[test]
        fn no_block_is_lost_or_handed_out_twice(num_blocks in 0u32..20, actions in prop::collection::vec(action(), 0..80)) {
            let mut blocks = BlockAllocator::new(num_blocks);
            let mut holders: Vec<Vec<BlockId>> = Vec::new();
            for action in actions {
                match action {
                    Action::Allocate(count) => {
                        let free = blocks.num_free();
                        match blocks.allocate(count) {
                            Some(taken) => {
                                prop_assert_eq!(taken.len(), count);
                                prop_assert!(taken.iter().all(|b| !holders.iter().flatten().any(|held| held == b)));
                                holders.push(taken);
                            }
                            None => prop_assert!(free < count, "refused {} of {} free", count, free),
                        }
                    }
                    Action::Release(i) if !holders.is_empty() => {
                        let holder = holders.swap_remove(i % holders.len());
                        blocks.release(holder);
                    }
                    Action::Release(_) => {}
                }
                let held: usize = holders.iter().map(Vec::len).sum();
                prop_assert_eq!(blocks.num_free() + held, blocks.num_blocks());
                prop_assert!(blocks.is_consistent());
            }
        }
    }

    #[test]
    #[should_panic(expected = "released twice")]
    fn a_double_release_is_caught() {
        let mut blocks = BlockAllocator::new(1);
        let taken = blocks.allocate(1).unwrap();
        blocks.release(taken.clone());
        blocks.release(taken);
    }

    #[test]
    fn a_partial_block_counts_as_one() {
        assert_eq!(
            [0, 1, BLOCK_SIZE, BLOCK_SIZE + 1].map(blocks_for),
            [0, 1, 1, 2]
        );
    }
}
