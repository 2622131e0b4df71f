//! What benchmarks share. Here: measurements of kernels, held against the machine's limits.
#![allow(
    dead_code,
    reason = "every benchmark compiles this for itself and uses its part"
)]

pub mod options;
pub mod requests;

use std::cell::RefCell;
use std::time::Instant;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Throughput};
use glm_benches::random;
use glm_kernels::{
    CpuOptions, Device, Peaks, Weight, WeightBuilder, WeightFormat, bandwidth, peaks, quant,
};

/// What a call has to do at least.
#[derive(Debug, Clone, Copy)]
pub enum Work {
    /// Bytes that it reads and writes.
    Bytes(usize),
    /// Operations on f32, a multiply-add counted as two.
    F32(usize),
    /// Operations on bf16.
    Bf16(usize),
    /// Operations on bytes.
    Int8(usize),
}

/// A device and how fast it is at best.
pub struct Machine {
    pub device: Device,
    /// `None` while benchmarks are only tried out, as `cargo test --bench` does.
    limits: Option<(f64, Peaks)>,
}

impl Machine {
    /// The CPU with all its threads; its limits are measured and printed.
    pub fn new() -> Self {
        let device = Device::cpu(CpuOptions::default()).expect("a CPU device");
        let limits = is_measuring().then(|| {
            let limits = (
                bandwidth(&device).expect("memory for the measurement"),
                peaks(&device),
            );
            println!(
                "{}: reads {:.1} GB/s, {:?}",
                device.name(),
                limits.0,
                limits.1
            );
            limits
        });
        Self { device, limits }
    }

    /// Times `call` and prints its rate and the share of what the machine can do.
    pub fn bench(
        &self,
        group: &mut BenchmarkGroup<'_, WallTime>,
        id: BenchmarkId,
        work: Work,
        mut call: impl FnMut(),
    ) {
        group.throughput(match work {
            Work::Bytes(bytes) => Throughput::BytesDecimal(bytes as u64),
            Work::F32(count) | Work::Bf16(count) | Work::Int8(count) => {
                Throughput::Elements(count as u64)
            }
        });
        let seconds = RefCell::new(Vec::new());
        group.bench_function(id, |bencher| {
            bencher.iter_custom(|iterations| {
                let start = Instant::now();
                for _ in 0..iterations {
                    call();
                }
                let elapsed = start.elapsed();
                let each = elapsed.as_secs_f64() / iterations as f64;
                seconds.borrow_mut().push(each);
                elapsed
            });
        });
        self.print_share(work, seconds.into_inner());
    }

    fn print_share(&self, work: Work, mut seconds: Vec<f64>) {
        let Some((bandwidth, peaks)) = &self.limits else {
            return;
        };
        seconds.sort_by(f64::total_cmp);
        let Some(median) = seconds.get(seconds.len() / 2) else {
            return; // left out by the filter on the command line
        };
        let (amount, limit, unit, of) = match work {
            Work::Bytes(bytes) => (bytes, Some(bandwidth * 1e9), "GB/s", "the read bandwidth"),
            Work::F32(count) => (count, Some(peaks.f32_flops), "GFLOP/s", "the f32 peak"),
            Work::Bf16(count) => (count, peaks.bf16_flops, "GFLOP/s", "the bf16 peak"),
            Work::Int8(count) => (count, peaks.int8_ops, "GOP/s", "the int8 peak"),
        };
        let rate = amount as f64 / median;
        let share = limit.map_or(String::new(), |limit| {
            format!(", {:.0} % of {of}", 100.0 * rate / limit)
        });
        println!("{:24}{:.1} {unit}{share}", "", rate / 1e9);
    }
}

/// A weight of shape `[out_features, in_features]` whose rows repeat 16 random ones: rounding 50 million numbers for each would
/// take longer than the benchmark.
pub fn random_weight(device: &Device, format: WeightFormat, [rows, cols]: [usize; 2]) -> Weight {
    let mut bytes = vec![0; 16 * format.row_bytes(cols).expect("whole blocks")];
    quant::quantize(format, &random(16 * cols, 1), &mut bytes).expect("whole blocks");
    let mut builder = WeightBuilder::new(device, cols);
    builder
        .push_rows(format, rows, &bytes.repeat(rows / 16))
        .expect("whole blocks");
    builder.finish().expect("not empty")
}

/// Whether this run measures; `cargo test --bench` and `--test` only call every benchmark once.
pub fn is_measuring() -> bool {
    let arguments: Vec<String> = std::env::args().collect();
    let given = |flag: &str| arguments.iter().any(|argument| argument == flag);
    given("--bench") && !given("--test")
}
