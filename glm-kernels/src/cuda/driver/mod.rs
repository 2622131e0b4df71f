//! What is needed of a CUDA driver.
//!
//! Two traits, so that tests can put something else in the driver's place: [`Driver`] knows the
//! devices of the machine, a [`Context`] is one of them, opened, with one stream.

#[cfg(feature = "cuda")]
pub(crate) mod cublaslt;
#[cfg(any(test, feature = "cuda-emulation"))]
pub(crate) mod emulated;
#[cfg(any(test, feature = "cuda-emulation"))]
pub(crate) mod fake;
#[cfg(any(test, feature = "cuda-emulation"))]
mod host_memory;
#[cfg(feature = "cuda")]
mod real;

use super::CudaError;

/// The driver of this machine.
///
/// # Errors
/// [`CudaError::NoDriver`] or [`CudaError::NotBuilt`].
pub(crate) fn installed() -> Result<Box<dyn Driver>, CudaError> {
    #[cfg(feature = "cuda")]
    return Ok(Box::new(real::installed()?));
    #[cfg(not(feature = "cuda"))]
    Err(CudaError::NotBuilt)
}

/// A driver that is installed.
pub(crate) trait Driver: Send + Sync {
    /// The newest version of CUDA that it runs, `1000 * major + 10 * minor`.
    fn version(&self) -> Result<u32, CudaError>;

    /// The devices, by ordinal.
    fn devices(&self) -> Result<Vec<DeviceInfo>, CudaError>;

    /// Opens a device.
    fn open(&self, ordinal: usize) -> Result<Box<dyn Context>, CudaError>;
}

/// A device that was opened, and its stream. Whatever the stream is given to do happens in order;
/// methods return before it is done unless they say that they wait.
///
/// Pointers are of the memory that [`Context::allocate`] gave and offsets into it. Handles are of this
/// context. It may be used from any thread.
pub(crate) trait Context: Send + Sync {
    /// Free and total memory of the device.
    fn memory(&self) -> Result<MemoryInfo, CudaError>;

    /// Memory of the device, aligned to 256 bytes at least; not from the stream, so it takes long.
    fn allocate(&self, bytes: usize) -> Result<DevicePtr, CudaError>;

    /// Gives memory back once the stream is done with all that it has been given.
    ///
    /// # Safety
    /// `ptr` is what [`Context::allocate`] gave, and nobody uses it afterwards.
    unsafe fn free(&self, ptr: DevicePtr) -> Result<(), CudaError>;

    /// Copies `bytes` to the device. `bytes` may be overwritten as soon as this returns.
    ///
    /// # Safety
    /// There are as many bytes of the device's memory at `to`.
    unsafe fn copy_in(&self, to: DevicePtr, bytes: &[u8]) -> Result<(), CudaError>;

    /// Copies from the device, and waits for it.
    ///
    /// # Safety
    /// There are as many bytes of the device's memory at `from`.
    unsafe fn copy_out(&self, from: DevicePtr, bytes: &mut [u8]) -> Result<(), CudaError>;

    /// Copies from the device to memory of the driver's, which [`Context::wait_copy`] or [`Context::forget_copy`] gives back.
    ///
    /// # Safety
    /// There are as many bytes of the device's memory at `from`.
    unsafe fn copy_out_later(&self, from: DevicePtr, bytes: usize)
    -> Result<CopyHandle, CudaError>;

    /// Waits for a copy, and not for what the stream was given after it. `bytes` are as many as were copied, and the handle is
    /// not used afterwards, whatever comes of it.
    fn wait_copy(&self, copy: CopyHandle, bytes: &mut [u8]) -> Result<(), CudaError>;

    /// Nobody waits for a copy. The handle is not used afterwards.
    fn forget_copy(&self, copy: CopyHandle) -> Result<(), CudaError>;

    /// Writes `value` to each of `bytes` bytes.
    ///
    /// # Safety
    /// There are as many bytes of the device's memory at `to`.
    unsafe fn fill(&self, to: DevicePtr, value: u8, bytes: usize) -> Result<(), CudaError>;

    /// Loads the kernels of the source file of this name, in a form that the device runs.
    fn load_module(&self, module: &'static str) -> Result<ModuleHandle, CudaError>;

    /// The kernel of this name.
    fn function(&self, module: ModuleHandle, name: &str) -> Result<FunctionHandle, CudaError>;

    /// Runs a kernel.
    ///
    /// # Safety
    /// `args` are what the kernel takes, in order, and with them and this geometry it touches only
    /// memory of the device that nobody else uses meanwhile.
    unsafe fn launch(
        &self,
        function: FunctionHandle,
        config: &LaunchConfig,
        args: &[KernelArg],
    ) -> Result<(), CudaError>;

    /// Waits until all is done.
    fn synchronize(&self) -> Result<(), CudaError>;

    /// From here on launches and fills are written down instead of done. Copies to and from the host, waiting, memory,
    /// modules and NVIDIA's library cannot be asked for until [`Context::end_capture`]; nobody else may use the context meanwhile.
    fn begin_capture(&self) -> Result<(), CudaError>;

    /// Ends what [`Context::begin_capture`] began, and gives what was written down. If it fails, nothing is, and the
    /// context goes on as before.
    fn end_capture(&self) -> Result<GraphHandle, CudaError>;

    /// Does what was written down.
    ///
    /// # Safety
    /// What was promised of its launches holds still.
    unsafe fn launch_graph(&self, graph: GraphHandle) -> Result<(), CudaError>;

    /// Forgets what was written down, once the stream is done with it. The handle is not used afterwards.
    fn destroy_graph(&self, graph: GraphHandle) -> Result<(), CudaError>;

    /// Opens NVIDIA's library of matrix products; [`CudaError::NoCublasLt`] where there is none.
    fn open_cublaslt(&self) -> Result<(), CudaError>;

    /// Asks the library how it does products of this shape and of fewer tokens in so much memory.
    fn plan_product(
        &self,
        shape: &ProductShape,
        workspace_bytes: usize,
    ) -> Result<PlanHandle, CudaError>;

    /// Has the library do a product. Where this fails, the result may have been written in part.
    ///
    /// # Safety
    /// The plan was made for such a product. Weights, activations, bias and result are memory of the device that is as long as the
    /// shape says, the workspace as long as the plan was told, and nobody else uses the last two meanwhile: nor does another product
    /// that is asked for at the same time.
    unsafe fn multiply(
        &self,
        plan: PlanHandle,
        product: &Product,
        workspace: DevicePtr,
    ) -> Result<(), CudaError>;
}

/// An address in a device's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct DevicePtr(pub u64);

impl DevicePtr {
    /// The address so many bytes further on.
    pub(crate) fn offset(self, bytes: usize) -> Self {
        Self(self.0 + bytes as u64)
    }
}

macro_rules! handles {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub(crate) struct $name(pub u64);
    )*};
}
handles!(
    /// Kernels that were loaded together.
    ModuleHandle,
    /// A kernel.
    FunctionHandle,
    /// Launches that were written down.
    GraphHandle,
    /// A copy from the device.
    CopyHandle,
    /// How a product is done.
    PlanHandle,
);

/// An argument of a kernel. Its size must be that of the kernel's parameter: there is no conversion.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum KernelArg {
    Ptr(DevicePtr),
    I32(i32),
    U32(u32),
    U64(u64),
    F32(f32),
}

impl KernelArg {
    /// Where the value lies, as drivers take it.
    pub(crate) fn as_ptr(&self) -> *const std::ffi::c_void {
        match self {
            Self::Ptr(ptr) => std::ptr::from_ref(&ptr.0).cast(),
            Self::I32(value) => std::ptr::from_ref(value).cast(),
            Self::U32(value) => std::ptr::from_ref(value).cast(),
            Self::U64(value) => std::ptr::from_ref(value).cast(),
            Self::F32(value) => std::ptr::from_ref(value).cast(),
        }
    }
}

macro_rules! kernel_args {
    ($($ty:ty => $variant:ident),*) => {$(
        impl From<$ty> for KernelArg {
            fn from(value: $ty) -> Self {
                Self::$variant(value)
            }
        }
    )*};
}
kernel_args!(DevicePtr => Ptr, i32 => I32, u32 => U32, u64 => U64, f32 => F32);

/// The addresses of a [`Product`] are multiples of this: then no kernel of the library's asks for more.
pub(crate) const PRODUCT_ALIGNMENT: u64 = 256;

/// What decides how a product is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ProductShape {
    /// Rows of the weight.
    pub rows: u32,
    /// Values of a row, and of the activations of a token. They lie side by side.
    pub columns: u32,
    pub tokens: u32,
    /// Elements from the result of one token to that of the next.
    pub stride: u32,
    /// Whether there is a bias.
    pub biased: bool,
}

/// `out[t, r] = sum over c of x[t, c] * weights[r, c] + bias[r]`, weights and activations bf16, the others and the sums f32.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Product {
    pub shape: ProductShape,
    pub weights: DevicePtr,
    pub x: DevicePtr,
    /// Null if there is none.
    pub bias: DevicePtr,
    pub out: DevicePtr,
}

/// How a kernel is launched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LaunchConfig {
    /// Blocks, in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block, in x, y and z.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory of a block. More than 48 KiB are asked for by themselves.
    pub shared_bytes: u32,
    /// Whether the kernel may begin before the one before it has ended (programmatic dependent launch):
    /// it waits for that itself, with `griddepcontrol.wait`. Ignored where devices cannot do it.
    pub overlaps: bool,
}

impl LaunchConfig {
    /// `grid` blocks of `block` threads.
    pub(crate) fn new(grid: [u32; 3], block: [u32; 3]) -> Self {
        Self {
            grid,
            block,
            shared_bytes: 0,
            overlaps: false,
        }
    }

    /// `grid` blocks of `block` threads, in one dimension.
    pub(crate) fn linear(grid: u32, block: u32) -> Self {
        Self::new([grid, 1, 1], [block, 1, 1])
    }

    /// With so much dynamic shared memory.
    pub(crate) fn shared(self, bytes: u32) -> Self {
        Self {
            shared_bytes: bytes,
            ..self
        }
    }

    /// May begin before the kernel before it has ended.
    pub(crate) fn overlapping(self) -> Self {
        Self {
            overlaps: true,
            ..self
        }
    }
}

/// What a device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its number.
    pub ordinal: usize,
    /// Its name, such as `NVIDIA H200`.
    pub name: String,
    /// Its compute capability, `(major, minor)`.
    pub compute_capability: (u32, u32),
    /// Streaming multiprocessors.
    pub multiprocessors: usize,
    /// Bytes of shared memory that a block can ask for.
    pub shared_per_block: usize,
    /// Bytes of its level 2 cache.
    pub l2_bytes: usize,
    /// Bytes of its memory.
    pub total_memory: u64,
    /// Bytes per second that its memory can move, by its clock and width; 0 where the driver does not
    /// say.
    pub memory_bandwidth: u64,
}

/// The memory of a device, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryInfo {
    /// What nobody uses, other processes included.
    pub free: u64,
    /// All of it.
    pub total: u64,
}
