//! One whole transformer layer of GLM-Edge-1.5B, as `layers/` of the runtime strings it together: what a model of 28 of them costs
//! before the output head.

mod common;

use std::hint::black_box;

use common::{Machine, Work, is_measuring, random_weight};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use glm_benches::{GLM_EDGE_1_5B, LayerShape, random};
use glm_kernels::{
    AttnBatch, AttnDims, Device, Indices, KernelError, KvDType, KvLayer, Pairing, RopeAngles,
    Tensor, Weight, WeightFormat, add, add_rms_norm, gated_mlp, linear, paged_attention, rms_norm,
    rope_store_kv,
};

const SHAPE: LayerShape = GLM_EDGE_1_5B;
const BLOCK_SIZE: usize = 16;

/// A layer and the last `tokens` positions of a context that it computes.
struct Layer {
    norm: Tensor,
    /// qkv, o, gate and up, down.
    weights: [Weight; 4],
    dims: AttnDims,
    angles: RopeAngles,
    kv: KvLayer,
    slots: Indices,
    batch: AttnBatch,
}

impl Layer {
    fn new(device: &Device, format: WeightFormat, context: usize, tokens: usize) -> Self {
        let dims = AttnDims {
            num_heads: SHAPE.num_heads,
            num_kv_heads: SHAPE.num_kv_heads,
            head_dim: SHAPE.head_dim,
        };
        let positions: Vec<u32> = ((context - tokens) as u32..context as u32).collect();
        let inv_freq: Vec<f32> = (0..dims.head_dim / 2)
            .map(|i| 10_000f32.powf(-2.0 * i as f32 / dims.head_dim as f32))
            .collect();
        let inv_freq = Tensor::from_f32(device, &inv_freq, &[inv_freq.len()]).expect("fits");
        let slots = positions.into();
        let blocks = context.div_ceil(BLOCK_SIZE);
        Self {
            norm: Tensor::from_f32(device, &vec![1.0; SHAPE.hidden_size], &[SHAPE.hidden_size])
                .expect("fits"),
            weights: SHAPE
                .linear_layers()
                .map(|shape| random_weight(device, format, shape)),
            dims,
            angles: RopeAngles::new(&inv_freq, &slots, 1.0, Pairing::Interleaved).expect("fits"),
            kv: KvLayer::new(
                device,
                KvDType::F16,
                blocks,
                BLOCK_SIZE,
                dims.num_kv_heads,
                dims.head_dim,
            )
            .expect("fits"),
            batch: AttnBatch {
                query_start: [0, slots.len() as u32].into(),
                context_lens: [context as u32].into(),
                block_tables: (0..blocks as u32).collect::<Vec<_>>().into(),
                max_blocks_per_seq: blocks,
            },
            slots,
        }
    }

    fn forward(&mut self, x: &mut Tensor) -> Result<(), KernelError> {
        let [qkv, o, gate_up, down] = &self.weights;
        let normed = rms_norm(x, &self.norm, 1e-5)?;
        let qkv = linear(&normed, qkv, None)?;
        let q = rope_store_kv(&qkv, self.dims, &self.angles, &self.slots, &mut self.kv)?;
        let scale = (self.dims.head_dim as f32).sqrt().recip();
        let attended = paged_attention(&q, &self.kv, &self.batch, self.dims, scale)?;
        let normed = add_rms_norm(x, &linear(&attended, o, None)?, &self.norm, 1e-5)?;
        add(x, &gated_mlp(&normed, gate_up, down)?)
    }
}

fn layers(c: &mut Criterion) {
    let machine = Machine::new();
    let mut group = c.benchmark_group("layer");
    group.sample_size(20);
    let cases: &[(usize, usize)] = if is_measuring() {
        &[(64, 1), (4096, 1), (512, 512), (4608, 512)]
    } else {
        &[(40, 1), (40, 20)]
    };
    for format in [WeightFormat::Q8_0, WeightFormat::Q4K, WeightFormat::BF16] {
        for &(context, tokens) in cases {
            let mut layer = Layer::new(&machine.device, format, context, tokens);
            let weights: usize = layer.weights.iter().map(Weight::byte_len).sum();
            let values: usize = SHAPE.linear_layers().iter().map(|[r, c]| r * c).sum();
            let kv = KvDType::F16.bytes_per_token(SHAPE.num_kv_heads, SHAPE.head_dim);
            let work = match (tokens, format) {
                (1, _) => Work::Bytes(weights + context * kv),
                (_, WeightFormat::BF16) => Work::Bf16(2 * values * tokens),
                _ => Work::Int8(2 * values * tokens),
            };
            let start = random(tokens * SHAPE.hidden_size, 3);
            let shape = [tokens, SHAPE.hidden_size];
            let name = format!("{format}/{tokens}_tokens");
            machine.bench(&mut group, BenchmarkId::new(name, context), work, || {
                let mut x = Tensor::from_f32(&machine.device, &start, &shape).expect("fits");
                layer.forward(&mut x).expect("shapes fit");
                black_box(&x);
            });
        }
    }
}

criterion_group!(benches, layers);
criterion_main!(benches);
