//! The speed limits of this machine, measured.
use crate::{Device, KernelError};

/// The read bandwidth of main memory with all threads, in GB/s (1e9 bytes): the median of several passes over a buffer much larger than the caches.
///
/// # Errors
/// [`KernelError::OutOfMemory`] if there is no room for the buffer.
pub fn bandwidth(_device: &Device) -> Result<f64, KernelError> {
    unimplemented!()
}
