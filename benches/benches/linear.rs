//! The linear layers of one transformer layer of GLM-Edge-1.5B, by weight format: decoding in weight bytes per second (to hold against the
//! machine's read bandwidth, which is printed first), prefill in operations per second.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use glm_benches::random;
use glm_kernels::{
    CpuOptions, Device, Tensor, Weight, WeightBuilder, WeightFormat, bandwidth, linear, quant,
};

/// `[out_features, in_features]` of qkv, o, gate_up and down.
const LAYER: [[usize; 2]; 4] = [[3072, 2048], [2048, 2048], [12_288, 2048], [2048, 6144]];

/// Decoding goes round this many bytes of layers, more than any cache holds.
const RING_BYTES: usize = 1 << 30;

const FORMATS: [WeightFormat; 5] = [
    WeightFormat::BF16,
    WeightFormat::Q8_0,
    WeightFormat::Q6K,
    WeightFormat::Q4K,
    WeightFormat::Q4_0,
];

/// A weight whose rows repeat 16 random ones: rounding 50 million numbers for each would take longer than the benchmark.
fn weight(device: &Device, format: WeightFormat, [rows, cols]: [usize; 2]) -> Weight {
    let mut bytes = vec![0; 16 * format.row_bytes(cols).expect("whole blocks")];
    quant::quantize(format, &random(16 * cols, 1), &mut bytes).expect("whole blocks");
    let mut builder = WeightBuilder::new(device, cols);
    builder
        .push_rows(format, rows, &bytes.repeat(rows / 16))
        .expect("whole blocks");
    builder.finish().expect("not empty")
}

fn layer(device: &Device, format: WeightFormat) -> Vec<Weight> {
    LAYER
        .iter()
        .map(|shape| weight(device, format, *shape))
        .collect()
}

fn byte_len(layer: &[Weight]) -> usize {
    layer.iter().map(Weight::byte_len).sum()
}

/// Activations of the two widths that a layer's weights take.
fn activations(device: &Device, tokens: usize) -> [Tensor; 2] {
    [2048, 6144].map(|cols| {
        Tensor::from_f32(device, &random(tokens * cols, 2), &[tokens, cols]).expect("fits")
    })
}

fn run_layer(layer: &[Weight], [narrow, wide]: &[Tensor; 2]) {
    for weight in layer {
        let x = if weight.in_features() == 2048 {
            narrow
        } else {
            wide
        };
        std::hint::black_box(linear(x, weight, None).expect("shapes fit"));
    }
}

fn decode(c: &mut Criterion) {
    let device = Device::cpu(CpuOptions::default()).expect("a CPU device");
    let limit = bandwidth(&device).expect("memory for the measurement");
    println!(
        "{}: read bandwidth {:.2} GiB/s",
        device.name(),
        limit * 1e9 / (1u64 << 30) as f64
    );
    let mut group = c.benchmark_group("linear/decode");
    group.sample_size(20);
    for format in FORMATS {
        let first = layer(&device, format);
        let count = RING_BYTES.div_ceil(byte_len(&first));
        group.throughput(Throughput::Bytes(byte_len(&first) as u64));
        let ring: Vec<_> = std::iter::once(first)
            .chain((1..count).map(|_| layer(&device, format)))
            .collect();
        let x = activations(&device, 1);
        let mut next = 0;
        group.bench_function(BenchmarkId::from_parameter(format), |b| {
            b.iter(|| {
                run_layer(&ring[next % ring.len()], &x);
                next += 1;
            });
        });
    }
    group.finish();
}

fn prefill(c: &mut Criterion) {
    let device = Device::cpu(CpuOptions::default()).expect("a CPU device");
    let mut group = c.benchmark_group("linear/prefill");
    group.sample_size(10);
    let values: usize = LAYER.iter().map(|[rows, cols]| rows * cols).sum();
    for format in FORMATS {
        let layer = layer(&device, format);
        for tokens in [8, 128, 512] {
            // Two operations, a multiplication and an addition, per value and token.
            group.throughput(Throughput::Elements((2 * values * tokens) as u64));
            let x = activations(&device, tokens);
            group.bench_with_input(BenchmarkId::new(format.name(), tokens), &x, |b, x| {
                b.iter(|| run_layer(&layer, x));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, decode, prefill);
criterion_main!(benches);
