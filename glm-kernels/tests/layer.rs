//! A decoder layer from the public operations alone: what a model does at every step.

use glm_kernels::{
    AttnBatch, AttnDims, CpuOptions, Device, Isa, KernelError, KvDType, KvLayer, Pairing,
    RopeAngles, Tensor, Weight, WeightBuilder, WeightFormat, add, add_rms_norm, embed, gated_mlp,
    gather_rows, linear, paged_attention, rms_norm, rope_store_kv,
};

const VOCAB: usize = 50;
const HIDDEN: usize = 256;
const INTERMEDIATE: usize = 512;
const DIMS: AttnDims = AttnDims {
    num_heads: 8,
    num_kv_heads: 2,
    head_dim: 32,
};
const BLOCK_SIZE: usize = 16;

struct Layer {
    device: Device,
    embed: Weight,
    qkv: Weight,
    o: Weight,
    gate_up: Weight,
    down: Weight,
    norm: Tensor,
}

fn weight(
    device: &Device,
    rows: usize,
    columns: usize,
    seed: usize,
) -> Result<Weight, KernelError> {
    // The fractional parts of the multiples of the golden ratio: spread evenly, without a generator.
    let value = |i: usize| (((i + seed) as f64 * 0.618_033_988_749_895).fract() - 0.5) as f32 * 0.2;
    let values: Vec<f32> = (0..rows * columns).map(value).collect();
    let mut builder = WeightBuilder::new(device, columns);
    builder.push_rows_quantized(WeightFormat::Q8_0, rows, &values)?;
    builder.finish()
}

impl Layer {
    fn new(device: &Device) -> Result<Self, KernelError> {
        let qkv = (DIMS.num_heads + 2 * DIMS.num_kv_heads) * DIMS.head_dim;
        Ok(Self {
            device: device.clone(),
            embed: weight(device, VOCAB, HIDDEN, 1)?,
            qkv: weight(device, qkv, HIDDEN, 2)?,
            o: weight(device, HIDDEN, DIMS.num_heads * DIMS.head_dim, 3)?,
            gate_up: weight(device, 2 * INTERMEDIATE, HIDDEN, 4)?,
            down: weight(device, HIDDEN, INTERMEDIATE, 5)?,
            norm: Tensor::from_f32(device, &[1.0; HIDDEN], &[HIDDEN])?,
        })
    }

    /// Logits of the last of `ids`, which follow `past` stored positions; block ids count from 0.
    fn step(&self, ids: &[u32], past: usize, kv: &mut KvLayer) -> Result<Vec<f32>, KernelError> {
        let positions: Vec<u32> = (past..past + ids.len())
            .map(|position| position as u32)
            .collect();
        let block_table: Vec<u32> = (0..kv.num_blocks() as u32).collect();
        let batch = AttnBatch {
            query_start: [0, ids.len() as u32].into(),
            context_lens: [(past + ids.len()) as u32].into(),
            block_tables: block_table.into(),
            max_blocks_per_seq: kv.num_blocks(),
        };
        let inv_freq: Vec<f32> = (0..8).map(|i| 10_000f32.powf(-(i as f32) / 8.0)).collect();
        let inv_freq = Tensor::from_f32(&self.device, &inv_freq, &[8])?;
        let positions = positions.into();
        let angles = RopeAngles::new(&inv_freq, &positions, 1.0, Pairing::Interleaved)?;

        let mut x = embed(&self.embed, &ids.into())?;
        let qkv = linear(&rms_norm(&x, &self.norm, 1e-5)?, &self.qkv, None)?;
        let q = rope_store_kv(&qkv, DIMS, &angles, &positions, kv)?;
        let scale = (DIMS.head_dim as f32).sqrt().recip();
        let attn = linear(
            &paged_attention(&q, kv, &batch, DIMS, scale)?,
            &self.o,
            None,
        )?;
        let normed = add_rms_norm(&mut x, &attn, &self.norm, 1e-5)?;
        add(&mut x, &gated_mlp(&normed, &self.gate_up, &self.down)?)?;
        let last = gather_rows(&x, &[ids.len() as u32 - 1].into())?;
        linear(&last, &self.embed, None)?.to_f32_vec()
    }
}

fn kv(device: &Device) -> Result<KvLayer, KernelError> {
    KvLayer::new(
        device,
        KvDType::F16,
        8,
        BLOCK_SIZE,
        DIMS.num_kv_heads,
        DIMS.head_dim,
    )
}

fn ids(count: usize) -> Vec<u32> {
    (0..count).map(|i| (i * 7 % VOCAB) as u32).collect()
}

fn device(threads: usize) -> Result<Device, KernelError> {
    Device::cpu(CpuOptions {
        threads: Some(threads),
        isa: None,
    })
}

#[test]
fn steps_that_repeat_take_no_new_memory() -> Result<(), KernelError> {
    let device = device(2)?;
    let (layer, mut kv) = (Layer::new(&device)?, kv(&device)?);
    let mut run = || {
        let prefill = layer.step(&ids(70), 0, &mut kv)?;
        Ok::<_, KernelError>((prefill, layer.step(&[3], 70, &mut kv)?))
    };
    let first = run()?;
    let before = device.allocator_stats();
    assert_eq!(run()?, first);
    assert_eq!(device.allocator_stats(), before);
    Ok(())
}

#[test]
fn the_number_of_threads_changes_no_bit() -> Result<(), KernelError> {
    let run = |threads| {
        let device = device(threads)?;
        Layer::new(&device)?.step(&ids(100), 0, &mut kv(&device)?)
    };
    let want = run(1)?;
    assert!(want.iter().all(|x| x.is_finite()) && want.iter().any(|x| *x != 0.0));
    for threads in [2, 3, 5] {
        assert_eq!(run(threads)?, want, "{threads} threads");
    }
    Ok(())
}

#[test]
fn every_instruction_set_gives_the_same_logits_but_for_rounding() -> Result<(), KernelError> {
    let run = |isa| {
        let device = Device::cpu(CpuOptions {
            threads: Some(2),
            isa: Some(isa),
        })?;
        Layer::new(&device)?.step(&ids(40), 0, &mut kv(&device)?)
    };
    let want = run(Isa::Scalar)?;
    let largest = want.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    for isa in Isa::available() {
        println!("covered: {isa}");
        for (got, want) in run(isa)?.iter().zip(&want) {
            // Activations are rounded to bytes for some weight formats, so a last bit may tip one.
            assert!(
                (got - want).abs() <= 5e-3 * largest,
                "{isa}: {got} for {want}"
            );
        }
    }
    Ok(())
}
