//! RMSNorm, alone and with the residual addition, in bytes read and written per second.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use glm_benches::{GLM_4_9B, random};
use glm_kernels::{CpuOptions, Device, Tensor, add_rms_norm, rms_norm};

fn norms(c: &mut Criterion) {
    let device = Device::cpu(CpuOptions::default()).expect("a CPU device");
    let width = GLM_4_9B.hidden_size;
    let weight = Tensor::from_f32(&device, &random(width, 1), &[width]).expect("fits");
    let mut group = c.benchmark_group("rms_norm");
    for rows in [1, 8, 512] {
        let x = Tensor::from_f32(&device, &random(rows * width, 2), &[rows, width]).expect("fits");
        let bytes = (rows * width * size_of::<f32>()) as u64;
        group.throughput(Throughput::Bytes(2 * bytes));
        group.bench_with_input(BenchmarkId::new("plain", rows), &x, |b, x| {
            b.iter(|| rms_norm(x, &weight, 1e-5).expect("shapes fit"));
        });
        let mut residual = Tensor::zeros(&device, x.dtype(), x.shape()).expect("fits");
        group.throughput(Throughput::Bytes(4 * bytes));
        group.bench_with_input(BenchmarkId::new("with_residual", rows), &x, |b, x| {
            b.iter(|| add_rms_norm(&mut residual, x, &weight, 1e-5).expect("shapes fit"));
        });
    }
    group.finish();
}

criterion_group!(benches, norms);
criterion_main!(benches);
