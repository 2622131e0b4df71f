//! NVIDIA's library of matrix products (cuBLASLt) on a device, where it is installed.
//!
//! It makes prompts faster and is never needed: whatever it does not do, its caller does otherwise. So nothing that goes wrong with it fails a product,
//! unless the device is lost.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::driver::{DevicePtr, PRODUCT_ALIGNMENT, PlanHandle, Product, ProductShape};
use super::memory::{DeviceAllocator, DeviceBuffer};
use super::session::Session;
use crate::{CudaError, KernelError};

/// In the environment: `off` keeps the library out, anything else is its file.
const SWITCH: &str = "GLM_CUBLASLT";

/// What NVIDIA's library of matrix products (cuBLASLt) does on a device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CublasLtStats {
    /// The products that it was given.
    pub products: u64,
    /// What went wrong first, so that it is not used, or not for products of some shape. That it is not installed is nothing wrong.
    pub error: Option<String>,
}

/// The library on a device.
pub(crate) struct CublasLt {
    session: Arc<Session>,
    /// For its intermediate sums; `None` where there is no library.
    workspace: Option<DeviceBuffer>,
    /// How products are done, as it said once; `None` if it does not do them.
    plans: Mutex<HashMap<ProductShape, Option<PlanHandle>>>,
    /// Whether it gives the right products here, once that was tried.
    agrees: OnceLock<bool>,
    products: AtomicU64,
    error: OnceLock<String>,
}

impl CublasLt {
    /// Opens the library, if there is one and the environment does not keep it out, and takes the memory that it works in.
    ///
    /// # Errors
    /// [`KernelError::DeviceLost`].
    pub(super) fn open(
        session: &Arc<Session>,
        allocator: &Arc<DeviceAllocator>,
        switch: Option<&OsStr>,
    ) -> Result<Self, KernelError> {
        let mut opened = Self {
            session: Arc::clone(session),
            workspace: None,
            plans: Mutex::default(),
            agrees: OnceLock::new(),
            products: AtomicU64::new(0),
            error: OnceLock::new(),
        };
        if is_off(switch) {
            return Ok(opened);
        }
        let workspace = match session.call(|context| context.open_cublaslt()) {
            Err(KernelError::Cuda(CudaError::NoCublasLt { .. })) => return Ok(opened),
            Err(error) => Err(error),
            Ok(()) => allocator.allocate_long_lived(workspace_bytes(session.info())),
        };
        opened.workspace = opened.unless_failed(workspace)?;
        Ok(opened)
    }

    /// Has `agrees` find out whether products are right, once; where they are not, the library is not used.
    pub(crate) fn try_once(&self, agrees: impl FnOnce() -> Result<bool, KernelError>) {
        if self.workspace.is_none() {
            return;
        }
        self.agrees.get_or_init(|| {
            let agrees = agrees();
            self.products.store(0, Ordering::Relaxed);
            let failed = agrees.as_ref().err().map(ToString::to_string);
            let agrees = agrees.unwrap_or(false);
            if !agrees {
                let differs = || "its products are not those of the own kernels".to_owned();
                self.error.get_or_init(|| failed.unwrap_or_else(differs));
            }
            agrees
        });
    }

    /// Whether products were found right.
    pub(crate) fn is_trusted(&self) -> bool {
        self.agrees.get() == Some(&true)
    }

    pub(crate) fn stats(&self) -> CublasLtStats {
        CublasLtStats {
            products: self.products.load(Ordering::Relaxed),
            error: self.error.get().cloned(),
        }
    }

    /// Queues a product; `false` if the library does not do it, and then there is no result. Not for a thread that records a step.
    ///
    /// # Errors
    /// [`KernelError::DeviceLost`].
    ///
    /// # Safety
    /// The product's addresses are of this device, and of memory that is as long as its shape says. Nobody else reads or writes the result.
    pub(crate) unsafe fn multiply(&self, product: &Product) -> Result<bool, KernelError> {
        let places = [product.weights, product.x, product.bias, product.out];
        let aligned = |place: DevicePtr| place.0.is_multiple_of(PRODUCT_ALIGNMENT);
        let shape = planned(&product.shape).filter(|_| places.into_iter().all(aligned));
        let (Some(workspace), Some(shape)) = (&self.workspace, shape) else {
            return Ok(false);
        };
        // Held until the product is queued: what belongs to one may be several kernels, and the next one uses the same memory.
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let plan = match plans.get(&shape) {
            Some(plan) => *plan,
            None => {
                let plan = |context: &dyn super::driver::Context| {
                    context.plan_product(&shape, workspace.len())
                };
                let plan = self.unless_failed(self.session.call(plan))?;
                plans.insert(shape, plan);
                plan
            }
        };
        let Some(plan) = plan else {
            return Ok(false);
        };
        // SAFETY: the caller's promise; the plan is for as much memory as there is, and products that use it are queued one after the other.
        let queued = self
            .session
            .call(|context| unsafe { context.multiply(plan, product, workspace.ptr()) });
        let queued = self.unless_failed(queued)?.is_some();
        if queued {
            self.products.fetch_add(1, Ordering::Relaxed);
        } else {
            plans.insert(shape, None);
        }
        Ok(queued)
    }

    /// What there is, or `None` after an error that one can do without the library after, which is kept.
    fn unless_failed<T>(&self, result: Result<T, KernelError>) -> Result<Option<T>, KernelError> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(lost @ KernelError::DeviceLost { .. }) => Err(lost),
            Err(error) => {
                self.error.get_or_init(|| error.to_string());
                Ok(None)
            }
        }
    }
}

/// What NVIDIA recommends: 32 MiB on Hopper and on the Blackwell of data centres, 12 MiB on the other, 4 MiB elsewhere.
fn workspace_bytes(device: &crate::DeviceInfo) -> usize {
    match device.compute_capability.0 {
        9 | 10 => 32 << 20,
        12 => 12 << 20,
        _ => 4 << 20,
    }
}

/// The shape that a product is planned as: prompts have any number of tokens, and to ask takes longer than a small product. The layout of what is
/// multiplied does not depend on the number, and fewer tokens need no more memory.
fn planned(shape: &ProductShape) -> Option<ProductShape> {
    let tokens = shape.tokens.checked_next_power_of_two()?;
    Some(ProductShape { tokens, ..*shape })
}

/// What the environment says about the library.
pub(super) fn switch() -> Option<OsString> {
    std::env::var_os(SWITCH)
}

/// Whether this switch keeps the library out.
pub(super) fn is_off(switch: Option<&OsStr>) -> bool {
    switch.is_some_and(|value| value == "off")
}

/// The library's version, `(major, minor, patch)`, or why it is not used with a driver for this version of CUDA; opens no device.
#[cfg(feature = "cuda")]
pub(super) fn version(driver: u32) -> Result<(u32, u32, u32), CudaError> {
    let switch = switch();
    if is_off(switch.as_deref()) {
        let reason = format!("{SWITCH} is off");
        return Err(CudaError::NoCublasLt { reason });
    }
    let found = super::driver::cublaslt::CublasLt::find(switch, driver)?;
    Ok(found.version())
}

#[cfg(test)]
mod tests;
