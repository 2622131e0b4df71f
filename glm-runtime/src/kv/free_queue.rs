//! The order in which free blocks are handed out.

use super::BlockId;

/// Free blocks in a doubly linked list inside one vector, so that any of them can be taken out in constant time.
#[derive(Debug, Clone)]
pub(super) struct FreeQueue {
    /// One per block; the last is the list's end, before the first and after the last free block.
    links: Vec<Link>,
    len: usize,
}

/// Neighbours of a free block; of a held one they mean nothing.
#[derive(Debug, Clone, Copy)]
struct Link {
    previous: u32,
    next: u32,
}

impl FreeQueue {
    /// Blocks `0..num_blocks`, handed out in this order.
    pub(super) fn new(num_blocks: u32) -> Self {
        let end = Link {
            previous: num_blocks,
            next: num_blocks,
        };
        let mut queue = Self {
            links: vec![end; num_blocks as usize + 1],
            len: 0,
        };
        (0..num_blocks).for_each(|id| queue.push_back(BlockId(id)));
        queue
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Makes a block that is not listed the next to be handed out.
    pub(super) fn push_front(&mut self, block: BlockId) {
        let end = self.end();
        self.insert(block, end, self.links[end as usize].next);
    }

    /// Makes a block that is not listed the last to be handed out.
    pub(super) fn push_back(&mut self, block: BlockId) {
        let end = self.end();
        self.insert(block, self.links[end as usize].previous, end);
    }

    /// Takes the next block.
    pub(super) fn pop_front(&mut self) -> Option<BlockId> {
        let end = self.end();
        let first = self.links[end as usize].next;
        (first != end).then(|| {
            self.remove(BlockId(first));
            BlockId(first)
        })
    }

    /// Takes a block that is listed out of its place.
    pub(super) fn remove(&mut self, block: BlockId) {
        let Link { previous, next } = self.links[block.0 as usize];
        self.links[previous as usize].next = next;
        self.links[next as usize].previous = previous;
        self.len -= 1;
    }

    /// All free blocks, the next to be handed out first.
    pub(super) fn iter(&self) -> impl Iterator<Item = BlockId> {
        let end = self.end();
        let next = move |id: u32| Some(self.links[id as usize].next).filter(|&id| id != end);
        std::iter::successors(next(end), move |&id| next(id)).map(BlockId)
    }

    fn end(&self) -> u32 {
        self.links.len() as u32 - 1
    }

    fn insert(&mut self, block: BlockId, previous: u32, next: u32) {
        self.links[block.0 as usize] = Link { previous, next };
        self.links[previous as usize].next = block.0;
        self.links[next as usize].previous = block.0;
        self.len += 1;
    }
}
