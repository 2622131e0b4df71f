//! What it costs to hand work to the threads and wait for them. A decode step of a 40-layer model does this some 300 times, so
//! 10 µs here are 3 ms per token there.

use criterion::{Criterion, criterion_group, criterion_main};
use glm_kernels::{CpuOptions, Device};
use std::hint::black_box;

fn regions(c: &mut Criterion) {
    let device = Device::cpu(CpuOptions::default()).expect("a CPU device");
    let pool = device.pool();
    let mut group = c.benchmark_group(format!("parallel_region/{}_threads", pool.num_threads()));
    group.bench_function("empty", |b| {
        b.iter(|| {
            pool.for_each(pool.num_threads(), |task| {
                black_box(task);
            })
        });
    });
    group.bench_function("64_tasks", |b| {
        b.iter(|| {
            pool.for_each(64, |task| {
                black_box(task);
            })
        });
    });
    group.finish();
}

criterion_group!(benches, regions);
criterion_main!(benches);
