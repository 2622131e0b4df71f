//! Which block holds the keys and values of which tokens after which others.
//!
//! A full block is known by its [`Prefix`]: the block before it and its own tokens. Keys and values depend on all tokens
//! before them, and so does this name, because the block before it is named in the same way, down to the first, which names
//! the tenant's salt. Names are compared, not only their hashes, so two different texts never share a block.

use std::collections::HashMap;
use std::sync::Arc;

use super::{BLOCK_SIZE, BlockId};
use crate::lora::AdapterId;

/// Separates those who may share blocks from those who may not: only requests with the same salt do. Whoever could see that
/// a prompt was answered from the cache would learn that somebody else had sent it; and under an adapter the same tokens have
/// other keys and values.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct CacheSalt {
    tenant: Option<Arc<str>>,
    adapter: Option<AdapterId>,
}

impl From<Option<String>> for CacheSalt {
    fn from(tenant: Option<String>) -> Self {
        Self {
            tenant: tenant.map(Arc::from),
            adapter: None,
        }
    }
}

impl CacheSalt {
    /// The same tenant's salt for requests under this adapter.
    pub fn with_adapter(self, adapter: Option<AdapterId>) -> Self {
        Self { adapter, ..self }
    }

    /// The tenant, for those who keep blocks where this engine's adapters have no names: `None` under one.
    pub fn tenant(&self) -> Option<Option<&str>> {
        self.adapter.is_none().then_some(self.tenant.as_deref())
    }
}

/// Names a full block for as long as it is known; never given twice, and the later the larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PrefixId(u64);

/// What comes before a block.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Before {
    /// Nothing: it is the first.
    Start(CacheSalt),
    /// This block, and what comes before it.
    Block(PrefixId),
}

/// What a full block holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Prefix {
    pub(super) before: Before,
    pub(super) tokens: [u32; BLOCK_SIZE],
}

/// The blocks that are known, by what they hold.
#[derive(Debug, Clone, Default)]
pub(super) struct PrefixIndex {
    /// The standard library's hash, whose key is random, so that nobody can make prompts that collide.
    blocks: HashMap<Prefix, (BlockId, PrefixId)>,
    named: u64,
}

impl PrefixIndex {
    pub(super) fn get(&self, prefix: &Prefix) -> Option<(BlockId, PrefixId)> {
        self.blocks.get(prefix).copied()
    }

    pub(super) fn insert(&mut self, prefix: Prefix, block: BlockId) -> PrefixId {
        let id = PrefixId(self.named);
        self.named += 1;
        self.blocks.insert(prefix, (block, id));
        id
    }

    pub(super) fn remove(&mut self, prefix: &Prefix) {
        self.blocks.remove(prefix);
    }

    pub(super) fn clear(&mut self) {
        self.blocks.clear();
    }

    pub(super) fn len(&self) -> usize {
        self.blocks.len()
    }

    /// How many names were given so far.
    pub(super) fn num_named(&self) -> u64 {
        self.named
    }

    /// The known blocks that `tokens` begin with, in order.
    pub(super) fn longest(&self, tokens: &[u32], salt: &CacheSalt) -> Vec<BlockId> {
        let mut before = Before::Start(salt.clone());
        let mut found = Vec::new();
        for &tokens in tokens.as_chunks().0 {
            let Some((block, id)) = self.get(&Prefix { before, tokens }) else {
                break;
            };
            found.push(block);
            before = Before::Block(id);
        }
        found
    }
}
