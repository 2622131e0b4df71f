//! Pinned memory of the host: what the device copies from and to by itself, while the host does something else.

use std::collections::{HashMap, VecDeque};
use std::ptr;

use cudarc::driver::sys::{self, CUresult};

use super::check;
use crate::CudaError;

/// The least memory for a copy: enough for what is drawn for hundreds of sequences.
const MIN_BYTES: usize = 64 << 10;

/// Copies to the device that may be under way: a step takes a few, and two steps are under way. Whoever wants to begin another waits for
/// the first of them.
const MOST_LEAVING: usize = 16;

/// Of larger ones, as many as have so many bytes together: while one is under way, the next is made ready.
const MOST_LEAVING_BYTES: usize = 32 << 20;

/// Memory for copies, and an event that is recorded behind each.
pub(super) struct Pinned {
    start: *mut u8,
    len: usize,
    pub(super) event: sys::CUevent,
}

impl Pinned {
    fn new(len: usize) -> Result<Self, CudaError> {
        let (mut start, mut event) = (ptr::null_mut(), ptr::null_mut());
        let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
        // SAFETY: both are valid for a write.
        unsafe {
            check("cuEventCreate", sys::cuEventCreate(&raw mut event, flags))?;
            let allocated = sys::cuMemHostAlloc(&raw mut start, len, 0);
            let allocated = check("cuMemHostAlloc", allocated).map_err(|error| match error {
                // It is the host's memory.
                CudaError::DriverMemory { call } => CudaError::Call {
                    call,
                    reason: format!(
                        "the host has no {len} bytes of memory left that stay in place"
                    ),
                },
                error => error,
            });
            if allocated.is_err() {
                let _ = sys::cuEventDestroy_v2(event);
            }
            allocated?;
        }
        let start = start.cast();
        Ok(Self { start, len, event })
    }

    /// Where it begins.
    pub(super) fn start(&self) -> *mut u8 {
        self.start
    }

    /// Gives everything back.
    ///
    /// # Safety
    /// No copy is under way.
    unsafe fn free(self) {
        // SAFETY: both were made in `new`, and the caller promises that nothing uses them. What fails fails because the
        // context is lost, and is gone with it.
        unsafe {
            let _ = sys::cuEventDestroy_v2(self.event);
            let _ = sys::cuMemFreeHost(self.start.cast());
        }
    }
}

/// Memory that is used again. Its methods are called in threads in which the context is current.
#[derive(Default)]
pub(super) struct Pool {
    free: Vec<Pinned>,
    /// Where copies from the device arrive that somebody will ask for, by their handles.
    arriving: HashMap<u64, Pinned>,
    /// What copies are under way from or to that nobody will ask for, oldest first.
    leaving: VecDeque<Pinned>,
}

impl Pool {
    /// Memory for `bytes` bytes that nothing uses.
    pub(super) fn take(&mut self, bytes: usize) -> Result<Pinned, CudaError> {
        while let Some(oldest) = self.leaving.front() {
            // SAFETY: the event is there, and was recorded behind the copy.
            let mut ended = unsafe { sys::cuEventQuery(oldest.event) };
            if ended == CUresult::CUDA_ERROR_NOT_READY {
                let bytes: usize = self.leaving.iter().map(|pinned| pinned.len).sum();
                if self.leaving.len() < MOST_LEAVING && bytes < MOST_LEAVING_BYTES {
                    break;
                }
                // SAFETY: as above.
                ended = unsafe { sys::cuEventSynchronize(oldest.event) };
            }
            check("cuEventSynchronize", ended)?;
            self.free.extend(self.leaving.pop_front());
        }
        let fitting = self.free.iter().enumerate().filter(|(_, p)| p.len >= bytes);
        match fitting.min_by_key(|(_, pinned)| pinned.len) {
            Some((at, _)) => Ok(self.free.swap_remove(at)),
            None => Pinned::new(bytes.next_power_of_two().max(MIN_BYTES)),
        }
    }

    /// Keeps what a copy arrives in.
    pub(super) fn arrives(&mut self, handle: u64, pinned: Pinned) {
        self.arriving.insert(handle, pinned);
    }

    /// What the copy of this handle arrives in.
    pub(super) fn arrived(&mut self, call: &'static str, handle: u64) -> Result<Pinned, CudaError> {
        let pinned = self.arriving.remove(&handle);
        pinned.ok_or_else(|| CudaError::Call {
            call,
            reason: "no such copy".to_owned(),
        })
    }

    /// Takes back what a copy may still be under way from or to.
    pub(super) fn leaves(&mut self, pinned: Pinned) {
        self.leaving.push_back(pinned);
    }

    /// Takes back what nothing uses.
    pub(super) fn put(&mut self, pinned: Pinned) {
        self.free.push(pinned);
    }

    /// Gives everything back.
    ///
    /// # Safety
    /// No copy is under way.
    pub(super) unsafe fn free(self) {
        let all = self.free.into_iter().chain(self.leaving);
        for pinned in all.chain(self.arriving.into_values()) {
            // SAFETY: the caller's promise.
            unsafe { pinned.free() };
        }
    }
}
