//! A driver for tests: its memory is the host's, and it fails when told to. Kernels do nothing, or are run
//! by an [`Emulator`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::emulated::Emulator;
use super::host_memory::HostMemory;
use super::{
    Context, DeviceInfo, DevicePtr, Driver, FunctionHandle, KernelArg, LaunchConfig, MemoryInfo,
    ModuleHandle,
};
use crate::CudaError;

/// Failures on request; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults(Arc<Plan>);

#[derive(Debug, Default)]
struct Plan {
    /// Launches until one breaks the context, plus 1; 0 for never.
    fatal_launch: AtomicU64,
    /// Whether the context is broken.
    broken: AtomicBool,
    out_of_memory: AtomicBool,
    launches: AtomicU64,
    calls: AtomicU64,
}

impl Faults {
    /// The launch after `launches` more breaks the context, as an access out of bounds does.
    pub(crate) fn break_after(&self, launches: u64) {
        self.0.fatal_launch.store(launches + 1, Ordering::SeqCst);
    }

    /// From here on there is no memory, or there is again.
    pub(crate) fn set_out_of_memory(&self, on: bool) {
        self.0.out_of_memory.store(on, Ordering::SeqCst);
    }

    /// Kernels that were launched.
    pub(crate) fn launches(&self) -> u64 {
        self.0.launches.load(Ordering::SeqCst)
    }

    /// Calls of the context.
    pub(crate) fn calls(&self) -> u64 {
        self.0.calls.load(Ordering::SeqCst)
    }

    fn call(&self, call: &'static str) -> Result<(), CudaError> {
        self.0.calls.fetch_add(1, Ordering::SeqCst);
        if self.0.broken.load(Ordering::SeqCst) {
            let reason = "the context is broken".to_owned();
            return Err(CudaError::Lost { call, reason });
        }
        Ok(())
    }

    fn launch(&self) -> Result<(), CudaError> {
        self.0.launches.fetch_add(1, Ordering::SeqCst);
        let left = self.0.fatal_launch.load(Ordering::SeqCst);
        self.0
            .fatal_launch
            .store(left.saturating_sub(1), Ordering::SeqCst);
        if left == 1 {
            self.0.broken.store(true, Ordering::SeqCst);
            return Err(CudaError::Lost {
                call: "launch",
                reason: "an illegal memory access was encountered (as asked for)".to_owned(),
            });
        }
        Ok(())
    }
}

/// A driver with devices that are not there.
pub(crate) struct FakeDriver {
    pub version: u32,
    pub devices: Vec<DeviceInfo>,
    pub faults: Faults,
    /// What runs kernels; without it they do nothing.
    pub emulator: Option<Arc<Emulator>>,
}

impl FakeDriver {
    /// `count` devices with `memory` bytes each.
    pub(crate) fn new(count: usize, memory: u64) -> Self {
        let device = |ordinal| DeviceInfo {
            ordinal,
            name: "Emulated".to_owned(),
            compute_capability: (9, 0),
            multiprocessors: 4,
            shared_per_block: 227 << 10,
            l2_bytes: 1 << 20,
            total_memory: memory,
            memory_bandwidth: 0,
        };
        Self {
            version: 12_090,
            devices: (0..count).map(device).collect(),
            faults: Faults::default(),
            emulator: None,
        }
    }
}

impl Driver for FakeDriver {
    fn version(&self) -> Result<u32, CudaError> {
        Ok(self.version)
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>, CudaError> {
        Ok(self.devices.clone())
    }

    fn open(&self, ordinal: usize) -> Result<Box<dyn Context>, CudaError> {
        let count = self.devices.len();
        let info = self.devices.get(ordinal);
        let info = info.ok_or(CudaError::NoDevice { ordinal, count })?;
        Ok(Box::new(FakeContext {
            memory: HostMemory::new(info.total_memory),
            faults: self.faults.clone(),
            emulator: self.emulator.clone(),
            state: Mutex::default(),
        }))
    }
}

/// A device that is not there; what it is given to do is done at once.
struct FakeContext {
    memory: HostMemory,
    faults: Faults,
    emulator: Option<Arc<Emulator>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next_handle: u64,
    modules: HashMap<u64, &'static str>,
    functions: HashMap<u64, Function>,
}

impl State {
    fn handle(&mut self) -> u64 {
        self.next_handle += 1;
        self.next_handle
    }
}

#[derive(Clone)]
struct Function {
    module: &'static str,
    name: String,
}

impl FakeContext {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Context for FakeContext {
    fn memory(&self) -> Result<MemoryInfo, CudaError> {
        self.faults.call("memory")?;
        Ok(self.memory.info())
    }

    fn allocate(&self, bytes: usize) -> Result<DevicePtr, CudaError> {
        self.faults.call("allocate")?;
        if self.faults.0.out_of_memory.load(Ordering::SeqCst) {
            return Err(CudaError::OutOfMemory { bytes });
        }
        self.memory.allocate(bytes)
    }

    unsafe fn free(&self, ptr: DevicePtr) -> Result<(), CudaError> {
        self.faults.call("free")?;
        self.memory.free(ptr)
    }

    unsafe fn copy_in(&self, to: DevicePtr, bytes: &[u8]) -> Result<(), CudaError> {
        self.faults.call("copy_in")?;
        let to = self.memory.range("copy_in", to, bytes.len())?;
        // SAFETY: the range was checked.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        Ok(())
    }

    unsafe fn copy_out(&self, from: DevicePtr, bytes: &mut [u8]) -> Result<(), CudaError> {
        self.faults.call("copy_out")?;
        let from = self.memory.range("copy_out", from, bytes.len())?;
        // SAFETY: the range was checked.
        unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    unsafe fn fill(&self, to: DevicePtr, value: u8, bytes: usize) -> Result<(), CudaError> {
        self.faults.call("fill")?;
        let to = self.memory.range("fill", to, bytes)?;
        // SAFETY: the range was checked.
        unsafe { to.write_bytes(value, bytes) };
        Ok(())
    }

    fn load_module(&self, module: &'static str) -> Result<ModuleHandle, CudaError> {
        self.faults.call("load_module")?;
        if let Some(emulator) = &self.emulator {
            emulator.load(module)?;
        }
        let mut state = self.lock();
        let handle = state.handle();
        state.modules.insert(handle, module);
        Ok(ModuleHandle(handle))
    }

    fn function(&self, module: ModuleHandle, name: &str) -> Result<FunctionHandle, CudaError> {
        self.faults.call("function")?;
        let mut state = self.lock();
        let module = *state
            .modules
            .get(&module.0)
            .ok_or_else(|| CudaError::Call {
                call: "function",
                reason: "invalid handle".to_owned(),
            })?;
        if let Some(emulator) = &self.emulator {
            emulator.find(module, name)?;
        }
        let handle = state.handle();
        let name = name.to_owned();
        state.functions.insert(handle, Function { module, name });
        Ok(FunctionHandle(handle))
    }

    unsafe fn launch(
        &self,
        function: FunctionHandle,
        config: &LaunchConfig,
        args: &[KernelArg],
    ) -> Result<(), CudaError> {
        let found = self.lock().functions.get(&function.0).cloned();
        let function = found.ok_or_else(|| CudaError::Call {
            call: "launch",
            reason: "invalid handle".to_owned(),
        })?;
        let threads: u64 = config.block.iter().map(|n| u64::from(*n)).product();
        if threads > 1024 || config.shared_bytes as usize > (227 << 10) {
            return Err(CudaError::Call {
                call: "launch",
                reason: format!("{}: invalid configuration {config:?}", function.name),
            });
        }
        self.faults.call("launch")?;
        self.faults.launch()?;
        let Some(emulator) = &self.emulator else {
            return Ok(());
        };
        // SAFETY: the caller's promise.
        unsafe { emulator.launch(function.module, &function.name, config, args) }?;
        self.memory.check().map_err(|error| CudaError::Lost {
            call: "launch",
            reason: format!("{} {config:?}: {error}", function.name),
        })
    }

    fn synchronize(&self) -> Result<(), CudaError> {
        self.faults.call("synchronize")
    }
}
