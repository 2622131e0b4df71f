//! A device that kernels run on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::driver::{Driver, FunctionHandle, KernelArg, LaunchConfig, MemoryInfo, ModuleHandle};
use super::memory::{DeviceAllocator, DeviceBuffer};
use super::session::Session;
use crate::{AllocatorStats, CpuOptions, CudaError, DeviceInfo, KernelError};

/// How to use a device of NVIDIA's. The default takes the first one, and all of its free memory.
#[derive(Debug, Clone, Copy, Default)]
pub struct CudaOptions {
    /// The number of the device, as the driver counts (`CUDA_VISIBLE_DEVICES` changes that).
    pub ordinal: usize,
    /// The most bytes of its memory to take; by default what is free.
    pub memory_limit: Option<u64>,
    /// The CPU's part: the threads that prepare weights and the memory that results are copied to.
    pub host: CpuOptions,
}

/// The oldest devices that kernels are made for: tensor cores with bf16, asynchronous copies.
const MIN_COMPUTE_CAPABILITY: (u32, u32) = (8, 0);

/// The version of CUDA that kernels are compiled with; within a major version older drivers run them.
const MIN_DRIVER_VERSION: u32 = 12_000;

/// A device, its memory and the kernels that were loaded. All its work is queued on one stream.
pub(crate) struct CudaDevice {
    session: Arc<Session>,
    allocator: Arc<DeviceAllocator>,
    loaded: Mutex<Loaded>,
    /// Whether `linear`'s kernel for Hopper gives the right products here, once that was tried.
    pub(crate) runs_wgmma: OnceLock<bool>,
}

#[derive(Default)]
struct Loaded {
    modules: HashMap<&'static str, ModuleHandle>,
    kernels: HashMap<(&'static str, &'static str), Kernel>,
}

/// A kernel that is loaded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kernel {
    function: FunctionHandle,
}

impl CudaDevice {
    /// Opens a device.
    ///
    /// # Errors
    /// [`KernelError::Cuda`]: no such device, too old a device or driver, or what the driver says.
    pub(crate) fn open(driver: &dyn Driver, options: &CudaOptions) -> Result<Self, KernelError> {
        let version = driver.version()?;
        if version < MIN_DRIVER_VERSION {
            let needed = MIN_DRIVER_VERSION;
            return Err(CudaError::DriverTooOld {
                found: version,
                needed,
            }
            .into());
        }
        let devices = driver.devices()?;
        let count = devices.len();
        let ordinal = options.ordinal;
        let info = devices.into_iter().nth(ordinal);
        let info = info.ok_or(CudaError::NoDevice { ordinal, count })?;
        if info.compute_capability < MIN_COMPUTE_CAPABILITY {
            return Err(CudaError::TooOldDevice {
                device: info.name,
                found: info.compute_capability,
                needed: "8.0 (Ampere) or newer",
            }
            .into());
        }
        let session = Arc::new(Session::new(driver.open(ordinal)?, info));
        let free = session.call(|context| context.memory())?.free;
        let limit = options.memory_limit.unwrap_or(free);
        Ok(Self {
            allocator: Arc::new(DeviceAllocator::new(Arc::clone(&session), limit)),
            session,
            loaded: Mutex::default(),
            runs_wgmma: OnceLock::new(),
        })
    }

    /// What the device is.
    pub(crate) fn info(&self) -> &DeviceInfo {
        self.session.info()
    }

    /// What people call it: `cuda:0`.
    pub(crate) fn name(&self) -> String {
        self.session.name()
    }

    /// Its memory, as the driver sees it.
    pub(crate) fn memory(&self) -> Result<MemoryInfo, KernelError> {
        self.session.call(|context| context.memory())
    }

    /// Bytes that can still be allocated.
    pub(crate) fn available_memory(&self) -> Result<u64, KernelError> {
        self.allocator.available()
    }

    /// A buffer of unspecified content, from the cache if one of the size is free. For the results and
    /// the scratch memory of a step.
    ///
    /// # Errors
    /// [`KernelError::DeviceMemory`] if there is no room, [`KernelError::DeviceLost`].
    pub(crate) fn allocate(&self, bytes: usize) -> Result<DeviceBuffer, KernelError> {
        self.allocator.allocate(bytes)
    }

    /// A buffer of unspecified content for what stays, such as weights.
    ///
    /// # Errors
    /// As [`CudaDevice::allocate`].
    pub(crate) fn allocate_long_lived(&self, bytes: usize) -> Result<DeviceBuffer, KernelError> {
        self.allocator.allocate_long_lived(bytes)
    }

    pub(crate) fn allocator_stats(&self) -> AllocatorStats {
        self.allocator.stats()
    }

    /// Gives cached memory back to the driver.
    pub(crate) fn release_cached_memory(&self) {
        self.allocator.release_cached();
    }

    /// Whether a buffer is of this device.
    pub(crate) fn owns(&self, buffer: &DeviceBuffer) -> bool {
        buffer.is_of(&self.session)
    }

    /// The kernel `name` of the source file `module` (without its ending), loaded when it is first asked
    /// for.
    ///
    /// # Errors
    /// [`KernelError::Cuda`] if it cannot be loaded, [`KernelError::DeviceLost`].
    pub(crate) fn kernel(
        &self,
        module: &'static str,
        name: &'static str,
    ) -> Result<Kernel, KernelError> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kernel) = loaded.kernels.get(&(module, name)) {
            return Ok(*kernel);
        }
        let handle = match loaded.modules.get(module) {
            Some(handle) => *handle,
            None => self.session.call(|context| context.load_module(module))?,
        };
        loaded.modules.insert(module, handle);
        let function = self
            .session
            .call(|context| context.function(handle, name))?;
        let kernel = Kernel { function };
        loaded.kernels.insert((module, name), kernel);
        Ok(kernel)
    }

    /// Queues a kernel. A launch without blocks or threads does nothing.
    ///
    /// # Errors
    /// [`KernelError::Cuda`] if the driver refuses the geometry, [`KernelError::DeviceLost`].
    ///
    /// # Safety
    /// `args` are what the kernel takes, in order and of the right sizes. With them and this geometry it
    /// reads and writes only memory of this device that is long enough, and writes none that is shared
    /// with a tensor that others may read as unchanged.
    pub(crate) unsafe fn launch(
        &self,
        kernel: Kernel,
        config: &LaunchConfig,
        args: &[KernelArg],
    ) -> Result<(), KernelError> {
        if config.grid.contains(&0) || config.block.contains(&0) {
            return Ok(());
        }
        // SAFETY: the caller's promise.
        self.session
            .call(|context| unsafe { context.launch(kernel.function, config, args) })
    }

    /// Waits until all that is queued is done, and says what became of it.
    ///
    /// # Errors
    /// [`KernelError::DeviceLost`].
    pub(crate) fn synchronize(&self) -> Result<(), KernelError> {
        self.session.call(|context| context.synchronize())
    }
}
