//! The caching allocator: a forward pass that repeats gets the same memory again, so it neither
//! calls the system nor faults pages in.
//!
//! Sizes are rounded up to one of eight steps per power of two, and each size has a free list. A
//! freed block goes back to its list and is handed out last-in first-out, so the next request of
//! that size finds it warm in the cache. Prompts come in any length, and each would leave blocks of
//! its own sizes behind: so a large request also takes a block up to twice its size, and when the
//! system must be asked, blocks that nobody wanted for long are given back first.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::KernelError;

/// Every block starts on a cache line, which is also the width of the widest vector.
const ALIGNMENT: usize = 64;

/// A block of this size or more starts on a page boundary of the same size, and the system is asked
/// to back it with such pages: streaming weights through 4 KiB pages costs a TLB miss each 4 KiB.
const HUGE_PAGE: usize = 2 << 20;

/// A request of this size or more takes a free block of up to twice its size.
const LARGE: usize = 1 << 20;

/// Requests after which a block that none of them took counts as idle: some ten steps of a model.
const IDLE_REQUESTS: u64 = 4096;

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
    /// By size, and within a size by when they came back, the latest last.
    free: BTreeMap<usize, Vec<FreeBlock>>,
    requests: u64,
    stats: AllocatorStats,
}

struct FreeBlock {
    block: Block,
    /// The value of [`State::requests`] when it came back.
    since: u64,
}

impl State {
    fn take_free(&mut self, capacity: usize) -> Option<Block> {
        let largest = if capacity >= LARGE {
            capacity.saturating_mul(2)
        } else {
            capacity
        };
        let fitting = self.free.range_mut(capacity..=largest);
        let block = fitting
            .into_iter()
            .find_map(|(_, blocks)| blocks.pop())?
            .block;
        self.stats.cached_bytes -= block.capacity;
        self.count_live(block.capacity);
        Some(block)
    }

    fn count_live(&mut self, capacity: usize) {
        self.stats.live_bytes += capacity;
        self.stats.peak_bytes = self.stats.peak_bytes.max(self.stats.live_bytes);
    }

    /// Takes out the blocks that none of the last [`IDLE_REQUESTS`] requests took.
    fn take_idle(&mut self) -> Vec<FreeBlock> {
        let mut idle = Vec::new();
        for blocks in self.free.values_mut() {
            let count = blocks.partition_point(|free| self.requests - free.since > IDLE_REQUESTS);
            idle.extend(blocks.drain(..count));
        }
        self.stats.cached_bytes -= idle.iter().map(|free| free.block.capacity).sum::<usize>();
        idle
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
        let buffer = Buffer {
            block: Some(block),
            len: bytes,
            home: Arc::clone(self),
        };
        Ok((buffer, is_new))
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

    fn take_back(&self, block: Block) {
        let mut state = self.lock();
        let (capacity, since) = (block.capacity, state.requests);
        state.stats.live_bytes -= capacity;
        state.stats.cached_bytes += capacity;
        state
            .free
            .entry(capacity)
            .or_default()
            .push(FreeBlock { block, since });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere cannot leave the counts half changed, since nothing in here panics
        // between two changes.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `bytes` rounded up to a multiple of an eighth of its power of two, at least one cache line: at
/// most 12.5 % more than asked.
fn bucket_size(bytes: usize) -> Option<usize> {
    let bytes = bytes.max(ALIGNMENT);
    let step = (1usize << bytes.ilog2()).max(8 * ALIGNMENT) / 8;
    bytes.checked_next_multiple_of(step)
}

/// Zeroed memory of the system's, with an aligned part of `capacity` bytes.
struct Block {
    start: NonNull<u8>,
    capacity: usize,
    system: NonNull<u8>,
    system_layout: Layout,
}

// SAFETY: a `Block` is the only owner of its memory and has no interior mutability; like
// `Box<[u8]>` it may move and be shared.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

impl Block {
    fn new(capacity: usize) -> Option<Self> {
        let alignment = if capacity >= HUGE_PAGE {
            HUGE_PAGE
        } else {
            ALIGNMENT
        };
        // Aligned by hand: the system hands out zeroed pages without touching them only for an
        // alignment that it gives anyway.
        let system_layout = Layout::from_size_align(capacity.checked_add(alignment)?, 16).ok()?;
        // SAFETY: the layout's size is not zero, `bucket_size` is at least `ALIGNMENT`.
        let system = NonNull::new(unsafe { alloc_zeroed(system_layout) })?;
        let padding = system.as_ptr().align_offset(alignment);
        // SAFETY: `padding < alignment`, and the allocation is `alignment` bytes longer than
        // `capacity`.
        let start = unsafe { system.add(padding) };
        if capacity >= HUGE_PAGE {
            advise_huge_pages(start, capacity);
        }
        Some(Self {
            start,
            capacity,
            system,
            system_layout,
        })
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: `system` came from `alloc_zeroed` with this very layout, and the block is its
        // only owner.
        unsafe { dealloc(self.system.as_ptr(), self.system_layout) }
    }
}

#[cfg(all(target_os = "linux", not(miri)))]
fn advise_huge_pages(start: NonNull<u8>, bytes: usize) {
    // SAFETY: the range lies within a live allocation of ours (`Block::new`), and MADV_HUGEPAGE
    // changes no content. It is a hint: failure is harmless.
    unsafe { libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) };
}

#[cfg(not(all(target_os = "linux", not(miri))))]
fn advise_huge_pages(_start: NonNull<u8>, _bytes: usize) {}

/// Memory of a device, aligned to 64 bytes; it goes back to the device's cache when dropped.
pub struct Buffer {
    block: Option<Block>, // always Some until dropped
    len: usize,
    home: Arc<Allocator>,
}

impl Buffer {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        // SAFETY: `start` is valid for `len <= capacity` bytes, which are initialised (zeroed by
        // the system, or written since).
        unsafe { std::slice::from_raw_parts(self.start().as_ptr(), self.len) }
    }

    /// The bytes, to write.
    pub fn as_bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_bytes`; `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start().as_ptr(), self.len) }
    }

    /// The whole elements of type `T` that fit.
    pub fn as_slice_of<T: Element>(&self) -> &[T] {
        // SAFETY: as in `as_bytes`; the start is aligned to 64 bytes, and every bit pattern is an
        // `Element`.
        unsafe {
            std::slice::from_raw_parts(self.start().as_ptr().cast(), self.len / size_of::<T>())
        }
    }

    /// The whole elements of type `T` that fit, to write.
    pub fn as_slice_of_mut<T: Element>(&mut self) -> &mut [T] {
        // SAFETY: as in `as_slice_of`; `&mut self` makes the access exclusive.
        unsafe {
            std::slice::from_raw_parts_mut(self.start().as_ptr().cast(), self.len / size_of::<T>())
        }
    }

    /// The number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn start(&self) -> NonNull<u8> {
        self.block
            .as_ref()
            .map_or(NonNull::<u128>::dangling().cast(), |block| block.start)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            self.home.take_back(block);
        }
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buffer")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// A number that any bytes of its size stand for.
///
/// # Safety
/// Every bit pattern must be a valid value, there must be no padding, and the alignment must be at
/// most 64.
pub unsafe trait Element: Copy + Send + Sync + 'static {}

macro_rules! elements {
    ($($ty:ty),*) => {$(
        // SAFETY: a plain number (or a transparent wrapper of one) has no padding and no invalid
        // bit pattern.
        unsafe impl Element for $ty {}
    )*};
}
elements!(
    u8,
    i8,
    u16,
    i16,
    u32,
    i32,
    u64,
    i64,
    f32,
    half::f16,
    half::bf16
);

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
            assert_eq!(
                allocator.allocate(bytes).unwrap_err(),
                KernelError::OutOfMemory { bytes }
            );
        }
        assert_eq!(allocator.stats(), AllocatorStats::default());
    }
}
