//! Memory of a device: the caching allocator, with a limit, and the buffers that it hands out.
//!
//! It does what the CPU's does (`crate::memory`): sizes are rounded and freed blocks are kept by size, so
//! that a step that repeats gets the same addresses and never waits for the driver, whose allocations
//! take as long as a layer. What stays is cut from slabs, side by side.
//!
//! A block may be handed out again while kernels that use it are still queued, because whatever the next
//! owner asks for is queued behind them, copies to and from the host included. So a buffer may be dropped as
//! soon as its last use was asked for, and nobody has to keep what a step works on until it is done. Where a
//! block goes back to the driver instead, the driver waits for the work (`Context::free`).
//!
//! Launches that are recorded have their addresses for good. So their buffers come from an allocator of their
//! own, an arena, that gives nothing back to the driver before all of it is given up.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::driver::{Context, CopyHandle, DevicePtr};
use super::session::Session;
use crate::memory::{FreeBlocks, HasCapacity, bucket_size};
use crate::{AllocatorStats, CudaError, KernelError};

/// Every block starts at a multiple of this: the width of the widest access of a warp, and more than
/// any copy engine asks for.
const ALIGNMENT: usize = 256;

/// Requests after which a block that none of them took counts as idle: some ten steps of a model.
const IDLE_REQUESTS: u64 = 4096;

/// Slabs are as large as this where there is room. The driver gives out pages of 2 MiB.
const SLAB: usize = 64 << 20;

/// What is as large as this has memory of its own: what it left of a slab would be lost.
const OWN_MEMORY: usize = SLAB / 8;

/// Memory of the driver's; freed when the last block of it is gone.
struct DriverMemory {
    session: Arc<Session>,
    start: DevicePtr,
    len: usize,
    reserved: Arc<AtomicU64>,
}

impl Drop for DriverMemory {
    fn drop(&mut self) {
        // SAFETY: `start` came from `allocate`, and this is its only owner. Where the device is lost the
        // call is not made, and the memory is gone with the context.
        let _ = self
            .session
            .call(|context| unsafe { context.free(self.start) });
        self.reserved.fetch_sub(self.len as u64, Ordering::Relaxed);
    }
}

/// A part of the driver's memory.
struct Block {
    start: DevicePtr,
    capacity: usize,
    _memory: Arc<DriverMemory>,
}

impl HasCapacity for Block {
    fn capacity(&self) -> usize {
        self.capacity
    }
}

/// Memory that blocks that stay are cut from.
#[derive(Default)]
struct Slab {
    memory: Weak<DriverMemory>,
    used: usize,
}

impl Slab {
    fn cut(&mut self, capacity: usize) -> Option<Block> {
        let memory = self.memory.upgrade()?;
        if capacity > memory.len - self.used {
            return None;
        }
        let start = memory.start.offset(self.used);
        self.used += capacity;
        Some(Block {
            start,
            capacity,
            _memory: memory,
        })
    }
}

#[derive(Default)]
struct State {
    free: FreeBlocks<Block>,
    slab: Slab,
    requests: u64,
    stats: AllocatorStats,
}

impl State {
    fn count_live(&mut self, capacity: usize) {
        self.stats.live_bytes += capacity;
        self.stats.peak_bytes = self.stats.peak_bytes.max(self.stats.live_bytes);
    }

    fn take_free(&mut self, capacity: usize) -> Option<Block> {
        let block = self.free.take(capacity)?;
        Some(self.taken(block))
    }

    /// Counts a block that was free.
    fn taken(&mut self, block: Block) -> Block {
        self.stats.cached_bytes -= block.capacity;
        self.count_live(block.capacity);
        block
    }

    /// Takes out what came back before request `since`.
    fn take_older(&mut self, since: u64) -> Vec<Block> {
        let older = self.free.take_older(since);
        self.stats.cached_bytes -= older.iter().map(Block::capacity).sum::<usize>();
        older
    }
}

/// What becomes of a buffer's memory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reuse {
    Cache,
    Release,
}

/// Hands out [`DeviceBuffer`]s and keeps the returned ones.
pub(crate) struct DeviceAllocator {
    session: Arc<Session>,
    /// The most bytes to take from the driver.
    limit: u64,
    /// Bytes that the driver gave and that were not given back, those of arenas included.
    reserved: Arc<AtomicU64>,
    /// Whether it is an arena.
    keeps: bool,
    state: Mutex<State>,
}

impl DeviceAllocator {
    pub(crate) fn new(session: Arc<Session>, limit: u64) -> Self {
        Self {
            session,
            limit,
            reserved: Arc::default(),
            keeps: false,
            state: Mutex::default(),
        }
    }

    /// An allocator under the same limit that keeps what it has until it is told to release it.
    pub(crate) fn new_arena(&self) -> Self {
        Self {
            session: Arc::clone(&self.session),
            limit: self.limit,
            reserved: Arc::clone(&self.reserved),
            keeps: true,
            state: Mutex::default(),
        }
    }

    /// A buffer of unspecified content.
    pub(crate) fn allocate(self: &Arc<Self>, bytes: usize) -> Result<DeviceBuffer, KernelError> {
        let capacity = bucket_size(bytes.max(ALIGNMENT)).ok_or_else(|| self.no_room(bytes))?;
        let (cached, idle) = {
            let mut state = self.lock();
            state.requests += 1;
            match state.take_free(capacity) {
                Some(block) => (Some(block), Vec::new()),
                None if self.keeps => (None, Vec::new()),
                None => {
                    let since = state.requests.saturating_sub(IDLE_REQUESTS);
                    (None, state.take_older(since))
                }
            }
        };
        drop(idle); // outside the lock, as are all calls of the driver: they take long
        let block = match cached {
            Some(block) => block,
            None => self.new_block(capacity, bytes)?,
        };
        Ok(self.buffer(block, bytes, Reuse::Cache))
    }

    /// A buffer of memory that was given back, so without a call of the driver.
    pub(crate) fn allocate_cached(self: &Arc<Self>, bytes: usize) -> Option<DeviceBuffer> {
        let capacity = bucket_size(bytes.max(ALIGNMENT))?;
        let block = self.lock().take_free(capacity)?;
        Some(self.buffer(block, bytes, Reuse::Cache))
    }

    /// The buffer of `bytes` bytes that was at `start`, if nobody else has it now.
    pub(crate) fn allocate_again(
        self: &Arc<Self>,
        start: DevicePtr,
        bytes: usize,
    ) -> Option<DeviceBuffer> {
        let mut state = self.lock();
        let is = |block: &Block| block.start == start && block.capacity >= bytes;
        let block = state.free.take_that(is)?;
        let block = state.taken(block);
        drop(state);
        Some(self.buffer(block, bytes, Reuse::Cache))
    }

    /// A buffer of unspecified content for what stays, such as weights: side by side with the last such
    /// buffer, and not kept when it is dropped.
    pub(crate) fn allocate_long_lived(
        self: &Arc<Self>,
        bytes: usize,
    ) -> Result<DeviceBuffer, KernelError> {
        let capacity = bytes.max(1).checked_next_multiple_of(ALIGNMENT);
        let capacity = capacity.ok_or_else(|| self.no_room(bytes))?;
        if capacity >= OWN_MEMORY {
            let block = self.new_block(capacity, bytes)?;
            return Ok(self.buffer(block, bytes, Reuse::Release));
        }
        let cut = {
            let mut state = self.lock();
            let block = state.slab.cut(capacity);
            if block.is_some() {
                state.count_live(capacity);
            }
            block
        };
        let block = match cut {
            Some(block) => block,
            None => self.new_slab(capacity, bytes)?,
        };
        Ok(self.buffer(block, bytes, Reuse::Release))
    }

    pub(crate) fn stats(&self) -> AllocatorStats {
        self.lock().stats
    }

    /// Bytes that can still be had: what is left of the limit, and what the driver has left.
    pub(crate) fn available(&self) -> Result<u64, KernelError> {
        let free = self.session.call(|context| context.memory())?.free;
        let reserved = self.reserved.load(Ordering::Relaxed);
        let cached = self.lock().stats.cached_bytes as u64;
        Ok(free.min(self.limit.saturating_sub(reserved)) + cached)
    }

    /// Gives every cached block back to the driver.
    pub(crate) fn release_cached(&self) {
        let all = self.lock().take_older(u64::MAX);
        drop(all);
    }

    fn new_block(&self, capacity: usize, bytes: usize) -> Result<Block, KernelError> {
        let memory = self.reserve(capacity, bytes)?;
        self.lock().count_live(capacity);
        Ok(Block {
            start: memory.start,
            capacity,
            _memory: memory,
        })
    }

    fn new_slab(&self, capacity: usize, bytes: usize) -> Result<Block, KernelError> {
        let memory = match self.reserve(SLAB, bytes) {
            Err(KernelError::DeviceMemory { .. }) => self.reserve(capacity, bytes)?,
            memory => memory?,
        };
        let mut slab = Slab {
            memory: Arc::downgrade(&memory),
            used: 0,
        };
        let block = slab.cut(capacity).ok_or_else(|| self.no_room(bytes))?;
        let mut state = self.lock();
        state.count_live(capacity);
        let left = state.slab.memory.upgrade();
        let left = left.map_or(0, |memory| memory.len - state.slab.used);
        if memory.len - slab.used > left {
            state.slab = slab;
        }
        Ok(block)
    }

    /// Memory from the driver; where there is none, what is cached is given up first.
    fn reserve(&self, capacity: usize, bytes: usize) -> Result<Arc<DriverMemory>, KernelError> {
        match self.ask(capacity, bytes) {
            Err(KernelError::DeviceMemory { .. }) if !self.keeps => {
                self.release_cached();
                self.ask(capacity, bytes)
            }
            memory => memory,
        }
    }

    fn ask(&self, capacity: usize, bytes: usize) -> Result<Arc<DriverMemory>, KernelError> {
        let len = capacity as u64;
        let before = self.reserved.fetch_add(len, Ordering::Relaxed);
        let start = if before.saturating_add(len) > self.limit {
            Err(self.no_room(bytes))
        } else {
            let start = self.session.call(|context| context.allocate(capacity));
            start.map_err(|error| match error {
                KernelError::Cuda(CudaError::OutOfMemory { .. }) => self.no_room(bytes),
                error => error,
            })
        };
        match start {
            Ok(start) => {
                self.lock().stats.system_allocations += 1;
                Ok(Arc::new(DriverMemory {
                    session: Arc::clone(&self.session),
                    start,
                    len: capacity,
                    reserved: Arc::clone(&self.reserved),
                }))
            }
            Err(error) => {
                self.reserved.fetch_sub(len, Ordering::Relaxed);
                Err(error)
            }
        }
    }

    fn no_room(&self, bytes: usize) -> KernelError {
        KernelError::DeviceMemory {
            device: self.session.name(),
            bytes,
            available: self.available().unwrap_or(0),
        }
    }

    fn buffer(self: &Arc<Self>, block: Block, len: usize, reuse: Reuse) -> DeviceBuffer {
        DeviceBuffer {
            block: Some(block),
            len,
            home: Arc::clone(self),
            reuse,
        }
    }

    fn take_back(&self, block: Block, reuse: Reuse) {
        let mut state = self.lock();
        state.stats.live_bytes -= block.capacity;
        match reuse {
            Reuse::Cache => {
                state.stats.cached_bytes += block.capacity;
                let since = state.requests;
                state.free.put(block, since);
            }
            Reuse::Release => drop(state), // the block may be the last of its memory, and to free that takes long
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics between two changes.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Memory of a device, aligned to 256 bytes; it goes back to the device when dropped. The host cannot
/// look into it but by copies.
pub(crate) struct DeviceBuffer {
    block: Option<Block>, // always Some until dropped
    len: usize,
    home: Arc<DeviceAllocator>,
    reuse: Reuse,
}

impl DeviceBuffer {
    /// The number of bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Where it lies, for kernels.
    pub(crate) fn ptr(&self) -> DevicePtr {
        self.block
            .as_ref()
            .map_or(DevicePtr(0), |block| block.start)
    }

    /// Whether the memory is of the device with this session.
    pub(super) fn is_of(&self, session: &Arc<Session>) -> bool {
        Arc::ptr_eq(&self.home.session, session)
    }

    /// Copies `bytes` to `offset`, behind all that is queued. The source may be changed at once.
    ///
    /// # Errors
    /// [`KernelError::Index`] if they reach beyond the end; the device's own.
    pub(crate) fn copy_in(&mut self, offset: usize, bytes: &[u8]) -> Result<(), KernelError> {
        self.check("DeviceBuffer::copy_in", offset, bytes.len())?;
        if bytes.is_empty() {
            return Ok(());
        }
        let to = self.ptr().offset(offset);
        // SAFETY: the range was checked.
        self.home
            .session
            .call(|context| unsafe { context.copy_in(to, bytes) })
    }

    /// Copies out from `offset` on, when all that is queued is done.
    ///
    /// # Errors
    /// As [`DeviceBuffer::copy_in`].
    pub(crate) fn copy_out(&self, offset: usize, bytes: &mut [u8]) -> Result<(), KernelError> {
        self.check("DeviceBuffer::copy_out", offset, bytes.len())?;
        if bytes.is_empty() {
            return Ok(());
        }
        let from = self.ptr().offset(offset);
        // SAFETY: the range was checked.
        self.home
            .session
            .call(|context| unsafe { context.copy_out(from, bytes) })
    }

    /// Copies all of it out behind all that is queued, without waiting for it.
    ///
    /// # Errors
    /// The device's.
    pub(crate) fn copy_out_later(&self) -> Result<PendingCopy, KernelError> {
        let session = &self.home.session;
        let mut handle = None;
        if self.len > 0 {
            // SAFETY: the buffer is as long.
            let copy =
                |context: &dyn Context| unsafe { context.copy_out_later(self.ptr(), self.len) };
            handle = Some(session.call(copy)?);
        }
        Ok(PendingCopy {
            session: Arc::clone(session),
            handle,
            len: self.len,
        })
    }

    /// Writes `value` to every byte, behind all that is queued.
    ///
    /// # Errors
    /// The device's.
    pub(crate) fn fill(&mut self, value: u8) -> Result<(), KernelError> {
        if self.len == 0 {
            return Ok(());
        }
        // SAFETY: the buffer is as long.
        self.home
            .session
            .call(|context| unsafe { context.fill(self.ptr(), value, self.len) })
    }

    fn check(&self, op: &'static str, offset: usize, len: usize) -> Result<(), KernelError> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len => Ok(()),
            end => Err(KernelError::Index {
                op,
                name: "byte",
                index: end.unwrap_or(usize::MAX),
                len: self.len,
            }),
        }
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            self.home.take_back(block, self.reuse);
        }
    }
}

/// A copy that may not have arrived yet. The buffer may be gone by then. Dropped, it is forgotten.
pub(crate) struct PendingCopy {
    session: Arc<Session>,
    /// `None` once it was waited for, or if there is nothing to copy.
    handle: Option<CopyHandle>,
    len: usize,
}

impl PendingCopy {
    /// The bytes, once they are there. What was queued behind the copy is not waited for.
    ///
    /// # Errors
    /// The device's.
    pub(crate) fn wait(mut self) -> Result<Vec<u8>, KernelError> {
        let mut bytes = vec![0; self.len];
        if let Some(handle) = self.handle.take() {
            self.session
                .call(|context| context.wait_copy(handle, &mut bytes))?;
        }
        Ok(bytes)
    }
}

impl Drop for PendingCopy {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.take() {
            // Where the device is lost, the copy is gone with its context.
            let _ = self.session.call(|context| context.forget_copy(handle));
        }
    }
}

impl std::fmt::Debug for DeviceBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceBuffer")
            .field("device", &self.home.session.name())
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}
