//! What this machine and this program have for CUDA, for people who ask why something does not work.

use super::driver::{self, Driver};
use super::{CudaDevice, CudaOptions};
use crate::{CudaError, DeviceInfo, KernelError, MemoryInfo};

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
    /// The version of NVIDIA's library of matrix products (cuBLASLt), which makes prompts faster, or why it is not used.
    pub cublaslt: Result<(u32, u32, u32), CudaError>,
}

impl CudaReport {
    /// Looks for everything; opens no device.
    pub fn new() -> Self {
        let installed = driver::installed();
        let version = installed.as_deref().map_err(Clone::clone);
        let version = version.and_then(Driver::version);
        let devices = installed.as_deref().map_err(Clone::clone);
        #[cfg(feature = "cuda")]
        let (kernels, compiler, cublaslt) = (
            super::pack::contents(),
            super::nvrtc::Nvrtc::open()
                .ok()
                .map(|nvrtc| nvrtc.version()),
            version.clone().and_then(super::cublaslt::version),
        );
        #[cfg(not(feature = "cuda"))]
        let (kernels, compiler, cublaslt) = (Vec::new(), None, Err(CudaError::NotBuilt));
        Self {
            driver: version.map(|version| (version / 1000, version % 1000 / 10)),
            devices: devices.and_then(Driver::devices),
            kernels,
            compiler,
            cublaslt,
        }
    }
}

/// A device that an engine could compute on.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CudaTrial {
    /// What it is.
    pub info: DeviceInfo,
    /// Its memory while the program holds nothing there but what the driver and cuBLASLt take for it.
    pub memory: MemoryInfo,
    /// The target whose kernels it runs, such as `sm_90a`, or who makes them.
    pub kernels: String,
}

impl CudaTrial {
    /// Opens a device as an engine does, loads some kernels, and closes it.
    ///
    /// # Errors
    /// What an engine would say: [`KernelError::Cuda`] if there is no such device, if it or its driver is too old, or if
    /// there are no kernels for it.
    pub fn new(ordinal: usize) -> Result<Self, KernelError> {
        Self::with_driver(&*driver::installed()?, ordinal)
    }

    fn with_driver(driver: &dyn Driver, ordinal: usize) -> Result<Self, KernelError> {
        let options = CudaOptions {
            ordinal,
            ..CudaOptions::default()
        };
        let cuda = CudaDevice::open(driver, &options)?;
        cuda.kernel("gather_rows", "gather_rows")?;
        #[cfg(feature = "cuda")]
        let kernels = super::pack::choice(cuda.info().compute_capability).unwrap_or_default();
        #[cfg(not(feature = "cuda"))]
        let kernels = String::new();
        Ok(Self {
            info: cuda.info().clone(),
            memory: cuda.memory()?,
            kernels,
        })
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
    use crate::cuda::driver::fake::FakeDriver;

    #[test]
    fn a_machine_without_a_driver_says_so_and_a_program_has_its_kernels_all_the_same() {
        let report = CudaReport::new();
        match &report.driver {
            Ok(version) => assert!(*version >= (11, 0), "{version:?}"),
            Err(error) => {
                use CudaError::{NoDevice, NoDriver, NotBuilt};

                let expected = matches!(error, NoDriver { .. } | NoDevice { .. } | NotBuilt);
                assert!(expected, "{error}");
                assert_eq!(report.devices.as_ref(), Err(error));
                assert_eq!(report.cublaslt.as_ref(), Err(error));
            }
        }
        assert_eq!(report.kernels.is_empty(), cfg!(not(feature = "cuda")));
    }
    #[test]
    fn a_device_is_tried_as_an_engine_opens_it() {
        let driver = FakeDriver::new(2, 1 << 20);
        let trial = CudaTrial::with_driver(&driver, 1).unwrap();
        assert_eq!((trial.info.ordinal, trial.memory.free), (1, 1 << 20));
        if cfg!(feature = "cuda") {
            assert_eq!(trial.kernels, "sm_90a");
        }
        let error = |driver: &FakeDriver| {
            let error = CudaTrial::with_driver(driver, 0).unwrap_err();
            error.to_string()
        };
        let mut old = FakeDriver::new(1, 1 << 20);
        old.devices[0].compute_capability = (7, 5);
        assert!(error(&old).contains("compute capability 7.5"));
        old.version = 11_080;
        assert!(error(&old).contains("CUDA 11.8 only"));
        assert!(error(&FakeDriver::new(0, 0)).contains("this machine has none"));
    }
}
