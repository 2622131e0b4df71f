//! What the tests of the kernels share: random data, devices for every instruction set, and
//! comparison that names the worst element.

use std::sync::OnceLock;

use crate::{CpuOptions, CudaOptions, Device, Isa};

/// A small generator (xorshift64*, Vigna 2016): the same numbers on every machine.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A value in `0..bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 33) as usize % bound
    }

    /// Values spread evenly over -1..1.
    pub(crate) fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count)
            .map(|_| (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0)
            .collect()
    }

    /// The numbers `0..count` in random order.
    pub(crate) fn permutation(&mut self, count: usize) -> Vec<u32> {
        let mut numbers: Vec<u32> = (0..count as u32).collect();
        for i in (1..count).rev() {
            numbers.swap(i, self.below(i + 1));
        }
        numbers
    }
}

/// A device with `threads` threads for every instruction set of this machine; prints which, so that
/// a log shows what was covered.
pub(crate) fn devices(threads: usize) -> Vec<Device> {
    let isas = Isa::available();
    println!(
        "covered: {}",
        isas.iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", ")
    );
    isas.into_iter()
        .map(|isa| {
            Device::cpu(CpuOptions {
                threads: Some(threads),
                isa: Some(isa),
            })
            .unwrap()
        })
        .collect()
}

/// As [`devices`], and the emulated graphics processor where there is a compiler for it. With `GLM_REQUIRE_GPU` in the environment the real
/// one alone: what the CPU does has been seen where the tests were built.
pub(crate) fn every_device(threads: usize) -> Vec<Device> {
    let cuda = emulated_cuda();
    if std::env::var_os("GLM_REQUIRE_GPU").is_some() {
        return cuda.into_iter().collect();
    }
    let mut devices = devices(threads);
    devices.extend(cuda);
    devices
}

/// A graphics processor whose kernels run on the CPU, where there is a compiler for them; prints if there is none. With
/// `GLM_REQUIRE_GPU` in the environment it is a real one, or the test fails.
pub(crate) fn emulated_cuda() -> Option<Device> {
    let options = CudaOptions {
        host: CpuOptions {
            threads: Some(2),
            isa: None,
        },
        ..CudaOptions::default()
    };
    if std::env::var_os("GLM_REQUIRE_GPU").is_some() {
        // One is kept, so that the device's context is made once and not for every test.
        static KEPT: OnceLock<Device> = OnceLock::new();
        let open = || Device::cuda(options).expect("GLM_REQUIRE_GPU asks for a device");
        KEPT.get_or_init(open);
        return Some(open());
    }
    let cuda = crate::cuda::emulation::EmulatedCuda::new(1, 4 << 30)?;
    Some(cuda.open(options).expect("an emulated device opens"))
}

/// Whether tests of graphics processors run on a real one.
pub(crate) fn on_real_device() -> bool {
    std::env::var_os("GLM_REQUIRE_GPU").is_some()
}

/// Panics with the worst element unless all are within `tolerance` of what is wanted, relative to
/// the largest value wanted.
#[track_caller]
pub(crate) fn assert_close(got: &[f32], want: &[f32], tolerance: f32, context: &str) {
    assert_eq!(got.len(), want.len(), "{context}: length");
    let scale = want.iter().fold(0.0f32, |max, x| max.max(x.abs()));
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        // Written so that NaN fails.
        let close = (got - want).abs() <= tolerance * scale;
        assert!(
            close,
            "{context}: element {i} is {got}, expected {want} (largest {scale})"
        );
    }
}
