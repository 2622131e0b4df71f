//! A device: where tensors live and kernels run. That is the CPU, with its instruction set, its threads
//! and its memory cache, or a graphics processor beside it.

use std::sync::Arc;

use crate::cuda::{self, CudaDevice};
use crate::memory::Allocator;
use crate::parallel::{self, ThreadPool};
use crate::{
    AllocatorStats, Buffer, CublasLtStats, CudaOptions, DeviceInfo, Isa, KernelError, MemoryInfo,
    Recorder,
};

/// How to use the CPU. The default takes what the process may use.
#[derive(Debug, Clone, Copy, Default)]
pub struct CpuOptions {
    /// The number of threads; by default the physical cores that the process may run on.
    pub threads: Option<usize>,
    /// The instruction set; by default [`Isa::detect`], which honours `GLM_ISA`.
    pub isa: Option<Isa>,
}

/// A handle to a device. Clones are cheap and mean the same device; it may be shared between
/// threads.
#[derive(Clone)]
pub struct Device {
    /// Where kernels run, or what prepares and takes the data of those that run elsewhere.
    cpu: Arc<Cpu>,
    cuda: Option<Arc<CudaDevice>>,
}

struct Cpu {
    isa: Isa,
    pool: ThreadPool,
    allocator: Arc<Allocator>,
    recorder: Recorder,
}

impl Device {
    /// The CPU with its own threads and its own memory cache: make one per process, not one per
    /// tensor.
    ///
    /// # Errors
    /// [`KernelError::UnknownIsa`] or [`KernelError::IsaUnavailable`] for a bad `GLM_ISA`,
    /// [`KernelError::Threads`] for a count that cannot be, [`KernelError::Spawn`] if the system
    /// refuses a thread.
    pub fn cpu(options: CpuOptions) -> Result<Self, KernelError> {
        let isa = options.isa.map_or_else(Isa::detect, Ok)?;
        let pool = ThreadPool::new(options.threads.unwrap_or_else(parallel::available_cores))?;
        Ok(Self {
            cpu: Arc::new(Cpu {
                isa,
                pool,
                allocator: Arc::default(),
                recorder: Recorder::default(),
            }),
            cuda: None,
        })
    }

    /// A graphics processor of NVIDIA's, with threads of the CPU's beside it. One per process and processor: its
    /// kernels are loaded and its memory is cached for each anew.
    ///
    /// # Errors
    /// [`KernelError::Cuda`] where there is no driver or no such device, or it is too old; otherwise as
    /// [`Device::cpu`].
    pub fn cuda(options: CudaOptions) -> Result<Self, KernelError> {
        let driver = cuda::driver::installed()?;
        Self::with_driver(&*driver, options)
    }

    pub(crate) fn with_driver(
        driver: &dyn cuda::driver::Driver,
        options: CudaOptions,
    ) -> Result<Self, KernelError> {
        let cuda = CudaDevice::open(driver, &options)?;
        Ok(Self {
            cuda: Some(Arc::new(cuda)),
            ..Self::cpu(options.host)?
        })
    }

    /// The graphics processor, if that is what the device is.
    pub(crate) fn as_cuda(&self) -> Option<&CudaDevice> {
        self.cuda.as_deref()
    }

    /// What the graphics processor is, if that is what the device is.
    pub fn cuda_info(&self) -> Option<&DeviceInfo> {
        self.as_cuda().map(CudaDevice::info)
    }

    /// What NVIDIA's library of matrix products does on the graphics processor; nothing on the CPU.
    pub fn cublaslt_stats(&self) -> CublasLtStats {
        let stats = |cuda: &CudaDevice| cuda.untried_cublaslt().stats();
        self.as_cuda().map(stats).unwrap_or_default()
    }

    /// The memory of the graphics processor as its driver sees it; `None` for the CPU.
    ///
    /// # Errors
    /// [`KernelError::DeviceLost`] or [`KernelError::Cuda`].
    pub fn cuda_memory(&self) -> Result<Option<MemoryInfo>, KernelError> {
        self.as_cuda().map(CudaDevice::memory).transpose()
    }

    /// Bytes of the graphics processor's memory that can still be allocated, its limit and what is
    /// cached counted in; `None` for the CPU.
    ///
    /// # Errors
    /// As [`Device::cuda_memory`].
    pub fn cuda_available_memory(&self) -> Result<Option<u64>, KernelError> {
        self.as_cuda().map(CudaDevice::available_memory).transpose()
    }

    /// The CPU's part of the device; the CPU itself if that is what the device is.
    pub fn host(&self) -> Self {
        Self {
            cpu: Arc::clone(&self.cpu),
            cuda: None,
        }
    }

    /// Waits until all operations that were asked for are done. On the CPU they are.
    ///
    /// # Errors
    /// [`KernelError::DeviceLost`] if one of them broke the device.
    pub fn synchronize(&self) -> Result<(), KernelError> {
        self.as_cuda().map_or(Ok(()), CudaDevice::synchronize)
    }

    /// An error if `other` is another graphics processor, or if only one of the two is one.
    pub(crate) fn check_same(
        &self,
        op: &'static str,
        name: &'static str,
        other: &Self,
    ) -> Result<(), KernelError> {
        let same = match (&self.cuda, &other.cuda) {
            (None, None) => true, // memory of the host is memory of the host
            (Some(own), Some(others)) => Arc::ptr_eq(own, others),
            _ => false,
        };
        if same {
            return Ok(());
        }
        Err(KernelError::OtherDevice {
            op,
            name,
            expected: self.name(),
            found: other.name(),
        })
    }

    /// The instruction set that kernels use on the CPU.
    pub fn isa(&self) -> Isa {
        self.cpu.isa
    }

    /// The number of the CPU's threads that work on one operation, the calling thread included.
    pub fn num_threads(&self) -> usize {
        self.cpu.pool.num_threads()
    }

    /// A short name for people, such as `cpu (avx512+vnni+bf16, 8 threads)` or `cuda:0 (NVIDIA H200)`.
    pub fn name(&self) -> String {
        match self.as_cuda() {
            Some(cuda) => format!("{} ({})", cuda.name(), cuda.info().name),
            None => format!("cpu ({}, {} threads)", self.isa(), self.num_threads()),
        }
    }

    /// The threads that split the work of an operation.
    pub fn pool(&self) -> &ThreadPool {
        &self.cpu.pool
    }

    /// What operations cost, for those who ask; off until they do.
    pub fn recorder(&self) -> &Recorder {
        &self.cpu.recorder
    }

    /// A buffer of `bytes` bytes of the host's memory, of unspecified value (but initialised), from the
    /// cache if one of the size is free.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`].
    pub fn allocate(&self, bytes: usize) -> Result<Buffer, KernelError> {
        self.cpu.allocator.allocate(bytes)
    }

    /// A buffer of `bytes` zeros in the host's memory. Large ones use memory only as they are written.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`].
    pub fn allocate_zeroed(&self, bytes: usize) -> Result<Buffer, KernelError> {
        self.cpu.allocator.allocate_zeroed(bytes)
    }

    /// A buffer of `bytes` zeros in the host's memory for what stays and is read as a whole, such as
    /// weights: unlike the others it lies side by side with the last one of its kind, in huge pages where the system has
    /// them, and is not kept for reuse when it is dropped.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`].
    pub fn allocate_long_lived(&self, bytes: usize) -> Result<Buffer, KernelError> {
        self.cpu.allocator.allocate_long_lived(bytes)
    }

    /// What the cache of the device's own memory holds.
    pub fn allocator_stats(&self) -> AllocatorStats {
        match self.as_cuda() {
            Some(cuda) => cuda.allocator_stats(),
            None => self.cpu.allocator.stats(),
        }
    }

    /// Gives cached memory that nobody uses back to the system, for example after loading a model.
    pub fn release_cached_memory(&self) {
        self.cpu.allocator.release_cached();
        if let Some(cuda) = self.as_cuda() {
            cuda.release_cached_memory();
        }
    }
}

impl PartialEq for Device {
    fn eq(&self, other: &Self) -> bool {
        let cuda = |device: &Self| device.cuda.as_ref().map(Arc::as_ptr);
        Arc::ptr_eq(&self.cpu, &other.cpu) && cuda(self) == cuda(other)
    }
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name())
    }
}
