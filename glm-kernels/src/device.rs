//! A device: where tensors live and kernels run. Today that is the CPU: its instruction set, its
//! threads and its memory cache.

use std::sync::Arc;

use crate::memory::Allocator;
use crate::parallel::{self, ThreadPool};
use crate::{AllocatorStats, Buffer, Isa, KernelError, Recorder};

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
    cpu: Arc<Cpu>,
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
        })
    }

    /// The instruction set that kernels use here.
    pub fn isa(&self) -> Isa {
        self.cpu.isa
    }

    /// The number of threads that work on one operation, the calling thread included.
    pub fn num_threads(&self) -> usize {
        self.cpu.pool.num_threads()
    }

    /// A short name for people, such as `cpu (avx512+vnni+bf16, 8 threads)`.
    pub fn name(&self) -> String {
        format!("cpu ({}, {} threads)", self.isa(), self.num_threads())
    }

    /// The threads that split the work of an operation.
    pub fn pool(&self) -> &ThreadPool {
        &self.cpu.pool
    }

    /// What operations cost, for those who ask; off until they do.
    pub fn recorder(&self) -> &Recorder {
        &self.cpu.recorder
    }

    /// A buffer of `bytes` bytes of unspecified value (but initialised), from the cache if one of
    /// the size is free.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`].
    pub fn allocate(&self, bytes: usize) -> Result<Buffer, KernelError> {
        self.cpu.allocator.allocate(bytes)
    }

    /// A buffer of `bytes` zeros. Large ones use memory only as they are written.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`].
    pub fn allocate_zeroed(&self, bytes: usize) -> Result<Buffer, KernelError> {
        self.cpu.allocator.allocate_zeroed(bytes)
    }

    /// A buffer of `bytes` zeros for what stays and is read as a whole, such as weights: unlike the
    /// others it lies side by side with the last one of its kind, in huge pages where the system has
    /// them, and is not kept for reuse when it is dropped.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`].
    pub fn allocate_long_lived(&self, bytes: usize) -> Result<Buffer, KernelError> {
        self.cpu.allocator.allocate_long_lived(bytes)
    }

    /// What the memory cache holds.
    pub fn allocator_stats(&self) -> AllocatorStats {
        self.cpu.allocator.stats()
    }

    /// Gives cached memory that nobody uses back to the system, for example after loading a model.
    pub fn release_cached_memory(&self) {
        self.cpu.allocator.release_cached();
    }
}

impl PartialEq for Device {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.cpu, &other.cpu)
    }
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name())
    }
}
