//! The graphics processor of the tests.

use std::sync::OnceLock;

use glm_kernels::{CpuOptions, CudaOptions, Device, EmulatedCuda};

/// Memory of an emulated device.
pub const MEMORY: u64 = 256 << 20;

pub fn options() -> CudaOptions {
    CudaOptions {
        host: CpuOptions {
            threads: Some(2),
            isa: None,
        },
        ..CudaOptions::default()
    }
}

/// The emulated device, where there is a compiler for it; with `GLM_REQUIRE_GPU` in the environment a real one, or the test fails.
pub fn devices() -> Vec<(&'static str, Device)> {
    if std::env::var_os("GLM_REQUIRE_GPU").is_some() {
        // One is kept, so that the device's context is made once and not for every test.
        static KEPT: OnceLock<Device> = OnceLock::new();
        KEPT.get_or_init(|| Device::cuda(options()).unwrap());
        return vec![("real", Device::cuda(options()).unwrap())];
    }
    let emulated = EmulatedCuda::new(1, MEMORY);
    let open = |emulated: EmulatedCuda| ("emulated", emulated.open(options()).unwrap());
    emulated.map(open).into_iter().collect()
}
