//! The speed limit of decoding, measured: how fast this machine reads memory.
//!
//! How fast depends on the order of the reads: the processor's prefetcher works within a page and
//! for a few streams, and what it leaves unused, prefetch instructions may use. No order is the best
//! on every machine, so several are tried.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::simd::{Kernel, Simd, run};
use crate::{Device, KernelError};

/// Larger than any cache of today (the largest last-level caches are about 500 MiB, shared by many
/// cores).
const BYTES: usize = 1 << 30;
/// Passes over the buffer in each order, of which the median counts.
const PASSES: usize = 3;
/// No further pass begins after this time.
const BUDGET: Duration = Duration::from_millis(800);
/// What one task reads: long enough for the prefetchers, short enough to level out the threads.
const VALUES_PER_TASK: usize = 1 << 18;

/// How a task goes through its values.
#[derive(Clone, Copy)]
struct Order {
    /// Parts that are read side by side.
    streams: usize,
    /// How many values ahead of its use each is fetched; 0 leaves it to the processor.
    ahead: usize,
}

/// Measured on a Xeon (Granite Rapids, two cores of a virtual machine, 2026-11-20, huge pages): 29 GB/s
/// as it comes, 39 GB/s as two streams fetched 512 bytes ahead.
const ORDERS: [Order; 3] = [
    Order {
        streams: 1,
        ahead: 0,
    },
    Order {
        streams: 1,
        ahead: 1024,
    },
    Order {
        streams: 2,
        ahead: 128,
    },
];

/// The read bandwidth of main memory with all threads of the device, in GB/s (1e9 bytes per
/// second): the median of several passes over 1 GiB, in the order of reads that is the fastest.
/// Takes about a second, and longer where other programs use the memory too: the first pass in each
/// order is always made. For one thread, ask with a device that has one.
///
/// # Errors
/// [`KernelError::OutOfMemory`] if there is no room for that.
pub fn bandwidth(device: &Device) -> Result<f64, KernelError> {
    measure(device, BYTES)
}

fn measure(device: &Device, bytes: usize) -> Result<f64, KernelError> {
    let mut buffer = device.allocate(bytes)?;
    // Written first, and by the threads that will read it: pages that were never written to are all
    // one page of zeros.
    device
        .pool()
        .for_each_rows(buffer.as_slice_of_mut(), VALUES_PER_TASK, |_, values| {
            values.fill(1.0)
        });
    let seconds = fastest_median(|order| read(device, buffer.as_slice_of(), order));
    drop(buffer);
    device.release_cached_memory();
    Ok(bytes as f64 / seconds / 1e9)
}

/// The median seconds of a pass in the order in which it is the fastest.
fn fastest_median(pass: impl Fn(Order)) -> f64 {
    let mut seconds = ORDERS.map(|_| Vec::with_capacity(PASSES));
    let begin = Instant::now();
    // In turns, so that what else the machine does meets all orders alike.
    for round in 0..PASSES {
        if round > 0 && begin.elapsed() > BUDGET {
            break;
        }
        for (order, seconds) in ORDERS.into_iter().zip(&mut seconds) {
            let start = Instant::now();
            pass(order);
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    let medians = seconds.map(|mut seconds| {
        seconds.sort_by(f64::total_cmp);
        seconds[seconds.len() / 2]
    });
    medians.into_iter().fold(f64::INFINITY, f64::min)
}

fn read(device: &Device, values: &[f32], order: Order) {
    let sink = AtomicU32::new(0);
    device
        .pool()
        .for_each(values.len().div_ceil(VALUES_PER_TASK), |task| {
            let start = task * VALUES_PER_TASK;
            let values = &values[start..values.len().min(start + VALUES_PER_TASK)];
            let sum = sum(device, values, order);
            sink.fetch_xor(sum.to_bits(), Ordering::Relaxed); // or the sum, and with it the reading, would be optimised away
        });
    std::hint::black_box(sink.into_inner());
}

fn sum(device: &Device, values: &[f32], order: Order) -> f32 {
    run(device.isa(), Sum { values, order }).unwrap_or_else(|sum| sum.values.iter().sum())
}

struct Sum<'a> {
    values: &'a [f32],
    order: Order,
}

/// Values of two cache lines, which a stream reads before the next has its turn.
const STEP: usize = 32;

impl Kernel for Sum<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f32 {
        let Order { streams, ahead } = self.order;
        let stream = self.values.len() / streams / STEP * STEP;
        let mut sums = [simd.splat(0.0); 4];
        for start in (0..stream).step_by(STEP) {
            for part in 0..streams {
                let values = &self.values[part * stream + start..][..STEP];
                if ahead > 0 {
                    prefetch(values.as_ptr().wrapping_add(ahead));
                    prefetch(values.as_ptr().wrapping_add(ahead + STEP / 2));
                }
                for (i, values) in values.chunks_exact(S::LANES).enumerate() {
                    sums[i % 4] = simd.add(sums[i % 4], simd.load(values));
                }
            }
        }
        for values in self.values[streams * stream..].chunks(S::LANES) {
            sums[0] = simd.add(sums[0], simd.load_partial(values));
        }
        simd.reduce_add(simd.add(simd.add(sums[0], sums[1]), simd.add(sums[2], sums[3])))
    }
}

/// Asks for a cache line, which need not be one of ours: nothing is read.
#[inline(always)]
fn prefetch(line: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 CPU has the instruction, and it does nothing for an address that is not
    // mapped.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(line.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::devices;

    #[test]
    fn the_result_is_that_of_a_computer() {
        for device in devices(2) {
            let speed = measure(&device, (16 << 20) + 12).unwrap();
            println!("{device:?}: {speed:.1} GB/s over 16 MiB");
            assert!((0.1..100_000.0).contains(&speed), "{speed} GB/s");
            assert_eq!(device.allocator_stats().cached_bytes, 0);
        }
    }

    #[test]
    fn every_value_is_read_once_in_every_order() {
        for device in devices(1) {
            let values: Vec<f32> = (0..1003u16).map(f32::from).collect();
            for order in ORDERS {
                assert_eq!(sum(&device, &values, order), 1002.0 * 1003.0 / 2.0);
            }
        }
    }
}
