//! The one place that splits work over threads.
//!
//! A decoded token is some two hundred parallel regions of a few microseconds each, so what counts
//! is the price of starting and ending one. The pool therefore has one job at a time and no queues:
//! the caller publishes it with one store, threads join with one compare-and-swap, claim task
//! numbers from one counter, and leave with one subtraction. The caller works too, and never waits
//! for a thread that has not joined: on a busy machine a region costs at most what it would cost on
//! one thread. Between jobs threads spin for a moment, then sleep.
//!
//! Measured against rayon 1.12 (two threads of a Xeon with AVX-512 that others used too, medians of
//! 20,000 regions, in excess of the work itself): an empty region costs 0.2 µs here, 4.9 µs as
//! `install` of a `join`, 5.5 µs as `broadcast`; two tasks that do run side by side cost 0.7 µs
//! here. `benches/parallel` keeps the number.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::KernelError;

/// More threads than any machine has; a larger number is a mistake of the caller.
pub(crate) const MAX_THREADS: usize = 1024;

/// How long an idle thread looks for work before it sleeps: longer than the serial gaps within a
/// forward pass, far shorter than a time slice.
const SPIN: Duration = Duration::from_micros(50);
/// How much of that it does without offering its core to others. A thread that was woken on the
/// core of the caller keeps it from going on.
const SPIN_ALONE: Duration = Duration::from_micros(5);

/// Ranges per thread in [`ThreadPool::for_each_range`]: enough to level out a thread that was
/// interrupted, few enough to claim cheaply.
const RANGES_PER_THREAD: usize = 4;

thread_local! {
    /// Whether this thread is inside a task. A region within a region runs inline: the threads are
    /// busy with the outer one already.
    static IN_TASK: Cell<bool> = const { Cell::new(false) };
}

/// Threads that work on one region at a time, together with the thread that calls.
pub struct ThreadPool {
    shared: Arc<Shared>,
    /// Held by the thread whose job the pool runs.
    turn: Mutex<()>,
    workers: Vec<JoinHandle<()>>,
}

impl ThreadPool {
    /// A pool of `threads` threads, the caller's included.
    ///
    /// # Errors
    /// [`KernelError::Threads`] if it is 0 or beyond reason, [`KernelError::Spawn`] if the system
    /// refuses a thread.
    pub fn new(threads: usize) -> Result<Self, KernelError> {
        if threads == 0 || threads > MAX_THREADS {
            return Err(KernelError::Threads(threads));
        }
        let mut pool = Self {
            shared: Arc::new(Shared::new()),
            turn: Mutex::new(()),
            workers: Vec::new(),
        };
        for index in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let worker = std::thread::Builder::new()
                .name(format!("glm-cpu-{index}"))
                .spawn(move || shared.work());
            pool.workers
                .push(worker.map_err(|error| KernelError::Spawn {
                    index,
                    reason: error.to_string(),
                })?);
        }
        Ok(pool)
    }

    /// The number of threads, the caller's included.
    pub fn num_threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task(i)` once for each `i` in `0..tasks`, on any thread and in any order, and returns
    /// when all are done.
    ///
    /// Runs on the calling thread alone if called from within a task, or while another thread has
    /// the pool: it never waits for its turn.
    ///
    /// # Panics
    /// With the panic of a task, after the others have ended.
    pub fn for_each(&self, tasks: usize, task: impl Fn(usize) + Sync) {
        let turn = if tasks > 1 && !self.workers.is_empty() && !IN_TASK.get() {
            self.turn.try_lock().ok()
        } else {
            None
        };
        match turn {
            Some(_turn) => self.shared.run(tasks, &task),
            None => (0..tasks).for_each(task),
        }
    }

    /// Splits `0..items` into ranges of at least `grain` items (but for the last) and calls `task`
    /// once for each.
    ///
    /// # Panics
    /// As [`ThreadPool::for_each`].
    pub fn for_each_range(&self, items: usize, grain: usize, task: impl Fn(Range<usize>) + Sync) {
        let size = items
            .div_ceil(RANGES_PER_THREAD * self.num_threads())
            .max(grain)
            .max(1);
        self.for_each(items.div_ceil(size), |i| {
            task(i * size..((i + 1) * size).min(items))
        });
    }
}

/// The fewest elements that are worth a task of their own: at several per nanosecond, less takes no
/// longer than handing it to another thread.
const GRAIN: usize = 16 * 1024;

impl ThreadPool {
    /// Splits the rows of a matrix among tasks, each of which gets a range of row numbers and those
    /// rows to write. Small matrices stay whole.
    ///
    /// # Panics
    /// As [`ThreadPool::for_each`].
    pub fn for_each_rows(
        &self,
        out: &mut [f32],
        row_len: usize,
        task: impl Fn(Range<usize>, &mut [f32]) + Sync,
    ) {
        let rows = out.len().checked_div(row_len).unwrap_or(0);
        let out = SharedMut::new(out);
        self.for_each_range(rows, GRAIN / row_len.max(1), |range| {
            // SAFETY: the ranges that `for_each_range` hands out are disjoint, so their rows are.
            let part = unsafe { out.slice(range.start * row_len, range.len() * row_len) };
            task(range, part);
        });
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.shut_down();
        for worker in self.workers.drain(..) {
            // A worker catches the panics of tasks, so joining fails only if the thread was killed
            // from outside.
            let _ = worker.join();
        }
    }
}

/// A job as threads see it: a closure on the caller's stack, called by number.
#[derive(Clone, Copy)]
struct Job {
    call: unsafe fn(*const (), usize),
    task: *const (),
    tasks: usize,
}

/// Set in [`Shared::state`] while threads may join the current job.
const OPEN: u64 = 1 << 31;
/// The part of [`Shared::state`] that counts the threads in the current job.
const JOINED: u64 = OPEN - 1;
/// One more job, in [`Shared::state`].
const EPOCH: u64 = 1 << 32;

/// A value alone on its cache lines (two: the prefetcher fetches pairs), so that threads that
/// hammer it disturb no other.
#[repr(align(128))]
struct Padded<T>(T);

struct Shared {
    /// Job number (upper half), whether it is open, and how many threads are in it.
    state: Padded<AtomicU64>,
    /// The next task number to claim.
    next: Padded<AtomicUsize>,
    /// Written only by the thread that holds the turn while the job is closed and empty; read only
    /// by threads that joined.
    job: UnsafeCell<Job>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    sleepers: AtomicUsize,
    sleep: Mutex<()>,
    wake: Condvar,
    shutting_down: AtomicBool,
}

// SAFETY: `job` is the only field that is not `Sync`, and its comment says why access to it is
// ordered: it is written before `state` is released with OPEN set and read after `state` was
// acquired so; it is written again only after every thread that joined has left
// (`wait_for_joined`). What it points to is `Sync` (`run` asks for it) and outlives the job.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

impl Shared {
    fn new() -> Self {
        Self {
            state: Padded(AtomicU64::new(0)),
            next: Padded(AtomicUsize::new(0)),
            job: UnsafeCell::new(Job {
                call: |_, _| (),
                task: std::ptr::null(),
                tasks: 0,
            }),
            panic: Mutex::new(None),
            sleepers: AtomicUsize::new(0),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
            shutting_down: AtomicBool::new(false),
        }
    }

    /// Runs a job to its end; the caller holds the turn.
    fn run<F: Fn(usize) + Sync>(&self, tasks: usize, task: &F) {
        unsafe fn call<F: Fn(usize)>(task: *const (), index: usize) {
            // SAFETY: `run` made `task` from a `&F`, and does not return while a thread may call
            // this.
            unsafe { (*task.cast::<F>())(index) }
        }
        let job = Job {
            call: call::<F>,
            task: std::ptr::from_ref(task).cast(),
            tasks,
        };
        // SAFETY: the last job is closed and every thread has left it, and this thread has the
        // turn.
        unsafe { *self.job.get() = job };
        self.next.0.store(0, Ordering::Relaxed);
        let epoch = self.state.0.load(Ordering::Relaxed) / EPOCH + 1;
        // SeqCst, here and in `doze`: either the sleeper sees the job or this thread sees the
        // sleeper.
        self.state
            .0
            .store(epoch.wrapping_mul(EPOCH) | OPEN, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            drop(lock(&self.sleep)); // a thread between its last look and its wait holds the lock
            self.wake.notify_all();
        }
        self.claim_tasks(job);
        self.state.0.fetch_and(!OPEN, Ordering::AcqRel);
        self.wait_for_joined();
        if let Some(panic) = lock(&self.panic).take() {
            resume_unwind(panic);
        }
    }

    /// Runs tasks until none is left to claim. A panic is kept for the caller and ends the job
    /// early.
    fn claim_tasks(&self, job: Job) {
        let outer = IN_TASK.replace(true);
        let result = catch_unwind(AssertUnwindSafe(|| {
            loop {
                let index = self.next.0.fetch_add(1, Ordering::Relaxed);
                if index >= job.tasks {
                    break;
                }
                // SAFETY: this thread runs the job or has joined it, so the closure is alive.
                unsafe { (job.call)(job.task, index) };
            }
        }));
        IN_TASK.set(outer);
        if let Err(panic) = result {
            self.next.0.store(job.tasks, Ordering::Relaxed);
            lock(&self.panic).get_or_insert(panic);
        }
    }

    fn wait_for_joined(&self) {
        let mut spins = 0u32;
        while self.state.0.load(Ordering::Acquire) & JOINED != 0 {
            spins += 1;
            if spins.is_multiple_of(64) {
                std::thread::yield_now(); // the last thread may be waiting for this very core
            } else {
                std::hint::spin_loop();
            }
        }
    }

    /// The life of a worker thread.
    fn work(&self) {
        let mut seen = 0;
        while let Some(state) = self.next_job(seen) {
            if self
                .state
                .0
                .compare_exchange(state, state + 1, Ordering::AcqRel, Ordering::Relaxed)
                .is_err()
            {
                continue; // another thread joined first, or the job is over: look again
            }
            seen = state / EPOCH;
            // SAFETY: joined, so the job stays as it is until this thread leaves.
            self.claim_tasks(unsafe { *self.job.get() });
            self.state.0.fetch_sub(1, Ordering::Release);
        }
    }

    /// Waits for a job other than `seen` that is open: spinning first, then asleep. None when the
    /// pool shuts down.
    fn next_job(&self, seen: u64) -> Option<u64> {
        let start = Instant::now();
        let mut spins = 0u32;
        loop {
            let state = self.state.0.load(Ordering::Acquire);
            if state & OPEN != 0 && state / EPOCH != seen {
                return Some(state);
            }
            if self.shutting_down.load(Ordering::Relaxed) {
                return None;
            }
            spins += 1;
            std::hint::spin_loop();
            if spins.is_multiple_of(16) {
                match start.elapsed() {
                    waited if waited > SPIN => self.doze(seen),
                    waited if waited > SPIN_ALONE => std::thread::yield_now(),
                    _ => (),
                }
            }
        }
    }

    /// Sleeps until a job other than `seen` is open or the pool shuts down.
    fn doze(&self, seen: u64) {
        let mut guard = lock(&self.sleep);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        loop {
            let state = self.state.0.load(Ordering::SeqCst);
            if (state & OPEN != 0 && state / EPOCH != seen)
                || self.shutting_down.load(Ordering::SeqCst)
            {
                break;
            }
            guard = self
                .wake
                .wait(guard)
                .unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    fn shut_down(&self) {
        self.shutting_down.store(true, Ordering::SeqCst);
        drop(lock(&self.sleep)); // as in `run`
        self.wake.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No thread panics while it holds one of these: what they guard is a unit or an Option.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A mutable slice that several tasks write to, each its own part.
pub struct SharedMut<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: a task gets at the elements only through `slice`, whose caller promises that no two tasks
// touch the same ones.
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}
// SAFETY: it is a `&mut [T]` in all but name.
unsafe impl<T: Send> Send for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    /// Wraps the slice for the time that tasks share it.
    pub fn new(slice: &'a mut [T]) -> Self {
        Self {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            slice: PhantomData,
        }
    }

    /// The address of element `index`, which may be beyond the end: to prefetch, not to read.
    pub(crate) fn address(&self, index: usize) -> *const T {
        self.start.wrapping_add(index)
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
        assert!(
            start <= self.len && len <= self.len - start,
            "{start}+{len} of {}",
            self.len
        );
        // SAFETY: the range is within the slice (checked above), and the caller promises that
        // nobody else has any of it.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}

/// The physical cores that the process may run on: its affinity and its cgroup's quota count,
/// hyper-threads of one core count once, since two of them share the vector units that kernels keep
/// busy.
pub(crate) fn available_cores() -> usize {
    let logical = std::thread::available_parallelism().map_or(1, usize::from);
    physical_cores().map_or(logical, |cores| cores.clamp(1, logical))
}

/// The distinct cores behind the CPUs of this process's affinity mask, if the system tells.
fn physical_cores() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let allowed = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let mut cores: Vec<String> = Vec::new();
    for cpu in parse_cpu_list(allowed.trim())? {
        // The list of its siblings names a core, for it is the same for each of them.
        let siblings = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
        cores.push(std::fs::read_to_string(siblings).ok()?);
    }
    cores.sort_unstable();
    cores.dedup();
    Some(cores.len())
}

/// The numbers of a Linux CPU list such as `0-3,8`.
fn parse_cpu_list(list: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if last.checked_sub(first)? >= 1 << 16 {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(pool: &ThreadPool, tasks: usize) -> Vec<usize> {
        let counts: Vec<_> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
        pool.for_each(tasks, |i| {
            counts[i].fetch_add(1, Ordering::Relaxed);
        });
        counts.into_iter().map(AtomicUsize::into_inner).collect()
    }

    #[test]
    fn every_task_runs_exactly_once() {
        for threads in [1, 2, 3, 8] {
            let pool = ThreadPool::new(threads).unwrap();
            assert_eq!(pool.num_threads(), threads);
            for tasks in [0, 1, 2, 7, 1000] {
                assert_eq!(counts(&pool, tasks), vec![1; tasks]);
            }
        }
    }

    #[test]
    fn many_regions_in_a_row_lose_nothing() {
        let pool = ThreadPool::new(4).unwrap();
        let total = AtomicUsize::new(0);
        for _ in 0..2000 {
            pool.for_each(5, |i| {
                total.fetch_add(i, Ordering::Relaxed);
            });
        }
        assert_eq!(total.into_inner(), 2000 * 10);
    }

    #[test]
    fn ranges_cover_everything_once() {
        let pool = ThreadPool::new(3).unwrap();
        for (items, grain) in [(0, 1), (1, 1), (7, 0), (100, 8), (1000, 1)] {
            let mut hits = vec![0u8; items];
            let shared = SharedMut::new(&mut hits);
            pool.for_each_range(items, grain, |range| {
                assert!(range.len() >= grain.min(items) || range.end == items);
                // SAFETY: ranges are disjoint, which is what this test would show to be wrong.
                unsafe { shared.slice(range.start, range.len()) }
                    .iter_mut()
                    .for_each(|hit| *hit += 1);
            });
            assert_eq!(hits, vec![1; items]);
        }
    }

    #[test]
    fn regions_nest_and_threads_share_a_pool_without_deadlock() {
        let pool = ThreadPool::new(2).unwrap();
        let total = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        pool.for_each(3, |_| {
                            pool.for_each(3, |_| {
                                total.fetch_add(1, Ordering::Relaxed);
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 4 * 200 * 9);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = ThreadPool::new(2).unwrap();
        for _ in 0..50 {
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.for_each(100, |i| assert_ne!(i, 37, "planned"))
            }));
            let message = *result.unwrap_err().downcast::<String>().unwrap();
            assert!(message.contains("planned"), "{message}");
            assert_eq!(counts(&pool, 10), vec![1; 10]);
        }
    }

    #[test]
    fn absurd_thread_counts_are_refused() {
        assert_eq!(ThreadPool::new(0).err(), Some(KernelError::Threads(0)));
        assert_eq!(
            ThreadPool::new(MAX_THREADS + 1).err(),
            Some(KernelError::Threads(MAX_THREADS + 1))
        );
    }

    #[test]
    fn cpu_lists_are_understood() {
        assert_eq!(parse_cpu_list("0-3,8"), Some(vec![0, 1, 2, 3, 8]));
        assert_eq!(parse_cpu_list("5"), Some(vec![5]));
        for broken in ["", "a", "3-1", "0-99999999"] {
            assert_eq!(parse_cpu_list(broken), None);
        }
        assert!((1..=MAX_THREADS).contains(&available_cores()));
    }
}
