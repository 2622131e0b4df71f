//! A device that is not there, for tests: kernels run on the CPU, and it fails when told to.

use super::driver::emulated::Emulator;
use super::driver::fake::{FakeDriver, Faults};
use crate::{CudaOptions, Device, KernelError};

/// A CUDA driver with devices whose kernels run on the CPU, slowly.
pub struct EmulatedCuda {
    driver: FakeDriver,
}

impl EmulatedCuda {
    /// `devices` devices with `memory` bytes each. `None` where there is no C++ compiler (which is
    /// printed): kernels are compiled as they are asked for.
    pub fn new(devices: usize, memory: u64) -> Option<Self> {
        let emulator = Emulator::shared()?;
        let driver = FakeDriver {
            emulator: Some(emulator),
            ..FakeDriver::new(devices, memory)
        };
        Some(Self { driver })
    }

    /// Devices whose kernels do nothing: results have unspecified values.
    pub fn idle(devices: usize, memory: u64) -> Self {
        Self {
            driver: FakeDriver::new(devices, memory),
        }
    }

    /// The same devices with NVIDIA's library of matrix products, which computes on the CPU too.
    pub fn with_cublaslt(mut self) -> Self {
        self.driver.cublaslt = true;
        self
    }

    /// Opens a device.
    ///
    /// # Errors
    /// As [`Device::cuda`].
    pub fn open(&self, options: CudaOptions) -> Result<Device, KernelError> {
        Device::with_driver(&self.driver, options)
    }

    /// What goes wrong with the devices.
    pub fn faults(&self) -> CudaFaults {
        CudaFaults(self.driver.faults.clone())
    }
}

/// Makes emulated devices fail. Clones mean the same devices.
#[derive(Debug, Clone)]
pub struct CudaFaults(Faults);

impl CudaFaults {
    /// The launch after `launches` more breaks the context, as an access out of bounds does.
    pub fn break_after(&self, launches: u64) {
        self.0.break_after(launches);
    }

    /// From here on there is no memory, or there is again.
    pub fn set_out_of_memory(&self, on: bool) {
        self.0.set_out_of_memory(on);
    }

    /// From here on launches cannot be recorded, or they can again.
    pub fn refuse_captures(&self, on: bool) {
        self.0.refuse_captures(on);
    }

    /// From here on NVIDIA's library knows no way to compute products, or does again.
    pub fn refuse_plans(&self, on: bool) {
        self.0.refuse_plans(on);
    }

    /// From here on the products of NVIDIA's library fail, or do not again.
    pub fn refuse_products(&self, on: bool) {
        self.0.refuse_products(on);
    }

    /// How often NVIDIA's library was asked how it computes a product, with success or without.
    pub fn plans(&self) -> u64 {
        self.0.plans()
    }

    /// How often launches were recorded, with success or without.
    pub fn captures(&self) -> u64 {
        self.0.captures()
    }

    /// How often recorded launches were repeated.
    pub fn replays(&self) -> u64 {
        self.0.replays()
    }

    /// Recorded launches that are kept.
    pub fn graphs(&self) -> u64 {
        self.0.graphs()
    }

    /// Copies of results that nobody has waited for yet, nor forgotten.
    pub fn copies(&self) -> u64 {
        self.0.copies()
    }

    /// Kernels that were launched, repeated ones included.
    pub fn launches(&self) -> u64 {
        self.0.launches()
    }

    /// Calls of the driver.
    pub fn calls(&self) -> u64 {
        self.0.calls()
    }
}
