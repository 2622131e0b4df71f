//! Rounding weights to the formats of GGML, on one thread: what in-situ quantisation and `glm-cli quantize` spend their time on.

mod common;

use std::hint::black_box;

use common::is_measuring;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use glm_benches::random;
use glm_kernels::{WeightFormat, quant};

fn formats() -> impl Iterator<Item = WeightFormat> {
    WeightFormat::ALL
        .into_iter()
        .filter(|&format| quant::can_quantize(format))
}

fn quantize(c: &mut Criterion) {
    let values = random(if is_measuring() { 1 << 18 } else { 256 }, 1);
    let mut group = c.benchmark_group("quantize");
    group.sample_size(20);
    group.throughput(Throughput::Elements(values.len() as u64));
    for format in formats() {
        let mut bytes = vec![0; format.row_bytes(values.len()).expect("whole blocks")];
        group.bench_function(BenchmarkId::from_parameter(format), |b| {
            b.iter(|| {
                quant::quantize(format, &values, &mut bytes).expect("whole blocks");
                black_box(&bytes);
            });
        });
    }
}

fn dequantize(c: &mut Criterion) {
    let values = random(if is_measuring() { 1 << 18 } else { 256 }, 1);
    let mut group = c.benchmark_group("dequantize");
    group.throughput(Throughput::Elements(values.len() as u64));
    for format in formats() {
        let mut bytes = vec![0; format.row_bytes(values.len()).expect("whole blocks")];
        quant::quantize(format, &values, &mut bytes).expect("whole blocks");
        let mut out = vec![0.0; values.len()];
        group.bench_function(BenchmarkId::from_parameter(format), |b| {
            b.iter(|| {
                quant::dequantize(format, &bytes, &mut out).expect("whole blocks");
                black_box(&out);
            });
        });
    }
}

criterion_group!(benches, quantize, dequantize);
criterion_main!(benches);
