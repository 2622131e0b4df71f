//! Memory from the system: blocks of their own, and slabs that many long-lived blocks are cut from.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;
use std::sync::{Arc, Weak};

use super::free::HasCapacity;

/// Every block starts on a cache line, which is also the width of the widest vector.
pub(super) const ALIGNMENT: usize = 64;

/// Memory of this size or more starts on a page boundary of the same size, and the system is asked
/// to back it with such pages: streaming weights through 4 KiB pages costs a TLB miss each 4 KiB.
pub(super) const HUGE_PAGE: usize = 2 << 20;

/// Zeroed memory of the system's, with an aligned part of `len` bytes.
struct SystemMemory {
    start: NonNull<u8>,
    system: NonNull<u8>,
    layout: Layout,
}

// SAFETY: it only owns the memory; who may access which part is the blocks' business.
unsafe impl Send for SystemMemory {}
// SAFETY: as above.
unsafe impl Sync for SystemMemory {}

impl SystemMemory {
    fn new(len: usize) -> Option<Self> {
        let alignment = if len >= HUGE_PAGE {
            HUGE_PAGE
        } else {
            ALIGNMENT
        };
        // Aligned by hand: the system hands out zeroed pages without touching them only for an
        // alignment that it gives anyway.
        let layout = Layout::from_size_align(len.checked_add(alignment)?, 16).ok()?;
        // SAFETY: the layout's size is not zero, for the alignment is not.
        let system = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        let padding = system.as_ptr().align_offset(alignment);
        // SAFETY: `padding < alignment`, and the allocation is `alignment` bytes longer than `len`.
        let start = unsafe { system.add(padding) };
        if len >= HUGE_PAGE {
            advise_huge_pages(start, len);
        }
        Some(Self {
            start,
            system,
            layout,
        })
    }
}

impl Drop for SystemMemory {
    fn drop(&mut self) {
        // SAFETY: `system` came from `alloc_zeroed` with this very layout, and this is its only
        // owner.
        unsafe { dealloc(self.system.as_ptr(), self.layout) }
    }
}

#[cfg(all(target_os = "linux", not(miri)))]
fn advise_huge_pages(start: NonNull<u8>, bytes: usize) {
    // SAFETY: the range lies within a live allocation of ours (`SystemMemory::new`), and
    // MADV_HUGEPAGE changes no content. It is a hint: failure is harmless.
    unsafe { libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) };
}

#[cfg(not(all(target_os = "linux", not(miri))))]
fn advise_huge_pages(_start: NonNull<u8>, _bytes: usize) {}

/// `capacity` bytes that nobody else has; zero when they are new.
pub(super) struct Block {
    start: NonNull<u8>,
    capacity: usize,
    /// What it lies in.
    _memory: Arc<SystemMemory>,
}

// SAFETY: a `Block` is the only owner of its bytes and has no interior mutability; like `Box<[u8]>`
// it may move and be shared.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

impl Block {
    /// A block of its own.
    pub(super) fn new(capacity: usize) -> Option<Self> {
        let memory = SystemMemory::new(capacity)?;
        Some(Self {
            start: memory.start,
            capacity,
            _memory: Arc::new(memory),
        })
    }

    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }
}

impl HasCapacity for Block {
    fn capacity(&self) -> usize {
        self.capacity
    }
}

/// A piece of memory that blocks are cut from, one after the other, in huge pages however small the
/// blocks are. It lives as long as any of them.
#[derive(Default)]
pub(super) struct Slab {
    memory: Weak<SystemMemory>,
    used: usize,
    len: usize,
}

impl Slab {
    /// A slab of at least `len` bytes with a block of `capacity` bytes cut from it.
    pub(super) fn with_block(len: usize, capacity: usize) -> Option<(Self, Block)> {
        let len = len.checked_next_multiple_of(HUGE_PAGE)?;
        let memory = Arc::new(SystemMemory::new(len)?);
        let mut slab = Self {
            memory: Arc::downgrade(&memory),
            used: 0,
            len,
        };
        let block = slab.cut(capacity)?;
        Some((slab, block))
    }

    /// The next `capacity` bytes, which must be a multiple of [`ALIGNMENT`], if they are there.
    pub(super) fn cut(&mut self, capacity: usize) -> Option<Block> {
        let memory = self.memory.upgrade()?;
        if capacity > self.len - self.used {
            return None;
        }
        // SAFETY: `used <= len`, and the memory is `len` bytes long.
        let start = unsafe { memory.start.add(self.used) };
        self.used += capacity;
        Some(Block {
            start,
            capacity,
            _memory: memory,
        })
    }

    /// Bytes that can still be cut.
    pub(super) fn left(&self) -> usize {
        if self.memory.strong_count() > 0 {
            self.len - self.used
        } else {
            0
        }
    }
}
