//! The known blocks one by one, so that they can be kept outside and come back.

use super::{BlockAllocator, BlockId};
use crate::kv::prefix::{Before, Prefix};
use crate::kv::{BLOCK_SIZE, CacheSalt};

/// What comes before a known block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nothing: it is the first of those who share under this salt.
    Start(CacheSalt),
    /// A known block, by its place in the list that it comes from.
    After(usize),
}

/// A known block, and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownBlock {
    /// Where its keys and values are.
    pub block: BlockId,
    /// What comes before it.
    pub origin: Origin,
    /// The tokens whose keys and values it holds.
    pub tokens: [u32; BLOCK_SIZE],
}

impl BlockAllocator {
    /// How many blocks became known so far; the list of them is the same as long as this is, but for what was forgotten.
    pub fn num_named(&self) -> u64 {
        self.index.num_named()
    }

    /// All known blocks, the one to be forgotten first last; each comes after the one that it continues.
    pub fn known_blocks(&self) -> Vec<KnownBlock> {
        // Whoever holds a block holds those before it, and they were named before it was.
        let is_held = |id: &BlockId| self.blocks[id.0 as usize].holders > 0;
        let mut held: Vec<_> = (0..self.blocks.len() as u32)
            .map(BlockId)
            .filter(is_held)
            .filter_map(|id| Some((self.blocks[id.0 as usize].known.as_ref()?.1, id)))
            .collect();
        held.sort_by_key(|(name, _)| *name);
        let mut free: Vec<_> = self.free.iter().collect();
        free.reverse();
        let ids = held.into_iter().map(|(_, id)| id).chain(free);
        let mut places = std::collections::HashMap::new();
        let known = |id: BlockId| {
            let (prefix, name) = self.blocks[id.0 as usize].known.as_ref()?;
            let origin = match &prefix.before {
                Before::Start(salt) => Origin::Start(salt.clone()),
                Before::Block(before) => Origin::After(*places.get(before)?),
            };
            places.insert(*name, places.len());
            Some(KnownBlock {
                block: id,
                origin,
                tokens: prefix.tokens,
            })
        };
        ids.filter_map(known).collect()
    }

    /// Takes a free block that nobody knows and makes it known as what continues `before` (a known block that the caller holds),
    /// or as the first under a salt. `None` if no such block is left, or somebody knows the same already. The caller holds the
    /// block, writes it, and releases it when it has what continues it.
    pub fn restore(
        &mut self,
        before: Result<BlockId, CacheSalt>,
        tokens: [u32; BLOCK_SIZE],
    ) -> Option<BlockId> {
        let before = match before {
            Err(salt) => Before::Start(salt),
            Ok(id) => Before::Block(self.blocks[id.0 as usize].known.as_ref()?.1),
        };
        let prefix = Prefix { before, tokens };
        if self.index.get(&prefix).is_some() || self.free.len() == self.num_cached {
            return None;
        }
        let id = self.take_free()?;
        let name = self.index.insert(prefix.clone(), id);
        self.blocks[id.0 as usize].known = Some((prefix, name));
        Some(id)
    }

    /// Forgets what every block holds. Whoever holds blocks keeps them.
    pub fn forget_all(&mut self) {
        self.blocks.iter_mut().for_each(|block| block.known = None);
        self.index.clear();
        self.num_cached = 0;
    }
}
