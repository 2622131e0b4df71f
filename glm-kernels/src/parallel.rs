//! The one place that splits work over threads.

use crate::KernelError;

/// More threads than any machine has; a larger number is a mistake of the caller.
pub(crate) const MAX_THREADS: usize = 1024;

/// The threads of a device.
pub struct ThreadPool {
    threads: usize,
}

impl ThreadPool {
    /// `threads` threads, the caller's included.
    ///
    /// # Errors
    /// [`KernelError::Threads`] if it is 0 or beyond reason, [`KernelError::Spawn`] if the system refuses a thread.
    pub fn new(threads: usize) -> Result<Self, KernelError> {
        if threads == 0 || threads > MAX_THREADS {
            return Err(KernelError::Threads(threads));
        }
        Ok(Self { threads })
    }

    /// The number of threads, the caller's included.
    pub fn num_threads(&self) -> usize {
        self.threads
    }

    /// Calls `task(i)` once for each `i` in `0..tasks`, on any thread and in any order, and returns when all are done.
    pub fn for_each(&self, tasks: usize, task: impl Fn(usize) + Sync) {
        (0..tasks).for_each(task);
    }
}

/// The physical cores that the process may run on.
pub(crate) fn available_cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A mutable slice that several tasks write to, each its own part.
pub struct SharedMut<'a, T> {
    start: *mut T,
    len: usize,
    slice: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: a task gets at the elements only through `slice`, whose caller promises that no two tasks touch the same ones.
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}
// SAFETY: it is a `&mut [T]` in all but name.
unsafe impl<T: Send> Send for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    /// Wraps the slice for the time that tasks share it.
    pub fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), slice: std::marker::PhantomData }
    }

    /// The elements `start..start + len`.
    ///
    /// # Panics
    /// If the range is not within the slice.
    ///
    /// # Safety
    /// While the result lives, no other part that overlaps it may be taken.
    #[allow(clippy::mut_from_ref)] // the point of the type: the caller promises that the parts are disjoint
    pub unsafe fn slice(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start, "{start}+{len} of {}", self.len);
        // SAFETY: the range is within the slice (checked above), and the caller promises that nobody else has any of it.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}
