//! Who holds which block of the KV cache. Arithmetic on ids; the bytes are [`KvPool`](super::KvPool)'s.

mod forecast;
mod known;

pub use known::{KnownBlock, Origin};

use super::free_queue::FreeQueue;
use super::prefix::{Before, CacheSalt, Prefix, PrefixId, PrefixIndex};

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
///
/// A full block can be made known by what it holds ([`Self::share`]). Whoever needs the same tokens after the same others
/// then holds the same block ([`Self::allocate_for`]), and nobody writes to it any more. Free blocks that are known stay so
/// until their memory is needed: those that nobody knows are handed out first, then the one released longest ago.
///
/// A sequence releases its last block first, and whoever holds a block holds all before it. So the blocks that continue a
/// known one are always forgotten before it is.
#[derive(Debug, Clone)]
pub struct BlockAllocator {
    blocks: Vec<Block>,
    free: FreeQueue,
    index: PrefixIndex,
    /// Free blocks that are known.
    num_cached: usize,
}

#[derive(Debug, Clone, Default)]
struct Block {
    /// How many sequences hold it.
    holders: u32,
    known: Option<(Prefix, PrefixId)>,
}

/// Blocks for all tokens of a sequence, the first of which may hold keys and values already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allocated {
    /// In order of position.
    pub block_table: Vec<BlockId>,
    /// Tokens whose keys and values are there: whole blocks, and never the last token.
    pub num_cached_tokens: usize,
}

impl Allocated {
    /// Blocks that hold nothing.
    pub fn fresh(block_table: Vec<BlockId>) -> Self {
        Self {
            block_table,
            num_cached_tokens: 0,
        }
    }
}

impl BlockAllocator {
    /// An allocator over blocks `0..num_blocks`, all free.
    pub fn new(num_blocks: u32) -> Self {
        Self {
            blocks: vec![Block::default(); num_blocks as usize],
            free: FreeQueue::new(num_blocks),
            index: PrefixIndex::default(),
            num_cached: 0,
        }
    }

    /// Number of blocks, free or not.
    pub fn num_blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Number of blocks that nobody holds.
    pub fn num_free(&self) -> usize {
        self.free.len()
    }

    /// How many of the free blocks would be found again by a sequence that begins like theirs.
    pub fn num_cached(&self) -> usize {
        self.num_cached
    }

    /// How many of a sequence's blocks somebody else holds too; they are its first ones.
    pub fn num_held_by_others(&self, block_table: &[BlockId]) -> usize {
        let by_others = |block: &&BlockId| self.blocks[block.0 as usize].holders > 1;
        block_table.iter().take_while(by_others).count()
    }

    fn is_idle(&self, block: BlockId) -> bool {
        self.blocks[block.0 as usize].holders == 0
    }

    /// Takes `count` blocks, or none at all if fewer are free.
    pub fn allocate(&mut self, count: usize) -> Option<Vec<BlockId>> {
        if count > self.free.len() {
            return None;
        }
        Some((0..count).filter_map(|_| self.take_free()).collect())
    }

    /// Takes the blocks for all of `tokens`, or none at all if too few are free. It begins with the longest run of known
    /// blocks under `salt`; the last token is left to be computed in any case, because its logits are wanted.
    pub fn allocate_for(&mut self, tokens: &[u32], salt: &CacheSalt) -> Option<Allocated> {
        let reusable = tokens.len().saturating_sub(1);
        let mut block_table = self.index.longest(&tokens[..reusable], salt);
        let num_cached_tokens = block_table.len() * BLOCK_SIZE;
        let idle = block_table.iter().filter(|block| self.is_idle(**block));
        let missing = blocks_for(tokens.len()) - block_table.len();
        if missing > self.free.len() - idle.count() {
            return None;
        }
        // Known blocks first: they must not be handed out as fresh ones.
        block_table.iter().for_each(|&block| self.hold(block));
        block_table.extend((0..missing).filter_map(|_| self.take_free()));
        Some(Allocated {
            block_table,
            num_cached_tokens,
        })
    }

    /// What block `at` of a sequence holds once `tokens`, exactly [`BLOCK_SIZE`], are computed; `None` if what comes before it
    /// is not known.
    pub fn prefix(
        &self,
        block_table: &[BlockId],
        at: usize,
        tokens: &[u32],
        salt: &CacheSalt,
    ) -> Option<Prefix> {
        let before = match at.checked_sub(1) {
            None => Before::Start(salt.clone()),
            Some(before) => {
                let block = &self.blocks[block_table[before].0 as usize];
                Before::Block(block.known.as_ref()?.1)
            }
        };
        let tokens = tokens.try_into().ok()?;
        Some(Prefix { before, tokens })
    }

    /// Makes block `at` of a sequence known: it is full and holds `prefix`, and nobody will write to it.
    ///
    /// If the same is known already, from a sequence that computed it at the same time, the table gets that block, and the
    /// copy is released.
    pub fn share(&mut self, block_table: &mut [BlockId], at: usize, prefix: Prefix) {
        if !self.adopt(block_table, at, &prefix) {
            let own = block_table[at];
            let id = self.index.insert(prefix.clone(), own);
            self.blocks[own.0 as usize].known = Some((prefix, id));
        }
    }

    /// Puts the known block that holds `prefix` into a sequence's table, in place of its own, which is released; false if
    /// there is none.
    pub fn adopt(&mut self, block_table: &mut [BlockId], at: usize, prefix: &Prefix) -> bool {
        let Some((known, _)) = self.index.get(prefix) else {
            return false;
        };
        if known != block_table[at] {
            self.hold(known);
            self.release([block_table[at]]);
            block_table[at] = known;
        }
        true
    }

    /// Gives the blocks of a sequence back, the last one first.
    ///
    /// # Panics
    /// If nobody holds a block: two sequences would then write into it.
    pub fn release(
        &mut self,
        blocks: impl IntoIterator<Item = BlockId, IntoIter: DoubleEndedIterator>,
    ) {
        for id in blocks.into_iter().rev() {
            let block = &mut self.blocks[id.0 as usize];
            assert!(block.holders > 0, "block {} was released twice", id.0);
            block.holders -= 1;
            match (block.holders, &block.known) {
                (0, Some(_)) => {
                    self.free.push_back(id);
                    self.num_cached += 1;
                }
                // Handed out next, while its memory is warm.
                (0, None) => self.free.push_front(id),
                _ => {}
            }
        }
    }

    /// Adds a holder to a known block.
    fn hold(&mut self, id: BlockId) {
        let block = &mut self.blocks[id.0 as usize];
        if block.holders == 0 {
            self.free.remove(id);
            self.num_cached -= 1;
        }
        block.holders += 1;
    }

    /// Hands out the next free block; what it held is forgotten.
    fn take_free(&mut self) -> Option<BlockId> {
        let id = self.free.pop_front()?;
        let block = &mut self.blocks[id.0 as usize];
        block.holders = 1;
        if let Some((prefix, _)) = block.known.take() {
            self.index.remove(&prefix);
            self.num_cached -= 1;
        }
        Some(id)
    }

    /// Checks every promise of this type: a block is listed as free, once, exactly if nobody holds it; the index and the
    /// blocks agree; what comes before a known block is known.
    pub fn is_consistent(&self) -> bool {
        let mut listed = vec![false; self.blocks.len()];
        for id in self.free.iter() {
            if std::mem::replace(&mut listed[id.0 as usize], true) {
                return false;
            }
        }
        let free_iff_listed = |(block, &listed): (&Block, &bool)| (block.holders == 0) == listed;
        let known = || self.blocks.iter().filter_map(|block| block.known.as_ref());
        let ids: std::collections::HashSet<_> = known().map(|(_, id)| id).collect();
        let follows = |(prefix, _): &(Prefix, PrefixId)| match &prefix.before {
            Before::Start(_) => true,
            Before::Block(id) => ids.contains(id),
        };
        let indexed = |(id, block): (u32, &Block)| match &block.known {
            Some((prefix, name)) => self.index.get(prefix) == Some((BlockId(id), *name)),
            None => true,
        };
        let is_cached = |id: &BlockId| self.blocks[id.0 as usize].known.is_some();
        self.blocks.iter().zip(&listed).all(free_iff_listed)
            && known().all(follows)
            && (0..).zip(&self.blocks).all(indexed)
            && self.index.len() == ids.len()
            && self.free.iter().filter(is_cached).count() == self.num_cached
    }
}

#[cfg(test)]
mod tests;
