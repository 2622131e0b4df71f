//! Graphics processors of NVIDIA: the second place where tensors live and kernels run.
//!
//! - `driver`: what is needed of CUDA's driver, as two traits. The real one (`real`, feature `cuda`)
//!   opens the driver's library while the program runs, so a machine without one runs the same
//!   program. For tests there are `fake`, which fails on request, and `emulated`, which runs the very
//!   same kernels on the CPU.
//! - `session`: a context that is open, and what becomes of its errors: after a fatal one it is
//!   fenced, and every call says so.
//! - `memory`: buffers on the device and the caching allocator behind them.
//! - `device`: [`CudaDevice`], the above together with the kernels that were loaded.
//! - `graphs`: [`Graphs`], steps that are recorded once and repeated.
//! - `cublaslt`: NVIDIA's library of matrix products, where it is installed; `libraries`: where that may be.
//! - `sources`: the text of the kernels; `pack`: what it was compiled to beforehand; `nvrtc`: NVIDIA's
//!   compiler, for devices that the pack has nothing for.
//!
//! Everything a device does is queued on one stream, so work is done in the order in which it was asked
//! for, and memory that is freed can be handed out again at once: what still uses it comes first.
//!
//! Kernels themselves lie beside the CPU's, in the folder of their operation: `<verb>.cu` and, for the
//! geometry of its launches, `cuda.rs`.

#![cfg_attr(
    not(feature = "cuda"),
    allow(dead_code, reason = "without a driver there is no device")
)]

pub(crate) mod cublaslt;
mod device;
pub(crate) mod driver;
#[cfg(any(test, feature = "cuda-emulation"))]
#[cfg_attr(
    not(feature = "cuda-emulation"),
    expect(
        dead_code,
        reason = "this crate's own tests take devices that work; those that fail are for other crates"
    )
)]
pub(crate) mod emulation;
mod error;
mod graphs;
#[cfg(feature = "cuda")]
mod libraries;
mod memory;
#[cfg(feature = "cuda")]
mod nvrtc;
#[cfg(feature = "cuda")]
mod pack;
mod report;
mod session;
#[cfg(any(test, feature = "cuda", feature = "cuda-emulation"))]
mod sources;

pub use cublaslt::CublasLtStats;
pub use device::CudaOptions;
pub(crate) use device::{CudaDevice, Kernel};
pub use driver::{DeviceInfo, MemoryInfo};
pub(crate) use driver::{DevicePtr, KernelArg, LaunchConfig, Product, ProductShape};
pub use error::CudaError;
pub use graphs::Graphs;
pub(crate) use memory::{DeviceBuffer, PendingCopy};
pub use report::{CudaReport, CudaTrial};

use crate::KernelError;

/// A size as kernels take it.
///
/// # Errors
/// [`KernelError::Value`] if it is 2^32 or more.
pub(crate) fn size_arg(
    op: &'static str,
    name: &'static str,
    size: usize,
) -> Result<u32, KernelError> {
    u32::try_from(size).map_err(|_| KernelError::Value {
        op,
        name,
        found: size,
        rule: "below 2^32",
    })
}

#[cfg(test)]
mod tests;
