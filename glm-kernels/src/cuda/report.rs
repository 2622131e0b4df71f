//! What this machine and this program have for CUDA, for people who ask why something does not work.

use super::driver;
use crate::{CudaError, DeviceInfo};

/// What there is for CUDA. Nothing of it is needed to compute on the CPU.
#[derive(Debug, Clone, PartialEq)]
pub struct CudaReport {
    /// The newest version of CUDA that the driver runs, `(major, minor)`, or why there is no driver.
    pub driver: Result<(u32, u32), CudaError>,
    /// The devices, or why they cannot be asked for.
    pub devices: Result<Vec<DeviceInfo>, CudaError>,
    /// The modules of kernels in this program, and the targets that each was compiled for.
    pub kernels: Vec<(&'static str, Vec<&'static str>)>,
    /// The version of NVIDIA's compiler library, which is needed for devices that no target covers; `None` where it is not installed.
    pub compiler: Option<(u32, u32)>,
}

impl CudaReport {
    /// Looks for everything; opens no device.
    pub fn new() -> Self {
        let installed = driver::installed();
        let version = installed.as_deref().map_err(Clone::clone);
        let version = version.and_then(driver::Driver::version);
        let devices = installed.as_deref().map_err(Clone::clone);
        #[cfg(feature = "cuda")]
        let (kernels, compiler) = (
            super::pack::contents(),
            super::nvrtc::Nvrtc::open()
                .ok()
                .map(|nvrtc| nvrtc.version()),
        );
        #[cfg(not(feature = "cuda"))]
        let (kernels, compiler) = (Vec::new(), None);
        Self {
            driver: version.map(|version| (version / 1000, version % 1000 / 10)),
            devices: devices.and_then(driver::Driver::devices),
            kernels,
            compiler,
        }
    }
}

impl Default for CudaReport {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_a_driver_says_so_and_a_program_has_its_kernels_all_the_same() {
        let report = CudaReport::new();
        match &report.driver {
            Ok(version) => assert!(*version >= (11, 0), "{version:?}"),
            Err(error) => {
                let expected = matches!(error, CudaError::NoDriver { .. } | CudaError::NotBuilt);
                assert!(expected, "{error}");
                assert_eq!(report.devices.as_ref(), Err(error));
            }
        }
        assert_eq!(report.kernels.is_empty(), cfg!(not(feature = "cuda")));
    }
}
