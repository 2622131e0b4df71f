//! Memory of the host in the place of a device's, for tests: every access is checked, and what a kernel
//! writes beyond the end of its buffers is found.

use std::alloc::{Layout, alloc, dealloc};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{DevicePtr, MemoryInfo};
use crate::CudaError;

/// Bytes before and after each allocation that nobody may write to.
const GUARD: usize = 256;
/// What they hold: no float that a kernel would write, and no small number.
const GUARD_BYTE: u8 = 0xa5;
/// What new memory holds: a NaN in every float type, so that reading it before writing shows.
const POISON: u8 = 0xff;

/// Allocations by address.
pub(super) struct HostMemory {
    total: u64,
    allocations: Mutex<BTreeMap<u64, Allocation>>,
}

/// `len` bytes between two guards.
struct Allocation {
    start: *mut u8,
    len: usize,
    layout: Layout,
}

// SAFETY: the pointer is to memory of its own, and is used under the lock of `HostMemory`; kernels use it
// as a device's memory is used, which is their callers' promise.
unsafe impl Send for Allocation {}

impl Allocation {
    fn new(len: usize) -> Option<Self> {
        let layout = Layout::from_size_align(len.checked_add(2 * GUARD)?, GUARD).ok()?;
        // SAFETY: the size is not zero.
        let start = unsafe { alloc(layout) };
        if start.is_null() {
            return None;
        }
        let allocation = Self { start, len, layout };
        // SAFETY: the three parts are the allocation.
        unsafe {
            start.write_bytes(GUARD_BYTE, GUARD);
            start.add(GUARD).write_bytes(POISON, len);
            start.add(GUARD + len).write_bytes(GUARD_BYTE, GUARD);
        }
        Some(allocation)
    }

    fn address(&self) -> u64 {
        self.start.expose_provenance() as u64 + GUARD as u64
    }

    /// Whether nobody wrote outside.
    fn is_whole(&self) -> bool {
        [0, GUARD + self.len].into_iter().all(|offset| {
            // SAFETY: the guards are parts of the allocation.
            let guard = unsafe { std::slice::from_raw_parts(self.start.add(offset), GUARD) };
            guard.iter().all(|byte| *byte == GUARD_BYTE)
        })
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        // SAFETY: it was allocated with this layout.
        unsafe { dealloc(self.start, self.layout) }
    }
}

impl HostMemory {
    pub(super) fn new(total: u64) -> Self {
        Self {
            total,
            allocations: Mutex::default(),
        }
    }

    pub(super) fn info(&self) -> MemoryInfo {
        let allocations = self.lock();
        let used: u64 = allocations.values().map(|a| a.len as u64).sum();
        MemoryInfo {
            free: self.total.saturating_sub(used),
            total: self.total,
        }
    }

    pub(super) fn allocate(&self, bytes: usize) -> Result<DevicePtr, CudaError> {
        if bytes as u64 > self.info().free {
            return Err(CudaError::OutOfMemory { bytes });
        }
        let allocation = Allocation::new(bytes).ok_or(CudaError::OutOfMemory { bytes })?;
        let address = allocation.address();
        self.lock().insert(address, allocation);
        Ok(DevicePtr(address))
    }

    pub(super) fn free(&self, ptr: DevicePtr) -> Result<(), CudaError> {
        match self.lock().remove(&ptr.0) {
            Some(allocation) if allocation.is_whole() => Ok(()),
            Some(allocation) => Err(outside(&allocation)),
            None => Err(illegal("free", ptr, 0)),
        }
    }

    /// The host's pointer to `bytes` bytes of an allocation.
    pub(super) fn range(
        &self,
        call: &'static str,
        ptr: DevicePtr,
        bytes: usize,
    ) -> Result<*mut u8, CudaError> {
        let allocations = self.lock();
        let last = allocations.range(..=ptr.0).next_back();
        let found = last.and_then(|(address, allocation)| {
            let offset = usize::try_from(ptr.0 - address).ok()?;
            let fits = offset.checked_add(bytes)? <= allocation.len;
            // SAFETY: the offset lies within the allocation.
            fits.then(|| unsafe { allocation.start.add(GUARD + offset) })
        });
        found.ok_or_else(|| illegal(call, ptr, bytes))
    }

    /// An error if something was written outside of the allocations.
    pub(super) fn check(&self) -> Result<(), CudaError> {
        match self.lock().values().find(|a| !a.is_whole()) {
            Some(allocation) => Err(outside(allocation)),
            None => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Allocation>> {
        self.allocations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn outside(allocation: &Allocation) -> CudaError {
    CudaError::Lost {
        call: "guard",
        reason: format!(
            "something wrote before or after an allocation of {} bytes",
            allocation.len
        ),
    }
}

/// What a device answers to an address that it does not have.
fn illegal(call: &'static str, ptr: DevicePtr, bytes: usize) -> CudaError {
    CudaError::Lost {
        call,
        reason: format!("illegal address {:#x}, {bytes} bytes", ptr.0),
    }
}
