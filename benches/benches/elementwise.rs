//! The operations of a layer that compute little: norms, rotary embedding with the store into the KV cache, the gate of the
//! MLP, and rows of an embedding table. Few rows stay in the cache, 512 of them do not.

mod common;

use std::hint::black_box;

use common::{Machine, Work, random_weight};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use glm_benches::{GLM_4_9B, random};
use glm_kernels::{
    AttnDims, Device, Indices, KvDType, KvLayer, Pairing, RopeAngles, Tensor, WeightFormat,
    add_rms_norm, embed, rms_norm, rope_store_kv, swiglu,
};

const ROWS: [usize; 3] = [1, 8, 512];
const BLOCK_SIZE: usize = 16;
const F32: usize = size_of::<f32>();

fn matrix(device: &Device, rows: usize, columns: usize) -> Tensor {
    Tensor::from_f32(device, &random(rows * columns, 2), &[rows, columns]).expect("fits")
}

fn norms(c: &mut Criterion) {
    let machine = Machine::new();
    let device = &machine.device;
    let width = GLM_4_9B.hidden_size;
    let weight = Tensor::from_f32(device, &random(width, 1), &[width]).expect("fits");
    let mut group = c.benchmark_group("rms_norm");
    for rows in ROWS {
        let x = matrix(device, rows, width);
        let bytes = rows * width * F32;
        let id = BenchmarkId::new("plain", rows);
        machine.bench(&mut group, id, Work::Bytes(2 * bytes), || {
            black_box(rms_norm(&x, &weight, 1e-5).expect("shapes fit"));
        });
        let mut residual = Tensor::zeros(device, x.dtype(), x.shape()).expect("fits");
        let id = BenchmarkId::new("with_residual", rows);
        machine.bench(&mut group, id, Work::Bytes(4 * bytes), || {
            black_box(add_rms_norm(&mut residual, &x, &weight, 1e-5).expect("shapes fit"));
        });
    }
}

fn gates(c: &mut Criterion) {
    let machine = Machine::new();
    let width = GLM_4_9B.intermediate_size;
    let mut group = c.benchmark_group("swiglu");
    for rows in ROWS {
        let x = matrix(&machine.device, rows, 2 * width);
        let id = BenchmarkId::from_parameter(rows);
        machine.bench(&mut group, id, Work::Bytes(3 * rows * width * F32), || {
            black_box(swiglu(&x).expect("shapes fit"));
        });
    }
}

fn rope(c: &mut Criterion) {
    let machine = Machine::new();
    let device = &machine.device;
    let dims = AttnDims {
        num_heads: GLM_4_9B.num_heads,
        num_kv_heads: GLM_4_9B.num_kv_heads,
        head_dim: GLM_4_9B.head_dim,
    };
    let width = (dims.num_heads + 2 * dims.num_kv_heads) * dims.head_dim;
    // Half of each head is rotated, in pairs.
    let inv_freq: Vec<f32> = (0..dims.head_dim / 4)
        .map(|i| 10_000f32.powf(-(i as f32) / 32.0))
        .collect();
    let inv_freq = Tensor::from_f32(device, &inv_freq, &[inv_freq.len()]).expect("fits");
    let mut group = c.benchmark_group("rope_store_kv");
    for rows in ROWS {
        let qkv = matrix(device, rows, width);
        let positions: Indices = (0..rows as u32).collect::<Vec<_>>().into();
        let angles =
            RopeAngles::new(&inv_freq, &positions, 1.0, Pairing::Interleaved).expect("fits");
        let blocks = rows.div_ceil(BLOCK_SIZE);
        let (heads, head_dim) = (dims.num_kv_heads, dims.head_dim);
        let mut kv =
            KvLayer::new(device, KvDType::F16, blocks, BLOCK_SIZE, heads, head_dim).expect("fits");
        let stored = KvDType::F16.bytes_per_token(heads, head_dim);
        let bytes = rows * ((width + dims.num_heads * head_dim) * F32 + stored);
        let id = BenchmarkId::from_parameter(rows);
        machine.bench(&mut group, id, Work::Bytes(bytes), || {
            black_box(rope_store_kv(&qkv, dims, &angles, &positions, &mut kv).expect("shapes fit"));
        });
    }
}

fn embeddings(c: &mut Criterion) {
    const VOCAB_SIZE: usize = 4096;
    let machine = Machine::new();
    let width = GLM_4_9B.hidden_size;
    let mut group = c.benchmark_group("embed");
    for format in [WeightFormat::BF16, WeightFormat::Q8_0, WeightFormat::Q4K] {
        let table = random_weight(&machine.device, format, [VOCAB_SIZE, width]);
        let row = table.byte_len() / VOCAB_SIZE + width * F32;
        for rows in ROWS {
            // Spread over the table, as a text's tokens are.
            let ids: Vec<u32> = (0..rows).map(|i| (i * 997 % VOCAB_SIZE) as u32).collect();
            let ids: Indices = ids.into();
            let id = BenchmarkId::new(format.name(), rows);
            machine.bench(&mut group, id, Work::Bytes(rows * row), || {
                black_box(embed(&table, &ids).expect("ids of the table"));
            });
        }
    }
}

criterion_group!(benches, norms, gates, rope, embeddings);
criterion_main!(benches);
