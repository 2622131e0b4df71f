//! The caching allocator: a forward pass that repeats gets the same memory again, so it neither
//! calls the system nor faults pages in.
//!
//! Sizes are rounded up to one of eight steps per power of two, and each size has a free list. A
//! freed block goes back to its list and is handed out last-in first-out, so the next request of
//! that size finds it warm in the cache. Prompts come in any length, and each would leave blocks of
//! its own sizes behind: so a large request also takes a block up to twice its size, and when the
//! system must be asked, blocks that nobody wanted for long are given back first.
//!
//! Weights are another matter: they stay, and a token reads all of them. They are cut one after the
//! other from slabs of huge pages, without rounding.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::block::{ALIGNMENT, Block, Slab};
use super::free::{FreeBlocks, HasCapacity, bucket_size};
use super::{Buffer, Reuse};
use crate::KernelError;

/// Requests after which a block that none of them took counts as idle: some ten steps of a model.
const IDLE_REQUESTS: u64 = 4096;

/// The largest slab that is made for blocks smaller than itself. The end of a slab is lost, half a
/// huge page on average.
const MAX_SLAB: usize = 256 << 20;

/// What an allocator holds, in bytes and calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AllocatorStats {
    /// Bytes handed out and in use, after rounding.
    pub live_bytes: usize,
    /// Bytes kept for reuse.
    pub cached_bytes: usize,
    /// The most bytes ever in use at once.
    pub peak_bytes: usize,
    /// How often the system was asked for memory. A steady state does not raise it.
    pub system_allocations: u64,
}

#[derive(Default)]
struct State {
    free: FreeBlocks<Block>,
    slab: Slab,
    /// Bytes cut from slabs and in use.
    slab_bytes: usize,
    requests: u64,
    stats: AllocatorStats,
}

impl State {
    fn take_free(&mut self, capacity: usize) -> Option<Block> {
        let block = self.free.take(capacity)?;
        self.stats.cached_bytes -= block.capacity();
        self.count_live(block.capacity());
        Some(block)
    }

    fn count_live(&mut self, capacity: usize) {
        self.stats.live_bytes += capacity;
        self.stats.peak_bytes = self.stats.peak_bytes.max(self.stats.live_bytes);
    }

    /// Takes out the blocks that none of the last [`IDLE_REQUESTS`] requests took.
    fn take_idle(&mut self) -> Vec<Block> {
        let idle = self
            .free
            .take_older(self.requests.saturating_sub(IDLE_REQUESTS));
        self.stats.cached_bytes -= idle.iter().map(Block::capacity).sum::<usize>();
        idle
    }

    fn cut(&mut self, capacity: usize) -> Option<Block> {
        let block = self.slab.cut(capacity)?;
        self.count_cut(capacity);
        Some(block)
    }

    fn count_cut(&mut self, capacity: usize) {
        self.slab_bytes += capacity;
        self.count_live(capacity);
    }
}

/// Hands out [`Buffer`]s and keeps the returned ones.
#[derive(Default)]
pub(crate) struct Allocator {
    state: Mutex<State>,
}

impl Allocator {
    /// A buffer of `bytes` bytes. Their values are unspecified: zero if the block is new, otherwise
    /// what its last user left.
    pub(crate) fn allocate(self: &Arc<Self>, bytes: usize) -> Result<Buffer, KernelError> {
        Ok(self.take(bytes)?.0)
    }

    /// A buffer of zeros. A block that comes from the system is not touched, so that its pages are
    /// used up only as they are written.
    pub(crate) fn allocate_zeroed(self: &Arc<Self>, bytes: usize) -> Result<Buffer, KernelError> {
        let (mut buffer, is_new) = self.take(bytes)?;
        if !is_new {
            buffer.as_bytes_mut().fill(0);
        }
        Ok(buffer)
    }

    /// A buffer of zeros for what stays, such as weights: side by side with the last such buffer, in
    /// huge pages, and not kept when it is dropped.
    pub(crate) fn allocate_long_lived(
        self: &Arc<Self>,
        bytes: usize,
    ) -> Result<Buffer, KernelError> {
        let out_of_memory = KernelError::OutOfMemory { bytes };
        let capacity = bytes.max(1).checked_next_multiple_of(ALIGNMENT);
        let capacity = capacity.ok_or(out_of_memory.clone())?;
        let cut = self.lock().cut(capacity);
        let block = match cut {
            Some(block) => block,
            None => self.new_slab(capacity).ok_or(out_of_memory)?,
        };
        Ok(self.buffer(block, bytes, Reuse::Release))
    }

    /// A block of a new slab, which is as large as all that was cut before: few slabs for a large
    /// model, little memory for a small one.
    fn new_slab(&self, capacity: usize) -> Option<Block> {
        let wanted = self.lock().slab_bytes.min(MAX_SLAB).max(capacity);
        let (slab, block) =
            Slab::with_block(wanted, capacity).or_else(|| Slab::with_block(capacity, capacity))?;
        let mut state = self.lock();
        state.stats.system_allocations += 1;
        state.count_cut(capacity);
        if slab.left() > state.slab.left() {
            state.slab = slab;
        }
        Some(block)
    }

    /// A buffer, and whether its block is new.
    fn take(self: &Arc<Self>, bytes: usize) -> Result<(Buffer, bool), KernelError> {
        let capacity = bucket_size(bytes).ok_or(KernelError::OutOfMemory { bytes })?;
        let (cached, idle) = {
            let mut state = self.lock();
            state.requests += 1;
            match state.take_free(capacity) {
                Some(block) => (Some(block), Vec::new()),
                None => (None, state.take_idle()),
            }
        };
        drop(idle); // outside the lock, as are the calls to the system: both may take long
        let is_new = cached.is_none();
        let block = match cached {
            Some(block) => block,
            None => self
                .new_block(capacity)
                .ok_or(KernelError::OutOfMemory { bytes })?,
        };
        Ok((self.buffer(block, bytes, Reuse::Cache), is_new))
    }

    fn buffer(self: &Arc<Self>, block: Block, len: usize, reuse: Reuse) -> Buffer {
        Buffer {
            block: Some(block),
            len,
            home: Arc::clone(self),
            reuse,
        }
    }

    fn new_block(&self, capacity: usize) -> Option<Block> {
        let block = Block::new(capacity)?;
        let mut state = self.lock();
        state.stats.system_allocations += 1;
        state.count_live(capacity);
        Some(block)
    }

    pub(crate) fn stats(&self) -> AllocatorStats {
        self.lock().stats
    }

    /// Gives every cached block back to the system.
    pub(crate) fn release_cached(&self) {
        let freed = {
            let mut state = self.lock();
            state.stats.cached_bytes = 0;
            std::mem::take(&mut state.free)
        };
        drop(freed); // outside the lock: unmapping large blocks takes long
    }

    pub(super) fn take_back(&self, block: Block, reuse: Reuse) {
        let mut state = self.lock();
        let capacity = block.capacity();
        state.stats.live_bytes -= capacity;
        match reuse {
            Reuse::Cache => {
                state.stats.cached_bytes += capacity;
                let since = state.requests;
                state.free.put(block, since);
            }
            Reuse::Release => {
                state.slab_bytes -= capacity;
                drop(state); // the block may be the last of a slab, and unmapping takes long
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere cannot leave the counts half changed, since nothing in here panics
        // between two changes.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::block::HUGE_PAGE;
    use super::super::free::LARGE;
    use super::*;

    #[test]
    fn a_freed_block_is_handed_out_again() {
        let allocator = Arc::new(Allocator::default());
        let first = allocator.allocate(1000).unwrap();
        let address = first.as_bytes().as_ptr();
        drop(first);
        assert_eq!(allocator.stats().live_bytes, 0);
        assert_eq!(allocator.stats().cached_bytes, 1024);
        let second = allocator.allocate(1001).unwrap();
        assert_eq!(second.as_bytes().as_ptr(), address);
        assert_eq!(
            allocator.stats(),
            AllocatorStats {
                live_bytes: 1024,
                cached_bytes: 0,
                peak_bytes: 1024,
                system_allocations: 1
            }
        );
    }

    #[test]
    fn a_block_used_before_is_zeroed_when_asked_for() {
        let allocator = Arc::new(Allocator::default());
        let mut first = allocator.allocate(1000).unwrap();
        first.as_bytes_mut().fill(7);
        let start = first.as_bytes().as_ptr();
        drop(first);
        let second = allocator.allocate_zeroed(1000).unwrap();
        assert_eq!(
            second.as_bytes().as_ptr(),
            start,
            "the block was not reused"
        );
        assert!(second.as_bytes().iter().all(|&byte| byte == 0));
    }

    #[test]
    fn blocks_are_aligned_and_start_zeroed() {
        let allocator = Arc::new(Allocator::default());
        for bytes in [0, 1, 63, 4096, HUGE_PAGE] {
            let buffer = allocator.allocate(bytes).unwrap();
            assert_eq!(buffer.len(), bytes);
            assert_eq!(
                buffer
                    .as_bytes()
                    .as_ptr()
                    .align_offset(if bytes >= HUGE_PAGE {
                        HUGE_PAGE
                    } else {
                        ALIGNMENT
                    }),
                0
            );
            assert!(buffer.as_bytes().iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn released_memory_is_asked_for_anew() {
        let allocator = Arc::new(Allocator::default());
        drop(allocator.allocate(100).unwrap());
        allocator.release_cached();
        assert_eq!(allocator.stats().cached_bytes, 0);
        drop(allocator.allocate(100).unwrap());
        assert_eq!(allocator.stats().system_allocations, 2);
    }

    #[test]
    fn a_large_request_takes_a_block_of_up_to_twice_its_size() {
        let allocator = Arc::new(Allocator::default());
        drop(allocator.allocate(2 * LARGE).unwrap());
        let fits = allocator.allocate(LARGE).unwrap();
        assert_eq!(allocator.stats().system_allocations, 1);
        drop(fits);
        drop(allocator.allocate(LARGE - LARGE / 8).unwrap());
        assert_eq!(allocator.stats().system_allocations, 2);
    }

    #[test]
    fn blocks_that_nobody_wants_are_given_back_when_others_are_needed() {
        let allocator = Arc::new(Allocator::default());
        drop(allocator.allocate(1 << 16).unwrap());
        for _ in 0..=IDLE_REQUESTS {
            drop(allocator.allocate(64).unwrap());
        }
        assert_eq!(allocator.stats().cached_bytes, (1 << 16) + 64);
        drop(allocator.allocate(128).unwrap());
        assert_eq!(allocator.stats().cached_bytes, 64 + 128);
    }

    #[test]
    fn threads_may_share_an_allocator() {
        let allocator = Arc::new(Allocator::default());
        std::thread::scope(|scope| {
            for thread in 0..4u8 {
                let allocator = &allocator;
                scope.spawn(move || {
                    for bytes in 1..60 {
                        let mut buffer = allocator.allocate(bytes * 40).unwrap();
                        buffer.as_bytes_mut().fill(thread);
                        assert!(buffer.as_bytes().iter().all(|byte| *byte == thread));
                        if bytes == 30 {
                            allocator.release_cached();
                        }
                    }
                });
            }
        });
        assert_eq!(allocator.stats().live_bytes, 0);
        allocator.release_cached();
        assert_eq!(allocator.stats().cached_bytes, 0);
    }

    #[test]
    fn a_size_beyond_any_memory_is_an_error() {
        let allocator = Arc::new(Allocator::default());
        for bytes in [usize::MAX, usize::MAX / 2, isize::MAX as usize] {
            let error = KernelError::OutOfMemory { bytes };
            assert_eq!(allocator.allocate(bytes).unwrap_err(), error);
            assert_eq!(allocator.allocate_long_lived(bytes).unwrap_err(), error);
        }
        assert_eq!(allocator.stats(), AllocatorStats::default());
    }

    #[test]
    fn long_lived_buffers_lie_side_by_side_and_are_not_kept() {
        let allocator = Arc::new(Allocator::default());
        let sizes = [1000, 64, 0, 1 << 20, 777];
        let buffers = sizes.map(|bytes| allocator.allocate_long_lived(bytes).unwrap());
        let starts = buffers
            .each_ref()
            .map(|buffer| buffer.as_bytes().as_ptr().addr());
        assert!(starts[0].is_multiple_of(HUGE_PAGE));
        let offsets = starts.map(|start| start - starts[0]);
        assert_eq!(offsets, [0, 1024, 1088, 1152, 1152 + (1 << 20)]);
        let stats = allocator.stats();
        assert_eq!(
            (stats.system_allocations, stats.live_bytes),
            (1, offsets[4] + 832)
        );
        for (buffer, bytes) in buffers.iter().zip(sizes) {
            assert!(buffer.as_bytes() == vec![0; bytes]);
        }
        drop(buffers);
        let stats = allocator.stats();
        assert_eq!((stats.live_bytes, stats.cached_bytes), (0, 0));
    }

    #[test]
    fn a_slab_that_nobody_uses_is_gone() {
        let allocator = Arc::new(Allocator::default());
        for slabs in 1..4 {
            let mut buffer = allocator.allocate_long_lived(100).unwrap();
            assert_eq!(allocator.stats().system_allocations, slabs);
            buffer.as_bytes_mut().fill(7);
        }
    }

    #[test]
    fn slabs_grow_with_what_is_cut_from_them() {
        let allocator = Arc::new(Allocator::default());
        let buffers: Vec<_> = (0..64)
            .map(|_| allocator.allocate_long_lived(HUGE_PAGE / 2).unwrap())
            .collect();
        // 1, 1, 2, 4, 8 and 16 huge pages.
        assert_eq!(allocator.stats().system_allocations, 6);
        assert_eq!(allocator.stats().live_bytes, 32 * HUGE_PAGE);
        let mut starts: Vec<_> = buffers
            .iter()
            .map(|b| b.as_bytes().as_ptr().addr())
            .collect();
        starts.sort_unstable();
        assert!(
            starts
                .windows(2)
                .all(|pair| pair[1] - pair[0] >= HUGE_PAGE / 2)
        );
    }
}
