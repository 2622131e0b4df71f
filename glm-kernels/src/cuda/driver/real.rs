//! NVIDIA's driver, opened while the program runs.
//!
//! Bindings are cudarc's, of which only the lowest floor is used: its functions panic where the library or
//! a symbol is missing, so the library is looked for first, and functions that came after CUDA 12.0 are
//! called only where the driver's version says that it has them.

mod pinned;
mod result;

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cudarc::driver::sys;

use super::cublaslt::{CublasLt, Products};
use super::{
    Context, CopyHandle, DeviceInfo, DevicePtr, Driver, FunctionHandle, GraphHandle, KernelArg,
    LaunchConfig, MemoryInfo, ModuleHandle, PlanHandle, Product, ProductShape,
};
use crate::CudaError;
use crate::cuda::{self, pack};
use result::check;

/// The driver's library.
const LIBRARY: &str = if cfg!(windows) {
    "nvcuda.dll"
} else {
    "libcuda.so.1"
};

/// Copies go through pinned memory in pieces of at most this.
const PIECE: usize = 8 << 20;

/// A block gets so much dynamic shared memory without asking.
const SHARED_WITHOUT_ASKING: u32 = 48 << 10;

/// The first version of CUDA whose graphs know kernels that begin before the one before them has ended.
const OVERLAPS_IN_GRAPHS: u32 = 12_030;

/// `off` in the environment: each kernel begins when the one before it has ended.
const OVERLAP_SWITCH: &str = "GLM_CUDA_OVERLAP";

/// The driver of this machine.
pub(super) struct RealDriver {
    version: u32,
}

/// Opens the driver's library and starts it.
pub(super) fn installed() -> Result<RealDriver, CudaError> {
    // SAFETY: loading NVIDIA's driver library runs its initialisers, which is what it is for.
    if !unsafe { sys::is_culib_present() } {
        return Err(CudaError::NoDriver { library: LIBRARY });
    }
    let mut version: c_int = 0;
    // SAFETY: the library is there, and `version` is valid for a write.
    unsafe {
        check("cuInit", sys::cuInit(0))?;
        check(
            "cuDriverGetVersion",
            sys::cuDriverGetVersion(&raw mut version),
        )?;
    }
    let version = version.unsigned_abs();
    Ok(RealDriver { version })
}

impl Driver for RealDriver {
    fn version(&self) -> Result<u32, CudaError> {
        Ok(self.version)
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>, CudaError> {
        let mut count: c_int = 0;
        // SAFETY: the driver was started, and `count` is valid for a write.
        check("cuDeviceGetCount", unsafe {
            sys::cuDeviceGetCount(&raw mut count)
        })?;
        let ordinals = 0..usize::try_from(count).unwrap_or(0);
        ordinals
            .map(|ordinal| describe(ordinal, device(ordinal)?))
            .collect()
    }

    fn open(&self, ordinal: usize) -> Result<Box<dyn Context>, CudaError> {
        let device = device(ordinal)?;
        let info = describe(ordinal, device)?;
        let mut context = ptr::null_mut();
        // SAFETY: `device` came from the driver, and `context` is valid for a write.
        check("cuDevicePrimaryCtxRetain", unsafe {
            sys::cuDevicePrimaryCtxRetain(&raw mut context, device)
        })?;
        let mut opened = RealContext {
            device,
            context,
            stream: ptr::null_mut(),
            info,
            version: self.version,
            overlaps: std::env::var_os(OVERLAP_SWITCH).is_none_or(|value| value != "off"),
            capturing: AtomicBool::new(false),
            loaded: Mutex::default(),
            pinned: Mutex::default(),
            products: Mutex::default(),
        };
        opened.enter()?;
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: the context is current, and `stream` is valid for a write.
        check("cuStreamCreate", unsafe {
            sys::cuStreamCreate(&raw mut opened.stream, flags)
        })?;
        Ok(Box::new(opened))
    }
}

fn device(ordinal: usize) -> Result<sys::CUdevice, CudaError> {
    let mut device: sys::CUdevice = 0;
    let ordinal = c_int::try_from(ordinal).unwrap_or(c_int::MAX);
    // SAFETY: the driver was started, and `device` is valid for a write.
    check("cuDeviceGet", unsafe {
        sys::cuDeviceGet(&raw mut device, ordinal)
    })?;
    Ok(device)
}

fn describe(ordinal: usize, device: sys::CUdevice) -> Result<DeviceInfo, CudaError> {
    use sys::CUdevice_attribute as Attribute;

    let attribute = |attribute: Attribute| -> Result<u64, CudaError> {
        let mut value: c_int = 0;
        // SAFETY: `device` came from the driver, and `value` is valid for a write.
        check("cuDeviceGetAttribute", unsafe {
            sys::cuDeviceGetAttribute(&raw mut value, attribute, device)
        })?;
        Ok(u64::try_from(value).unwrap_or(0))
    };
    let mut name: [c_char; 256] = [0; 256];
    let mut total_memory = 0;
    // SAFETY: `device` came from the driver, which writes at most 256 bytes, ends the name with a zero, and writes a number.
    let name = unsafe {
        check(
            "cuDeviceGetName",
            sys::cuDeviceGetName(name.as_mut_ptr(), 256, device),
        )?;
        check(
            "cuDeviceTotalMem",
            sys::cuDeviceTotalMem_v2(&raw mut total_memory, device),
        )?;
        CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned()
    };
    let capability = (
        attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)? as u32,
        attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)? as u32,
    );
    // Twice per clock: kHz and bits. Drivers for newer devices may not say.
    let clock = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE).unwrap_or(0);
    let width = attribute(Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH).unwrap_or(0);
    let shared =
        attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)? as usize;
    Ok(DeviceInfo {
        ordinal,
        name,
        compute_capability: capability,
        multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize,
        shared_per_block: shared,
        l2_bytes: attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)? as usize,
        total_memory: total_memory as u64,
        memory_bandwidth: 2 * clock * 1000 * width / 8,
    })
}

/// A device's primary context, which other libraries of the process share, and a stream of our own.
struct RealContext {
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    info: DeviceInfo,
    version: u32,
    /// Whether kernels may begin before the one before them has ended.
    overlaps: bool,
    /// Whether launches are written down at the moment.
    capturing: AtomicBool,
    loaded: Mutex<Loaded>,
    pinned: Mutex<pinned::Pool>,
    /// NVIDIA's library, once it was opened.
    products: Mutex<Option<Products>>,
}

// SAFETY: the driver's handles may be used from any thread in which the context is current, which `enter`
// sees to before each call; the driver locks what needs to be locked.
unsafe impl Send for RealContext {}
// SAFETY: as above.
unsafe impl Sync for RealContext {}

/// What is known of modules and kernels, by their handles.
#[derive(Default)]
struct Loaded {
    /// Whether the kernels of a module may overlap.
    modules: HashMap<u64, bool>,
    functions: HashMap<u64, Function>,
}

#[derive(Clone, Copy)]
struct Function {
    may_overlap: bool,
    /// The dynamic shared memory that it may have.
    shared_bytes: u32,
}

impl RealContext {
    /// Makes the context that of this thread; the driver's calls are meant for whatever that is.
    fn enter(&self) -> Result<(), CudaError> {
        // SAFETY: the context is retained until this is dropped.
        check("cuCtxSetCurrent", unsafe {
            sys::cuCtxSetCurrent(self.context)
        })
    }

    /// As [`Self::enter`], for what cannot be written down: a copy from the host would be made again from memory that
    /// is gone by then, and the driver refuses the rest.
    fn enter_for(&self, call: &'static str) -> Result<(), CudaError> {
        if self.capturing.load(Ordering::Relaxed) {
            let reason = "launches are being written down".to_owned();
            return Err(CudaError::Call { call, reason });
        }
        self.enter()
    }

    fn pinned(&self) -> MutexGuard<'_, pinned::Pool> {
        self.pinned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Copies to the device from memory that is not pinned, and waits until all of it has been read: how long the driver reads such
    /// memory is its own affair.
    ///
    /// # Safety
    /// As for [`Context::copy_in`], and the context is that of this thread.
    unsafe fn copy_in_pageable(&self, to: DevicePtr, bytes: &[u8]) -> Result<(), CudaError> {
        // SAFETY: the caller's promise; the stream lives as long as this.
        unsafe {
            let (from, len) = (bytes.as_ptr().cast(), bytes.len());
            let copied = sys::cuMemcpyHtoDAsync_v2(to.0, from, len, self.stream);
            check("cuMemcpyHtoDAsync", copied)?;
            check("cuStreamSynchronize", sys::cuStreamSynchronize(self.stream))
        }
    }

    /// Copies to the device by way of pinned memory: the host need not wait until the device comes to that.
    ///
    /// # Safety
    /// As for [`Context::copy_in`], and the context is that of this thread.
    unsafe fn copy_in_pinned(&self, to: DevicePtr, bytes: &[u8]) -> Result<(), CudaError> {
        let pinned = match self.pinned().take(bytes.len()) {
            Ok(pinned) => pinned,
            Err(error @ CudaError::Lost { .. }) => return Err(error),
            // The host has no memory for that: slowly, then.
            // SAFETY: the caller's promise.
            Err(_) => return unsafe { self.copy_in_pageable(to, bytes) },
        };
        let (start, event) = (pinned.start(), pinned.event);
        // SAFETY: the memory is as long, and nothing uses it; it is kept until the event says that the copy has ended.
        let queued = unsafe {
            ptr::copy_nonoverlapping(bytes.as_ptr(), start, bytes.len());
            let copied = sys::cuMemcpyHtoDAsync_v2(to.0, start.cast(), bytes.len(), self.stream);
            check("cuMemcpyHtoDAsync", copied).and_then(|()| self.record(event))
        };
        self.pinned().leaves(pinned);
        queued
    }

    /// Records an event behind all that is queued.
    ///
    /// # Safety
    /// It is there, and the context is that of this thread.
    unsafe fn record(&self, event: sys::CUevent) -> Result<(), CudaError> {
        // SAFETY: the caller's promise; the stream lives as long as this.
        check("cuEventRecord", unsafe {
            sys::cuEventRecord(event, self.stream)
        })
    }

    /// Asks NVIDIA's library, which must not be asked while launches are written down.
    fn with_products<T>(
        &self,
        call: &'static str,
        ask: impl FnOnce(&mut Products) -> Result<T, CudaError>,
    ) -> Result<T, CudaError> {
        self.enter_for(call)?;
        let mut products = self.products.lock().unwrap_or_else(PoisonError::into_inner);
        let products = products.as_mut().ok_or_else(|| CudaError::Call {
            call,
            reason: "the library is not open".to_owned(),
        })?;
        ask(products)
    }

    fn loaded(&self) -> MutexGuard<'_, Loaded> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Allows a kernel as much dynamic shared memory as a launch wants, and says whether it may overlap.
    fn prepare(&self, handle: FunctionHandle, shared_bytes: u32) -> Result<bool, CudaError> {
        use sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as SHARED;

        let mut loaded = self.loaded();
        let function = loaded
            .functions
            .get_mut(&handle.0)
            .ok_or_else(|| CudaError::Call {
                call: "launch",
                reason: "no such kernel".to_owned(),
            })?;
        if shared_bytes > function.shared_bytes {
            // SAFETY: the function was loaded here.
            check("cuFuncSetAttribute", unsafe {
                sys::cuFuncSetAttribute(as_handle(handle.0), SHARED, shared_bytes as c_int)
            })?;
            function.shared_bytes = shared_bytes;
        }
        Ok(function.may_overlap)
    }
}

/// A handle of the driver's from what stands for it outside.
fn as_handle<T>(handle: u64) -> *mut T {
    ptr::with_exposed_provenance_mut(handle as usize)
}

/// What stands for a handle of the driver's outside.
fn from_handle<T>(handle: *mut T) -> u64 {
    handle.expose_provenance() as u64
}

impl Context for RealContext {
    fn memory(&self) -> Result<MemoryInfo, CudaError> {
        self.enter()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: both are valid for a write.
        check("cuMemGetInfo", unsafe {
            sys::cuMemGetInfo_v2(&raw mut free, &raw mut total)
        })?;
        Ok(MemoryInfo {
            free: free as u64,
            total: total as u64,
        })
    }

    fn allocate(&self, bytes: usize) -> Result<DevicePtr, CudaError> {
        self.enter_for("cuMemAlloc")?;
        let mut start = 0;
        // SAFETY: `start` is valid for a write.
        match check("cuMemAlloc", unsafe {
            sys::cuMemAlloc_v2(&raw mut start, bytes)
        }) {
            Err(CudaError::DriverMemory { .. }) => Err(CudaError::OutOfMemory { bytes }),
            result => result.map(|()| DevicePtr(start)),
        }
    }

    unsafe fn free(&self, ptr: DevicePtr) -> Result<(), CudaError> {
        self.enter_for("cuMemFree")?;
        // That the driver waits for what uses the memory is how it is, and nowhere promised.
        // SAFETY: the caller's promise; the stream lives as long as this.
        unsafe {
            check("cuStreamSynchronize", sys::cuStreamSynchronize(self.stream))?;
            check("cuMemFree", sys::cuMemFree_v2(ptr.0))
        }
    }

    unsafe fn copy_in(&self, to: DevicePtr, bytes: &[u8]) -> Result<(), CudaError> {
        self.enter_for("cuMemcpyHtoDAsync")?;
        let mut to = to;
        for part in bytes.chunks(PIECE) {
            // SAFETY: the caller's promise.
            unsafe { self.copy_in_pinned(to, part) }?;
            to = to.offset(part.len());
        }
        Ok(())
    }

    unsafe fn copy_out(&self, from: DevicePtr, bytes: &mut [u8]) -> Result<(), CudaError> {
        let mut from = from;
        for part in bytes.chunks_mut(PIECE) {
            // SAFETY: the caller's promise.
            let copy = unsafe { self.copy_out_later(from, part.len()) }?;
            self.wait_copy(copy, part)?;
            from = from.offset(part.len());
        }
        Ok(())
    }

    unsafe fn copy_out_later(
        &self,
        from: DevicePtr,
        bytes: usize,
    ) -> Result<CopyHandle, CudaError> {
        self.enter_for("cuMemcpyDtoHAsync")?;
        let pinned = self.pinned().take(bytes)?;
        let (start, event) = (pinned.start().cast(), pinned.event);
        // SAFETY: the caller's promise; the memory is as long, and is kept until the event says that the copy has ended.
        let queued = unsafe {
            let copied = sys::cuMemcpyDtoHAsync_v2(start, from.0, bytes, self.stream);
            check("cuMemcpyDtoHAsync", copied).and_then(|()| self.record(event))
        };
        let handle = from_handle(event);
        match queued {
            Ok(()) => self.pinned().arrives(handle, pinned),
            Err(_) => self.pinned().leaves(pinned),
        }
        queued.map(|()| CopyHandle(handle))
    }

    fn wait_copy(&self, copy: CopyHandle, bytes: &mut [u8]) -> Result<(), CudaError> {
        const CALL: &str = "cuEventSynchronize";
        let pinned = self.pinned().arrived(CALL, copy.0)?;
        let arrived = self.enter_for(CALL).and_then(|()| {
            // SAFETY: the event was recorded behind the copy.
            check(CALL, unsafe { sys::cuEventSynchronize(pinned.event) })
        });
        if arrived.is_err() {
            self.pinned().leaves(pinned);
            return arrived;
        }
        // SAFETY: the copy has ended, it was of as many bytes, and nobody else has the memory.
        unsafe { ptr::copy_nonoverlapping(pinned.start(), bytes.as_mut_ptr(), bytes.len()) };
        self.pinned().put(pinned);
        Ok(())
    }

    fn forget_copy(&self, copy: CopyHandle) -> Result<(), CudaError> {
        let mut pool = self.pinned();
        let pinned = pool.arrived("forget_copy", copy.0)?;
        pool.leaves(pinned);
        Ok(())
    }

    unsafe fn fill(&self, to: DevicePtr, value: u8, bytes: usize) -> Result<(), CudaError> {
        self.enter()?;
        // SAFETY: the caller's promise.
        check("cuMemsetD8Async", unsafe {
            sys::cuMemsetD8Async(to.0, value, bytes, self.stream)
        })
    }

    fn load_module(&self, module: &'static str) -> Result<ModuleHandle, CudaError> {
        self.enter_for("cuModuleLoadData")?;
        let device = self.info.compute_capability;
        let mut refused = Vec::new();
        for form in pack::forms(module, device)? {
            let reason = match form.load(device) {
                Err(reason) => reason,
                Ok(image) => match load(&image.bytes) {
                    Ok(handle) => {
                        self.loaded().modules.insert(handle, image.may_overlap);
                        return Ok(ModuleHandle(handle));
                    }
                    // Such as an image that is newer than the driver.
                    Err(CudaError::Call { reason, .. }) => reason,
                    Err(error) => return Err(error),
                },
            };
            refused.push(format!("{form}: {reason}"));
        }
        let reason = refused.join("; ");
        Err(CudaError::Module { module, reason })
    }

    fn function(&self, module: ModuleHandle, name: &str) -> Result<FunctionHandle, CudaError> {
        const CALL: &str = "cuModuleGetFunction";
        self.enter()?;
        let mut function = ptr::null_mut();
        let c_name = CString::new(name).map_err(|error| CudaError::Call {
            call: CALL,
            reason: error.to_string(),
        })?;
        // SAFETY: the module was loaded here; the name ends with a zero.
        let found = check(CALL, unsafe {
            sys::cuModuleGetFunction(&raw mut function, as_handle(module.0), c_name.as_ptr())
        });
        found.map_err(|error| match error {
            CudaError::Call { call, reason } => CudaError::Call {
                call,
                reason: format!("{name}: {reason}"),
            },
            error => error,
        })?;
        let handle = from_handle(function);
        let mut loaded = self.loaded();
        let function = Function {
            may_overlap: loaded.modules.get(&module.0).copied().unwrap_or(false),
            shared_bytes: SHARED_WITHOUT_ASKING,
        };
        loaded.functions.insert(handle, function);
        Ok(FunctionHandle(handle))
    }

    unsafe fn launch(
        &self,
        function: FunctionHandle,
        config: &LaunchConfig,
        args: &[KernelArg],
    ) -> Result<(), CudaError> {
        self.enter()?;
        let may_overlap = self.prepare(function, config.shared_bytes)?;
        let known = self.version >= OVERLAPS_IN_GRAPHS || !self.capturing.load(Ordering::Relaxed);
        let overlaps = self.overlaps && config.overlaps && may_overlap && known;
        let mut overlap = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue {
                programmaticStreamSerializationAllowed: 1,
            },
        };
        let launch = sys::CUlaunchConfig {
            gridDimX: config.grid[0],
            gridDimY: config.grid[1],
            gridDimZ: config.grid[2],
            blockDimX: config.block[0],
            blockDimY: config.block[1],
            blockDimZ: config.block[2],
            sharedMemBytes: config.shared_bytes,
            hStream: self.stream,
            attrs: &raw mut overlap,
            numAttrs: u32::from(overlaps),
        };
        let mut args: Vec<*mut c_void> = args.iter().map(|arg| arg.as_ptr().cast_mut()).collect();
        // SAFETY: the function was loaded here; the caller promises that the arguments are its own, and
        // the driver copies them before it returns.
        check("cuLaunchKernelEx", unsafe {
            sys::cuLaunchKernelEx(
                &raw const launch,
                as_handle(function.0),
                args.as_mut_ptr(),
                ptr::null_mut(),
            )
        })
    }

    fn synchronize(&self) -> Result<(), CudaError> {
        self.enter_for("cuStreamSynchronize")?;
        // SAFETY: the stream lives as long as this.
        check("cuStreamSynchronize", unsafe {
            sys::cuStreamSynchronize(self.stream)
        })
    }

    fn begin_capture(&self) -> Result<(), CudaError> {
        self.enter_for("cuStreamBeginCapture")?;
        // What other libraries of the process do in their threads is no concern of this.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives as long as this.
        check("cuStreamBeginCapture", unsafe {
            sys::cuStreamBeginCapture_v2(self.stream, mode)
        })?;
        self.capturing.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn end_capture(&self) -> Result<GraphHandle, CudaError> {
        self.enter()?;
        self.capturing.store(false, Ordering::Relaxed);
        let (mut graph, mut executable) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the stream lives as long as this, and `graph` is valid for a write.
        check("cuStreamEndCapture", unsafe {
            sys::cuStreamEndCapture(self.stream, &raw mut graph)
        })?;
        // SAFETY: the graph is what was written down, `executable` is valid for a write, and has copies of all it
        // needs of the graph, which nobody else has.
        check("cuGraphInstantiate", unsafe {
            let made = sys::cuGraphInstantiateWithFlags(&raw mut executable, graph, 0);
            let _ = sys::cuGraphDestroy(graph);
            made
        })?;
        Ok(GraphHandle(from_handle(executable)))
    }

    unsafe fn launch_graph(&self, graph: GraphHandle) -> Result<(), CudaError> {
        self.enter_for("cuGraphLaunch")?;
        // SAFETY: the graph was made here; the caller promises that what it touches is there.
        check("cuGraphLaunch", unsafe {
            sys::cuGraphLaunch(as_handle(graph.0), self.stream)
        })
    }

    fn destroy_graph(&self, graph: GraphHandle) -> Result<(), CudaError> {
        self.synchronize()?;
        // SAFETY: the graph was made here, is not used any more, and the stream is done with it.
        check("cuGraphExecDestroy", unsafe {
            sys::cuGraphExecDestroy(as_handle(graph.0))
        })
    }

    fn open_cublaslt(&self) -> Result<(), CudaError> {
        self.enter_for("cublasLtCreate")?;
        let mut products = self.products.lock().unwrap_or_else(PoisonError::into_inner);
        if products.is_none() {
            let library = CublasLt::find(cuda::cublaslt::switch(), self.version)?;
            *products = Some(Products::new(library)?);
        }
        Ok(())
    }

    fn plan_product(
        &self,
        shape: &ProductShape,
        workspace_bytes: usize,
    ) -> Result<PlanHandle, CudaError> {
        self.with_products("cublasLtMatmulAlgoGetHeuristic", |products| {
            products.plan(shape, workspace_bytes)
        })
    }

    unsafe fn multiply(
        &self,
        plan: PlanHandle,
        product: &Product,
        workspace: DevicePtr,
    ) -> Result<(), CudaError> {
        self.with_products("cublasLtMatmul", |products| {
            // SAFETY: the caller's promise; the stream is of the context that `with_products` makes this thread's.
            unsafe { products.multiply(plan, product, workspace, self.stream.cast()) }
        })
    }
}

impl Drop for RealContext {
    fn drop(&mut self) {
        let entered = self.enter().is_ok();
        let modules = std::mem::take(&mut self.loaded().modules);
        let pinned = std::mem::take(&mut *self.pinned());
        let products = self.products.get_mut();
        let products = products.unwrap_or_else(PoisonError::into_inner).take();
        // SAFETY: all of it was made here, nobody else has it, and nothing uses it once the stream is
        // done. What fails fails because the context is lost, and is gone with it; it was retained all the same.
        unsafe {
            if entered {
                if !self.stream.is_null() {
                    let _ = sys::cuStreamSynchronize(self.stream);
                    let _ = sys::cuStreamDestroy_v2(self.stream);
                }
                drop(products);
                for module in modules.into_keys() {
                    let _ = sys::cuModuleUnload(as_handle(module));
                }
                pinned.free();
            }
            let _ = sys::cuDevicePrimaryCtxRelease_v2(self.device);
        }
    }
}

/// Loads a module into the context, which is that of this thread.
fn load(image: &[u8]) -> Result<u64, CudaError> {
    let mut handle = ptr::null_mut();
    // SAFETY: the image is a whole one of the pack or the compiler, and the driver copies it.
    check("cuModuleLoadData", unsafe {
        sys::cuModuleLoadDataEx(
            &raw mut handle,
            image.as_ptr().cast(),
            0,
            ptr::null_mut(),
            ptr::null_mut(),
        )
    })?;
    Ok(from_handle(handle))
}
