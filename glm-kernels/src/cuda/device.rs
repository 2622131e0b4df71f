//! A device that kernels run on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, ThreadId};

use super::cublaslt::{self, CublasLt};
use super::driver::{
    Driver, FunctionHandle, GraphHandle, KernelArg, LaunchConfig, MemoryInfo, ModuleHandle,
};
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
    /// Threads whose buffers come from an arena.
    in_arenas: Mutex<Vec<InArena>>,
    loaded: Mutex<Loaded>,
    /// NVIDIA's own products, where they are installed.
    pub(super) cublaslt: CublasLt,
    /// Whether `linear`'s kernel for Hopper gives the right products here, once that was tried.
    pub(crate) runs_wgmma: OnceLock<bool>,
}

#[derive(Default)]
struct Loaded {
    modules: HashMap<&'static str, ModuleHandle>,
    kernels: HashMap<(&'static str, &'static str), Kernel>,
}

/// A thread that records a step, or is about to.
#[derive(Clone)]
struct InArena {
    thread: ThreadId,
    arena: Arc<DeviceAllocator>,
    /// Whether the arena may ask the driver for more.
    grows: bool,
}

/// Launches that were recorded.
pub(crate) struct Graph {
    session: Arc<Session>,
    handle: GraphHandle,
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
        let allocator = Arc::new(DeviceAllocator::new(Arc::clone(&session), limit));
        // At once, so that whoever shares out the device's memory knows what is left.
        let cublaslt = CublasLt::open(&session, &allocator, cublaslt::switch().as_deref())?;
        Ok(Self {
            allocator,
            session,
            cublaslt,
            in_arenas: Mutex::default(),
            loaded: Mutex::default(),
            runs_wgmma: OnceLock::new(),
        })
    }

    /// The same device with the library that this value of the environment's switch stands for.
    #[cfg(test)]
    pub(crate) fn with_cublaslt(
        mut self,
        switch: Option<&std::ffi::OsStr>,
    ) -> Result<Self, KernelError> {
        self.cublaslt = CublasLt::open(&self.session, &self.allocator, switch)?;
        Ok(self)
    }

    /// NVIDIA's own products, for this thread. Not while it records a step or rehearses it: what the library does then, and what of it can be
    /// repeated, is not known of each version, and steps that are recorded have few tokens.
    pub(crate) fn cublaslt(&self) -> Option<&CublasLt> {
        let usable = self.cublaslt.is_trusted() && self.in_arena().is_none();
        usable.then_some(&self.cublaslt)
    }

    /// The library, trusted or not.
    pub(crate) fn untried_cublaslt(&self) -> &CublasLt {
        &self.cublaslt
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
        let Some(InArena { arena, grows, .. }) = self.in_arena() else {
            return self.allocator.allocate(bytes);
        };
        if !grows {
            let cached = arena.allocate_cached(bytes);
            return cached.ok_or_else(|| CudaError::OutOfMemory { bytes }.into());
        }
        match arena.allocate(bytes) {
            Err(KernelError::DeviceMemory { .. }) => {
                self.allocator.release_cached();
                arena.allocate(bytes)
            }
            buffer => buffer,
        }
    }

    /// The arena of this thread, if it has one now.
    fn in_arena(&self) -> Option<InArena> {
        let all = self.lock_arenas();
        if all.is_empty() {
            return None; // nearly always, and it need not be asked which thread this is
        }
        let thread = thread::current().id();
        all.iter().find(|other| other.thread == thread).cloned()
    }

    fn lock_arenas(&self) -> MutexGuard<'_, Vec<InArena>> {
        self.in_arenas
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Memory for steps that are recorded.
    pub(crate) fn new_arena(&self) -> Arc<DeviceAllocator> {
        Arc::new(self.allocator.new_arena())
    }

    /// Runs a step whose buffers come from `arena`, so that it has all that the same step asks for when it is
    /// recorded.
    ///
    /// # Errors
    /// The step's.
    pub(crate) fn rehearse<T>(
        &self,
        arena: &Arc<DeviceAllocator>,
        step: impl FnOnce() -> Result<T, KernelError>,
    ) -> Result<T, KernelError> {
        let _entered = self.enter(arena, true);
        step()
    }

    /// Records the launches of a step that was rehearsed, instead of making them.
    ///
    /// # Errors
    /// The step's; [`KernelError::Cuda`] if it does something that cannot be recorded, or needs more memory than
    /// there is in the arena.
    pub(crate) fn record<T>(
        &self,
        arena: &Arc<DeviceAllocator>,
        step: impl FnOnce() -> Result<T, KernelError>,
    ) -> Result<(T, Graph), KernelError> {
        let _entered = self.enter(arena, false);
        let (made, handle) = self.session.record(step)?;
        let session = Arc::clone(&self.session);
        Ok((made, Graph { session, handle }))
    }

    fn enter(&self, arena: &Arc<DeviceAllocator>, grows: bool) -> Entered<'_> {
        let thread = thread::current().id();
        self.lock_arenas().push(InArena {
            thread,
            arena: Arc::clone(arena),
            grows,
        });
        Entered {
            device: self,
            thread,
        }
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
        if let Some(kernel) = self.loaded().kernels.get(&(module, name)) {
            return Ok(*kernel);
        }
        // Not under the lock: the driver's calls wait for a thread that records, which asks for kernels too.
        let known = self.loaded().modules.get(module).copied();
        let handle = match known {
            Some(handle) => handle,
            None => {
                let load = || self.session.call(|context| context.load_module(module));
                self.with_room(load)?
            }
        };
        let function = self
            .session
            .call(|context| context.function(handle, name))?;
        let kernel = Kernel { function };
        let mut loaded = self.loaded();
        loaded.modules.insert(module, handle);
        loaded.kernels.insert((module, name), kernel);
        Ok(kernel)
    }

    fn loaded(&self) -> MutexGuard<'_, Loaded> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
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
        self.with_room(|| {
            // SAFETY: the caller's promise.
            self.session
                .call(|context| unsafe { context.launch(kernel.function, config, args) })
        })
    }

    /// Calls again if the driver needs memory that is cached here.
    fn with_room<T>(&self, call: impl Fn() -> Result<T, KernelError>) -> Result<T, KernelError> {
        match call() {
            // Not of a thread that records: nothing can be given back meanwhile.
            Err(KernelError::Cuda(CudaError::DriverMemory { .. })) if self.in_arena().is_none() => {
                self.allocator.release_cached();
                call()
            }
            result => result,
        }
    }

    /// Waits until all that is queued is done, and says what became of it.
    ///
    /// # Errors
    /// [`KernelError::DeviceLost`].
    pub(crate) fn synchronize(&self) -> Result<(), KernelError> {
        self.session.call(|context| context.synchronize())
    }
}

/// A thread is in an arena until this is dropped.
struct Entered<'a> {
    device: &'a CudaDevice,
    thread: ThreadId,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let thread = self.thread;
        self.device
            .lock_arenas()
            .retain(|other| other.thread != thread);
    }
}

impl Graph {
    /// Makes the launches.
    ///
    /// # Errors
    /// [`KernelError::Cuda`] if the driver refuses, [`KernelError::DeviceLost`].
    ///
    /// # Safety
    /// What was promised of each launch ([`CudaDevice::launch`]) holds still.
    pub(crate) unsafe fn launch(&self) -> Result<(), KernelError> {
        // SAFETY: the caller's promise.
        self.session
            .call(|context| unsafe { context.launch_graph(self.handle) })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // Where the device is lost, the graph is gone with its context.
        let _ = self
            .session
            .call(|context| context.destroy_graph(self.handle));
    }
}
