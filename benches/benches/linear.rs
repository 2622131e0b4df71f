//! The linear layers of one transformer layer of GLM-Edge-1.5B, by weight format: decoding in weight bytes per second, batches and
//! prefill in operations per second, each as a share of what the machine can do.

mod common;

use std::hint::black_box;

use common::{Machine, Work, is_measuring, random_weight};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use glm_benches::{GLM_EDGE_1_5B, random};
use glm_kernels::{Device, Tensor, Weight, WeightFormat, linear};

/// Decoding goes round this many bytes of layers, more than any cache holds.
const RING_BYTES: usize = 1 << 30;

const FORMATS: [WeightFormat; 7] = [
    WeightFormat::F32,
    WeightFormat::BF16,
    WeightFormat::F16,
    WeightFormat::Q8_0,
    WeightFormat::Q6K,
    WeightFormat::Q4K,
    WeightFormat::Q4_0,
];

fn layer(device: &Device, format: WeightFormat) -> Vec<Weight> {
    GLM_EDGE_1_5B
        .linear_layers()
        .map(|shape| random_weight(device, format, shape))
        .into()
}

fn byte_len(layer: &[Weight]) -> usize {
    layer.iter().map(Weight::byte_len).sum()
}

/// Activations of the two widths that a layer's weights take.
fn activations(device: &Device, tokens: usize) -> [Tensor; 2] {
    [GLM_EDGE_1_5B.hidden_size, GLM_EDGE_1_5B.intermediate_size].map(|cols| {
        Tensor::from_f32(device, &random(tokens * cols, 2), &[tokens, cols]).expect("fits")
    })
}

fn run_layer(layer: &[Weight], [narrow, wide]: &[Tensor; 2]) {
    for weight in layer {
        let fits = weight.in_features() == GLM_EDGE_1_5B.hidden_size;
        let x = if fits { narrow } else { wide };
        black_box(linear(x, weight, None).expect("shapes fit"));
    }
}

fn decode(c: &mut Criterion) {
    let machine = Machine::new();
    let mut group = c.benchmark_group("linear/decode");
    group.sample_size(20);
    for format in FORMATS {
        let first = layer(&machine.device, format);
        let bytes = byte_len(&first);
        let count = if is_measuring() {
            RING_BYTES.div_ceil(bytes)
        } else {
            1
        };
        let ring: Vec<_> = std::iter::once(first)
            .chain((1..count).map(|_| layer(&machine.device, format)))
            .collect();
        let x = activations(&machine.device, 1);
        let mut next = 0;
        let id = BenchmarkId::from_parameter(format);
        machine.bench(&mut group, id, Work::Bytes(bytes), || {
            run_layer(&ring[next % ring.len()], &x);
            next += 1;
        });
    }
}

fn prefill(c: &mut Criterion) {
    let machine = Machine::new();
    let mut group = c.benchmark_group("linear/prefill");
    group.sample_size(10);
    let values: usize = GLM_EDGE_1_5B
        .linear_layers()
        .iter()
        .map(|[rows, cols]| rows * cols)
        .sum();
    let batches: &[usize] = if is_measuring() {
        &[4, 8, 16, 128, 512]
    } else {
        &[8]
    };
    for format in FORMATS {
        let layer = layer(&machine.device, format);
        for &tokens in batches {
            let x = activations(&machine.device, tokens);
            let operations = 2 * values * tokens;
            let work = match format {
                WeightFormat::F32 | WeightFormat::F16 => Work::F32(operations),
                WeightFormat::BF16 => Work::Bf16(operations),
                _ => Work::Int8(operations),
            };
            let id = BenchmarkId::new(format.name(), tokens);
            machine.bench(&mut group, id, work, || run_layer(&layer, &x));
        }
    }
}

criterion_group!(benches, decode, prefill);
criterion_main!(benches);
