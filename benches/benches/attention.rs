//! Paged attention at the shapes of real layers: decoding in bytes of keys and values read per second, prefill in operations per second, each as
//! a share of what the machine can do. With a matrix unit that is its bf16 peak, of which f16 and f32 can reach a third: they take three products.

mod common;

use std::hint::black_box;

use common::{Machine, Work};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use glm_benches::{GLM_4_9B, GLM_EDGE_1_5B, LayerShape, random};
use glm_kernels::{
    AttnBatch, AttnDims, Device, KvDType, KvLayer, Pairing, RopeAngles, Tensor, paged_attention,
    rope_store_kv,
};

const BLOCK_SIZE: usize = 16;

/// Sequences of the same length whose keys and values are stored, with the queries of their last positions.
struct Sequences {
    dims: AttnDims,
    kv: KvLayer,
    queries: Tensor,
    batch: AttnBatch,
}

impl Sequences {
    fn new(
        device: &Device,
        shape: LayerShape,
        dtype: KvDType,
        count: usize,
        context: usize,
        queries: usize,
    ) -> Self {
        let dims = AttnDims {
            num_heads: shape.num_heads,
            num_kv_heads: shape.num_kv_heads,
            head_dim: shape.head_dim,
        };
        let blocks = context.div_ceil(BLOCK_SIZE);
        let mut kv = KvLayer::new(
            device,
            dtype,
            count * blocks,
            BLOCK_SIZE,
            dims.num_kv_heads,
            dims.head_dim,
        )
        .expect("the cache fits");
        for sequence in 0..count {
            store(
                device,
                dims,
                &mut kv,
                (sequence * blocks * BLOCK_SIZE) as u32,
                context,
            );
        }
        let width = dims.num_heads * dims.head_dim;
        let rows = count * queries;
        let query_start = (0..=count).map(|sequence| (sequence * queries) as u32);
        Self {
            dims,
            kv,
            queries: Tensor::from_f32(device, &random(rows * width, 3), &[rows, width])
                .expect("fits"),
            batch: AttnBatch {
                query_start: query_start.collect::<Vec<_>>().into(),
                context_lens: vec![context as u32; count].into(),
                block_tables: (0..(count * blocks) as u32).collect::<Vec<_>>().into(),
                max_blocks_per_seq: blocks,
            },
        }
    }

    fn attend(&self) -> Tensor {
        let scale = (self.dims.head_dim as f32).sqrt().recip();
        paged_attention(&self.queries, &self.kv, &self.batch, self.dims, scale).expect("shapes fit")
    }
}

/// Fills `context` consecutive slots with random keys and values.
fn store(device: &Device, dims: AttnDims, kv: &mut KvLayer, first_slot: u32, context: usize) {
    let width = (dims.num_heads + 2 * dims.num_kv_heads) * dims.head_dim;
    let positions: Vec<u32> = (0..context as u32).collect();
    let slots: Vec<u32> = positions
        .iter()
        .map(|position| first_slot + position)
        .collect();
    let pairs = dims.head_dim / 4;
    let inv_freq = Tensor::from_f32(device, &vec![1e-3; pairs], &[pairs]).expect("fits");
    let angles =
        RopeAngles::new(&inv_freq, &positions.into(), 1.0, Pairing::Interleaved).expect("fits");
    let seed = u64::from(first_slot) + 7;
    let qkv =
        Tensor::from_f32(device, &random(context * width, seed), &[context, width]).expect("fits");
    rope_store_kv(&qkv, dims, &angles, &slots.into(), kv).expect("shapes fit");
}

fn decode(c: &mut Criterion) {
    let machine = Machine::new();
    let mut group = c.benchmark_group("attention_decode");
    for (shape, dtype, count, context) in [
        (GLM_4_9B, KvDType::F16, 1, 4096),
        (GLM_4_9B, KvDType::F16, 8, 1024),
        (GLM_EDGE_1_5B, KvDType::F16, 1, 512),
        (GLM_EDGE_1_5B, KvDType::F16, 1, 4096),
        (GLM_EDGE_1_5B, KvDType::F16, 8, 4096),
        (GLM_EDGE_1_5B, KvDType::BF16, 8, 4096),
        (GLM_EDGE_1_5B, KvDType::Q8_0, 8, 4096),
    ] {
        let sequences = Sequences::new(&machine.device, shape, dtype, count, context, 1);
        let per_token = dtype.bytes_per_token(shape.num_kv_heads, shape.head_dim);
        let id = BenchmarkId::new(shape.name, format!("{dtype}/{count}x{context}"));
        let work = Work::Bytes(count * context * per_token);
        machine.bench(&mut group, id, work, || {
            black_box(sequences.attend());
        });
    }
    group.finish();
}

fn prefill(c: &mut Criterion) {
    let machine = Machine::new();
    let mut group = c.benchmark_group("attention_prefill");
    group.sample_size(20);
    for (shape, dtype, tokens, before) in [
        (GLM_4_9B, KvDType::F16, 512, 0),
        (GLM_EDGE_1_5B, KvDType::F16, 512, 0),
        (GLM_EDGE_1_5B, KvDType::F16, 512, 4096),
        (GLM_EDGE_1_5B, KvDType::Q8_0, 512, 4096),
    ] {
        let sequences = Sequences::new(&machine.device, shape, dtype, 1, before + tokens, tokens);
        // Every element of a head and every key that a query sees are multiplied twice: for the score and for the sum.
        let seen = tokens * before + tokens * (tokens + 1) / 2;
        let operations = 2 * 2 * shape.num_heads * shape.head_dim * seen;
        let work = if machine.device.isa().name() == "amx" {
            Work::Bf16(operations)
        } else {
            Work::F32(operations)
        };
        let id = BenchmarkId::new(shape.name, format!("{dtype}/{tokens}after{before}"));
        machine.bench(&mut group, id, work, || {
            black_box(sequences.attend());
        });
    }
    group.finish();
}

criterion_group!(benches, decode, prefill);
criterion_main!(benches);
