//! What each operation of a device cost, kept while somebody asks for it.
//!
//! Every public operation opens a [`Span`] with [`Device::record`]. While nobody records, that is one load of a flag that
//! never changes; while somebody does, it is two looks at the clock and an entry in a short list.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::Device;

/// One kind of operation: calls with the same name and shape are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Op {
    /// Name of the function, such as `linear`.
    pub name: &'static str,
    /// `[out_features, in_features]` of its weight; zeros where there is none.
    pub shape: [usize; 2],
}

/// What a call has to do at least, whatever the kernel makes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// What is done.
    pub op: Op,
    /// Bytes of weights, keys and values, or activations that must be read or written.
    pub bytes: u64,
    /// Arithmetic operations, a multiply-add counted as two; 0 where only bytes matter.
    pub operations: u64,
}

impl Work {
    /// Work that reads and writes `bytes` and computes little.
    pub const fn moving(name: &'static str, bytes: usize) -> Self {
        Self {
            op: Op {
                name,
                shape: [0, 0],
            },
            bytes: bytes as u64,
            operations: 0,
        }
    }

    /// Work that also computes.
    pub const fn computing(
        name: &'static str,
        shape: [usize; 2],
        bytes: usize,
        operations: u64,
    ) -> Self {
        Self {
            op: Op { name, shape },
            bytes: bytes as u64,
            operations,
        }
    }
}

/// All calls of one [`Op`] together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// What was done.
    pub op: Op,
    /// How often.
    pub calls: u64,
    /// Wall time of the calls, from the thread that made them.
    pub time: Duration,
    /// Sum of [`Work::bytes`].
    pub bytes: u64,
    /// Sum of [`Work::operations`].
    pub operations: u64,
}

impl Cost {
    /// Counts more calls of the same operation.
    pub fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.time += other.time;
        self.bytes += other.bytes;
        self.operations += other.operations;
    }
}

/// The costs of a device's operations since they were last taken.
#[derive(Debug, Default)]
pub struct Recorder {
    on: AtomicBool,
    /// A forward pass has a dozen kinds of operation, so a list is searched faster than a map.
    costs: Mutex<Vec<Cost>>,
}

impl Recorder {
    /// Starts recording, or stops it. What was recorded stays until it is taken.
    pub fn set_on(&self, on: bool) {
        self.on.store(on, Ordering::Relaxed);
    }

    /// Whether operations are recorded.
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// What was recorded since the last call, in the order in which each operation first came.
    pub fn take(&self) -> Vec<Cost> {
        std::mem::take(&mut *self.costs())
    }

    fn add(&self, work: &Work, time: Duration) {
        let cost = Cost {
            op: work.op,
            calls: 1,
            time,
            bytes: work.bytes,
            operations: work.operations,
        };
        let mut costs = self.costs();
        match costs.iter_mut().find(|known| known.op == work.op) {
            Some(known) => known.add(&cost),
            None => costs.push(cost),
        }
    }

    /// The list is whole even if a thread panicked while it held the lock.
    fn costs(&self) -> MutexGuard<'_, Vec<Cost>> {
        self.costs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An operation in progress; when it is dropped, its time counts.
#[must_use = "the operation ends when this is dropped"]
#[derive(Debug)]
pub struct Span<'a>(Option<(&'a Recorder, Work, Instant)>);

impl Drop for Span<'_> {
    fn drop(&mut self) {
        if let Some((recorder, work, start)) = &self.0 {
            recorder.add(work, start.elapsed());
        }
    }
}

impl Device {
    /// Counts the time until the span is dropped as `work`, if the device's [`Recorder`] is on. Spans must not be nested, or
    /// the inner one's time counts twice.
    #[inline]
    pub fn record(&self, work: impl FnOnce() -> Work) -> Span<'_> {
        let recorder = self.recorder();
        Span(recorder.is_on().then(|| (recorder, work(), Instant::now())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CpuOptions;

    #[test]
    fn calls_of_one_kind_are_counted_together_while_recording_is_on() {
        let device = Device::cpu(CpuOptions::default()).unwrap();
        let call = |shape| drop(device.record(|| Work::computing("linear", shape, 10, 20)));
        call([1, 2]);
        assert!(device.recorder().take().is_empty(), "recording is off");
        device.recorder().set_on(true);
        call([1, 2]);
        call([3, 4]);
        call([1, 2]);
        device.recorder().set_on(false);
        call([1, 2]);
        let costs = device.recorder().take();
        let found: Vec<_> = costs
            .iter()
            .map(|cost| (cost.op.shape, cost.calls, cost.bytes, cost.operations))
            .collect();
        assert_eq!(found, [([1, 2], 2, 20, 40), ([3, 4], 1, 10, 20)]);
        assert!(device.recorder().take().is_empty(), "taken before");
    }

    #[test]
    fn the_time_is_that_of_the_span() {
        let device = Device::cpu(CpuOptions::default()).unwrap();
        device.recorder().set_on(true);
        let start = Instant::now();
        let span = device.record(|| Work::moving("wait", 0));
        let inside = Instant::now();
        while inside.elapsed() < Duration::from_millis(2) {
            std::hint::spin_loop();
        }
        drop(span);
        let outside = start.elapsed();
        let cost = device.recorder().take()[0];
        assert!(cost.time > Duration::from_millis(1) && cost.time <= outside);
    }
}
