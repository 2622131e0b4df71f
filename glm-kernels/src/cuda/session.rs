//! An open device, and what becomes of its errors.

use std::sync::OnceLock;

use super::driver::{Context, DeviceInfo};
use crate::{CudaError, KernelError};

/// A context and whether it still works.
///
/// Some errors break a context for good, for example an access out of bounds: whatever is asked of the
/// driver afterwards fails too, and may say something else. So the first one is kept, the driver is not
/// asked again, and every caller hears what happened.
pub(crate) struct Session {
    context: Box<dyn Context>,
    info: DeviceInfo,
    lost: OnceLock<String>,
}

impl Session {
    pub(crate) fn new(context: Box<dyn Context>, info: DeviceInfo) -> Self {
        Self {
            context,
            info,
            lost: OnceLock::new(),
        }
    }

    pub(crate) fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// What people call the device: `cuda:0`.
    pub(crate) fn name(&self) -> String {
        format!("cuda:{}", self.info.ordinal)
    }

    /// Asks the driver.
    ///
    /// # Errors
    /// [`KernelError::DeviceLost`] after a fatal error, this one included; otherwise
    /// [`KernelError::Cuda`].
    pub(crate) fn call<T>(
        &self,
        call: impl FnOnce(&dyn Context) -> Result<T, CudaError>,
    ) -> Result<T, KernelError> {
        if self.lost.get().is_some() {
            return Err(self.device_lost());
        }
        call(&*self.context).map_err(|error| match error {
            CudaError::Lost { .. } => {
                self.lost.get_or_init(|| error.to_string());
                self.device_lost()
            }
            error => error.into(),
        })
    }

    fn device_lost(&self) -> KernelError {
        KernelError::DeviceLost {
            device: self.name(),
            reason: self.lost.get().cloned().unwrap_or_default(),
        }
    }
}
