//! Memory of the host: the buffers that tensors and weights live in, and the caching allocator behind
//! them.

mod allocator;
mod block;
mod free;

use std::ptr::NonNull;
use std::sync::Arc;

pub(crate) use allocator::Allocator;
pub use allocator::AllocatorStats;
use block::Block;
pub(crate) use free::{FreeBlocks, HasCapacity, bucket_size};

/// Memory of the host, aligned to 64 bytes; it goes back to the device that gave it when dropped.
pub struct Buffer {
    block: Option<Block>, // always Some until dropped
    len: usize,
    home: Arc<Allocator>,
    reuse: Reuse,
}

/// What becomes of a buffer's memory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reuse {
    /// It is kept for the next request of its size.
    Cache,
    /// It goes back to the system, together with what it was cut from.
    Release,
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
            .map_or(NonNull::<u128>::dangling().cast(), Block::start)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            self.home.take_back(block, self.reuse);
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
