//! The speed limit of decoding, measured: how fast this machine reads memory.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use crate::simd::{Kernel, Simd, run};
use crate::{Device, KernelError};

/// Larger than any cache of today (the largest last-level caches are about 500 MiB, shared by many
/// cores).
const BYTES: usize = 1 << 30;
/// Passes over the buffer, of which the median counts.
const PASSES: usize = 5;
/// What one task reads: long enough for the prefetchers, short enough to level out the threads.
const VALUES_PER_TASK: usize = 1 << 18;

/// The read bandwidth of main memory with all threads of the device, in GB/s (1e9 bytes per
/// second): the median of several passes over 1 GiB.
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
    let mut seconds: Vec<f64> = (0..PASSES)
        .map(|_| {
            let start = Instant::now();
            read(device, buffer.as_slice_of());
            start.elapsed().as_secs_f64()
        })
        .collect();
    drop(buffer);
    device.release_cached_memory();
    seconds.sort_by(f64::total_cmp);
    Ok(bytes as f64 / seconds[PASSES / 2] / 1e9)
}

fn read(device: &Device, values: &[f32]) {
    let sink = AtomicU32::new(0);
    device
        .pool()
        .for_each(values.len().div_ceil(VALUES_PER_TASK), |task| {
            let start = task * VALUES_PER_TASK;
            let values = &values[start..values.len().min(start + VALUES_PER_TASK)];
            let sum = run(device.isa(), Sum(values)).unwrap_or_else(|kernel| kernel.0.iter().sum());
            sink.fetch_xor(sum.to_bits(), Ordering::Relaxed); // or the sum, and with it the reading, would be optimised away
        });
    std::hint::black_box(sink.into_inner());
}

struct Sum<'a>(&'a [f32]);

impl Kernel for Sum<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f32 {
        let mut sums = [simd.splat(0.0); 4];
        let groups = self.0.chunks_exact(4 * S::LANES);
        for values in groups.remainder().chunks(S::LANES) {
            sums[0] = simd.add(sums[0], simd.load_partial(values));
        }
        for group in groups {
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = simd.add(*sum, simd.load(&group[i * S::LANES..]));
            }
        }
        simd.reduce_add(simd.add(simd.add(sums[0], sums[1]), simd.add(sums[2], sums[3])))
    }
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
    fn every_value_is_read() {
        for device in devices(1) {
            let values: Vec<f32> = (0..1003u16).map(f32::from).collect();
            let sum =
                run(device.isa(), Sum(&values)).unwrap_or_else(|kernel| kernel.0.iter().sum());
            assert_eq!(sum, 1002.0 * 1003.0 / 2.0);
        }
    }
}
