//! Paged attention at the shapes of real layers: decoding in bytes of keys and values read per second, prefill in tokens.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use glm_benches::{GLM_4_9B, GLM_EDGE_1_5B, LayerShape, random};
use glm_kernels::{
    AttnBatch, AttnDims, CpuOptions, Device, KvDType, KvLayer, Pairing, RopeAngles, Tensor,
    paged_attention, rope_store_kv,
};

const BLOCK_SIZE: usize = 16;

/// Sequences of the same length whose keys and values are stored, with the queries of their last positions.
struct Sequences {
    dims: AttnDims,
    kv: KvLayer,
    queries: Tensor,
    query_start: Vec<u32>,
    context_lens: Vec<u32>,
    block_tables: Vec<u32>,
    blocks: usize,
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
        Self {
            dims,
            kv,
            queries: Tensor::from_f32(device, &random(rows * width, 3), &[rows, width])
                .expect("fits"),
            query_start: (0..=count)
                .map(|sequence| (sequence * queries) as u32)
                .collect(),
            context_lens: vec![context as u32; count],
            block_tables: (0..(count * blocks) as u32).collect(),
            blocks,
        }
    }

    fn attend(&self) -> Tensor {
        let batch = AttnBatch {
            query_start: &self.query_start,
            context_lens: &self.context_lens,
            block_tables: &self.block_tables,
            max_blocks_per_seq: self.blocks,
        };
        let scale = (self.dims.head_dim as f32).sqrt().recip();
        paged_attention(&self.queries, &self.kv, &batch, self.dims, scale).expect("shapes fit")
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
    let inv_freq = vec![1e-3; dims.head_dim / 4];
    let angles =
        RopeAngles::new(device, &inv_freq, &positions, 1.0, Pairing::Interleaved).expect("fits");
    let seed = u64::from(first_slot) + 7;
    let qkv =
        Tensor::from_f32(device, &random(context * width, seed), &[context, width]).expect("fits");
    rope_store_kv(&qkv, dims, &angles, &slots, kv).expect("shapes fit");
}

fn decode(c: &mut Criterion) {
    let device = Device::cpu(CpuOptions::default()).expect("a CPU device");
    let mut group = c.benchmark_group("attention_decode");
    for shape in [GLM_4_9B, GLM_EDGE_1_5B] {
        for (count, context) in [(1, 512), (1, 4096), (8, 1024)] {
            let sequences = Sequences::new(&device, shape, KvDType::F16, count, context, 1);
            let per_token = KvDType::F16.bytes_per_token(shape.num_kv_heads, shape.head_dim);
            group.throughput(Throughput::Bytes((count * context * per_token) as u64));
            let id = BenchmarkId::new(shape.name, format!("{count}x{context}"));
            group.bench_function(id, |b| b.iter(|| sequences.attend()));
        }
    }
    group.finish();
}

fn prefill(c: &mut Criterion) {
    let device = Device::cpu(CpuOptions::default()).expect("a CPU device");
    let mut group = c.benchmark_group("attention_prefill");
    group.sample_size(20);
    for tokens in [128, 512] {
        let sequences = Sequences::new(&device, GLM_4_9B, KvDType::F16, 1, tokens, tokens);
        group.throughput(Throughput::Elements(tokens as u64));
        group.bench_function(BenchmarkId::new(GLM_4_9B.name, tokens), |b| {
            b.iter(|| sequences.attend())
        });
    }
    group.finish();
}

criterion_group!(benches, decode, prefill);
criterion_main!(benches);
