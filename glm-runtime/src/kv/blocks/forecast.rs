//! Whether a sequence could start if others gave their blocks back.

use std::collections::{HashMap, HashSet};

use super::{BlockAllocator, BlockId, blocks_for};
use crate::kv::CacheSalt;

/// The blocks that a sequence needs to start, against those that are free and those that would be.
#[derive(Debug)]
pub struct Forecast<'a> {
    blocks: &'a BlockAllocator,
    /// Known blocks that it would begin with, free or not.
    reused: HashSet<BlockId>,
    /// Blocks that it needs besides.
    missing: usize,
    /// Free blocks that are not among `reused`.
    free: usize,
    /// How many of its holders would give a block back.
    released: HashMap<BlockId, u32>,
}

impl BlockAllocator {
    /// What [`Self::allocate_for`] (without a salt: [`Self::allocate`]) would find.
    pub fn forecast(&self, tokens: &[u32], salt: Option<&CacheSalt>) -> Forecast<'_> {
        let reusable = &tokens[..tokens.len().saturating_sub(1)];
        let reused = salt.map_or_else(Vec::new, |salt| self.index.longest(reusable, salt));
        let idle = reused.iter().filter(|block| self.is_idle(**block));
        Forecast {
            missing: blocks_for(tokens.len()) - reused.len(),
            free: self.free.len() - idle.count(),
            reused: reused.into_iter().collect(),
            released: HashMap::new(),
            blocks: self,
        }
    }
}

impl Forecast<'_> {
    /// Supposes that a sequence gives its blocks back; to be called once for each.
    pub fn release(&mut self, block_table: &[BlockId]) {
        for id in block_table {
            let released = self.released.entry(*id).or_default();
            *released += 1;
            let idle = *released == self.blocks.blocks[id.0 as usize].holders;
            // What it would begin with is of no use for what comes after.
            if idle && !self.reused.contains(id) {
                self.free += 1;
            }
        }
    }

    /// Whether it could start then.
    pub fn fits(&self) -> bool {
        self.missing <= self.free
    }
}
