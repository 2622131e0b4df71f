//! Sizes that memory is handed out in, and the free blocks of each.

use super::block::ALIGNMENT;

/// Steps per power of two.
const STEPS: usize = 8;

/// A request of this size or more takes a free block of up to twice its size.
pub(crate) const LARGE: usize = 1 << 20;

/// `bytes` rounded up to a multiple of an eighth of its power of two, at least one cache line: at
/// most 12.5 % more than asked.
pub(crate) fn bucket_size(bytes: usize) -> Option<usize> {
    let bytes = bytes.max(ALIGNMENT);
    let step = (1usize << bytes.ilog2()).max(STEPS * ALIGNMENT) / STEPS;
    bytes.checked_next_multiple_of(step)
}

/// The number of a size that [`bucket_size`] gives: 1, 2, 3 ... in order of the sizes.
fn bucket_index(size: usize) -> usize {
    // The size in steps: up to 15 of them, of one cache line at least.
    let exponent = size.ilog2().saturating_sub(STEPS.ilog2()) as usize;
    let exponent = exponent.max(ALIGNMENT.ilog2() as usize);
    STEPS * (exponent - ALIGNMENT.ilog2() as usize) + (size >> exponent)
}

/// A piece of some memory.
pub(crate) trait HasCapacity {
    /// Its size in bytes.
    fn capacity(&self) -> usize;
}

/// Free blocks by size, and within a size by when they came back, the latest last.
pub(crate) struct FreeBlocks<B> {
    /// Indexed by [`bucket_index`].
    buckets: Vec<Vec<FreeBlock<B>>>,
}

impl<B> Default for FreeBlocks<B> {
    fn default() -> Self {
        Self {
            buckets: Vec::new(),
        }
    }
}

struct FreeBlock<B> {
    block: B,
    /// The number of the request after which it came back.
    since: u64,
}

impl<B: HasCapacity> FreeBlocks<B> {
    /// A block of `capacity` bytes, a size that [`bucket_size`] gives; for a [`LARGE`] one, of up to twice
    /// as many.
    pub(crate) fn take(&mut self, capacity: usize) -> Option<B> {
        let first = bucket_index(capacity);
        let last = if capacity >= LARGE {
            first + STEPS
        } else {
            first
        };
        let end = self.buckets.len().min(last + 1);
        let fitting = self.buckets.get_mut(first..end)?;
        let free = fitting.iter_mut().find_map(Vec::pop)?;
        Some(free.block)
    }

    /// The block that is the one.
    pub(crate) fn take_that(&mut self, is: impl Fn(&B) -> bool) -> Option<B> {
        self.buckets.iter_mut().find_map(|blocks| {
            let at = blocks.iter().position(|free| is(&free.block))?;
            Some(blocks.remove(at).block)
        })
    }

    pub(crate) fn put(&mut self, block: B, since: u64) {
        let index = bucket_index(block.capacity());
        if self.buckets.len() <= index {
            self.buckets.resize_with(index + 1, Vec::new);
        }
        self.buckets[index].push(FreeBlock { block, since });
    }

    /// Takes out the blocks that came back before request `since`.
    pub(crate) fn take_older(&mut self, since: u64) -> Vec<B> {
        let mut older = Vec::new();
        for blocks in &mut self.buckets {
            let count = blocks.partition_point(|free| free.since < since);
            older.extend(blocks.drain(..count).map(|free| free.block));
        }
        older
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_what_was_asked_and_wastes_little() {
        for bytes in (1..5000).chain([1 << 20, (1 << 20) + 1, (3 << 20) + 7, 1 << 30]) {
            let bucket = bucket_size(bytes).unwrap();
            assert!(bucket >= bytes && bucket.is_multiple_of(ALIGNMENT));
            assert!(
                bucket - bytes < 64 || (bucket - bytes) * 8 <= bytes,
                "{bytes} -> {bucket}"
            );
        }
        assert_eq!(bucket_size(usize::MAX), None);
    }

    #[test]
    fn buckets_are_numbered_in_order_of_their_sizes() {
        let mut sizes: Vec<usize> = (0..100_000).filter_map(bucket_size).collect();
        sizes.dedup();
        let numbers: Vec<usize> = sizes.iter().map(|size| bucket_index(*size)).collect();
        assert_eq!(numbers, (1..=sizes.len()).collect::<Vec<_>>());
        assert_eq!(bucket_index(2 * LARGE), bucket_index(LARGE) + STEPS);
    }
}
