//! Each layer against candle-nn, which shares no code with ours.

use std::sync::Arc;

use candle_core::{D, Device as CandleDevice, Result, Tensor as Candle};
use glm_core::Projection;
use glm_kernels::{
    AttnDims, CpuOptions, Device, KvDType, KvLayer, Pairing, RopeAngles, Tensor, Weight,
    WeightBuilder, WeightFormat,
};

use super::*;
use crate::forward::ForwardBatch;
use crate::kv::{BLOCK_SIZE, BlockId};
use crate::load::mix;
use crate::lora::Site;
use crate::scheduler::ChunkTokens;

/// Tokens: two blocks and a bit.
const T: usize = 2 * BLOCK_SIZE + 5;
const C: usize = 48;
const F: usize = 80;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 16;
const ROTARY_DIM: usize = 8;

fn values(seed: u64, len: usize) -> Vec<f32> {
    (0..len as u64)
        .map(|i| (mix(seed << 32 | i) >> 40) as f32 / (1u64 << 23) as f32 - 1.0)
        .collect()
}

fn device() -> Device {
    Device::cpu(CpuOptions::default()).unwrap()
}

fn weight(device: &Device, seed: u64, rows: usize, columns: usize) -> (Weight, Candle) {
    let values = values(seed, rows * columns);
    let mut builder = WeightBuilder::new(device, columns);
    builder
        .push_rows_quantized(WeightFormat::F32, rows, &values)
        .unwrap();
    (
        builder.finish().unwrap(),
        Candle::from_vec(values, (rows, columns), &CandleDevice::Cpu).unwrap(),
    )
}

fn tensor(device: &Device, seed: u64, shape: &[usize]) -> (Tensor, Candle) {
    let values = values(seed, shape.iter().product());
    (
        Tensor::from_f32(device, &values, shape).unwrap(),
        Candle::from_vec(values, shape, &CandleDevice::Cpu).unwrap(),
    )
}

fn adapted(weight: Weight, bias: Option<Tensor>, projection: Projection) -> AdaptedLinear {
    AdaptedLinear {
        base: Linear {
            weight: Arc::new(weight),
            bias,
        },
        site: Site {
            layer: 0,
            projection,
        },
    }
}

fn assert_close(got: &Tensor, want: &Candle) {
    let want: Vec<f32> = want.flatten_all().unwrap().to_vec1().unwrap();
    let isa = got.device().isa().name();
    let got = got.as_f32().unwrap();
    assert_eq!(got.len(), want.len());
    let largest = want
        .iter()
        .fold(0.0f32, |largest, value| largest.max(value.abs()));
    // The matrix unit multiplies numbers of 16 bits of mantissa, which the exponentials of attention make a little more of.
    let tolerance = if isa == "amx" { 5e-5 } else { 1e-5 };
    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
        assert!(
            (got - want).abs() <= tolerance * largest,
            "[{i}] {got} for {want}"
        );
    }
}

#[test]
fn rms_norm_equals_candle() -> Result<()> {
    let device = device();
    let (x, candle_x) = tensor(&device, 1, &[T, C]);
    let (weight, candle_weight) = tensor(&device, 2, &[C]);
    let want = candle_nn::ops::rms_norm_slow(&candle_x, &candle_weight, 1e-5)?;
    assert_close(&RmsNorm { weight, eps: 1e-5 }.forward(&x).unwrap(), &want);
    Ok(())
}

#[test]
fn mlp_equals_candle() -> Result<()> {
    let device = device();
    let (x, candle_x) = tensor(&device, 1, &[T, C]);
    let (gate_up_proj, gate_up) = weight(&device, 2, 2 * F, C);
    let (down_proj, down) = weight(&device, 3, C, F);
    let halves = candle_x.matmul(&gate_up.t()?)?.chunk(2, D::Minus1)?;
    let want = (candle_nn::ops::silu(&halves[0])? * &halves[1])?.matmul(&down.t()?)?;
    assert_close(
        &Mlp {
            gate_up_proj: adapted(gate_up_proj, None, Projection::GateUp),
            down_proj: adapted(down_proj, None, Projection::Down),
        }
        .forward(&x, &ForwardBatch::default())
        .unwrap(),
        &want,
    );
    Ok(())
}

/// Dense attention over all tokens at once, heads repeated, in candle.
fn candle_attention(
    x: &Candle,
    qkv: &Candle,
    bias: &Candle,
    o: &Candle,
    inv_freq: &[f32],
) -> Result<Candle> {
    let qkv = x.matmul(&qkv.t()?)?.broadcast_add(bias)?;
    let heads = |start: usize, n: usize| -> Result<Candle> {
        qkv.narrow(1, start * HEAD_DIM, n * HEAD_DIM)?
            .reshape((T, n, HEAD_DIM))?
            .transpose(0, 1)?
            .unsqueeze(0)
    };
    let positions = Candle::arange(0f32, T as f32, x.device())?.unsqueeze(1)?;
    let angles = positions.matmul(&Candle::new(inv_freq, x.device())?.unsqueeze(0)?)?;
    let (cos, sin) = (angles.cos()?, angles.sin()?);
    let rotate = |h: Candle| -> Result<Candle> {
        let rotated =
            candle_nn::rotary_emb::rope_i(&h.narrow(3, 0, ROTARY_DIM)?.contiguous()?, &cos, &sin)?;
        Candle::cat(
            &[rotated, h.narrow(3, ROTARY_DIM, HEAD_DIM - ROTARY_DIM)?],
            3,
        )
    };
    let repeat = |h: Candle| -> Result<Candle> {
        let groups = HEADS / KV_HEADS;
        let shape = (1, KV_HEADS, groups, T, HEAD_DIM);
        h.unsqueeze(2)?
            .broadcast_as(shape)?
            .reshape((1, HEADS, T, HEAD_DIM))
    };
    let q = rotate(heads(0, HEADS)?)?.contiguous()?;
    let k = repeat(rotate(heads(HEADS, KV_HEADS)?)?)?.contiguous()?;
    let v = repeat(heads(HEADS + KV_HEADS, KV_HEADS)?)?.contiguous()?;
    let mask: Vec<f32> = (0..T * T)
        .map(|i| {
            if i % T > i / T {
                f32::NEG_INFINITY
            } else {
                0.0
            }
        })
        .collect();
    let scores = (q.matmul(&k.transpose(2, 3)?.contiguous()?)? / (HEAD_DIM as f64).sqrt())?;
    let scores = scores.broadcast_add(&Candle::from_vec(mask, (T, T), x.device())?)?;
    let out = candle_nn::ops::softmax_last_dim(&scores)?.matmul(&v)?;
    out.squeeze(0)?
        .transpose(0, 1)?
        .reshape((T, HEADS * HEAD_DIM))?
        .matmul(&o.t()?)
}

#[test]
fn attention_equals_candle_across_blocks_in_any_order() -> Result<()> {
    let device = device();
    let dims = AttnDims {
        num_heads: HEADS,
        num_kv_heads: KV_HEADS,
        head_dim: HEAD_DIM,
    };
    let (x, candle_x) = tensor(&device, 1, &[T, C]);
    let (qkv, candle_qkv) = weight(&device, 2, (HEADS + 2 * KV_HEADS) * HEAD_DIM, C);
    let (bias, candle_bias) = tensor(&device, 3, &[(HEADS + 2 * KV_HEADS) * HEAD_DIM]);
    let (o, candle_o) = weight(&device, 4, C, HEADS * HEAD_DIM);
    let inv_freq = [1.0, 0.1, 0.01, 0.001];
    let want = candle_attention(&candle_x, &candle_qkv, &candle_bias, &candle_o, &inv_freq)?;

    let attention = Attention {
        qkv_proj: adapted(qkv, Some(bias), Projection::Qkv),
        o_proj: adapted(o, None, Projection::Output),
        dims,
    };
    let chunk = ChunkTokens {
        start: 0,
        tokens: &[0; T],
        draft: &[],
        prompt_len: T,
        block_table: &[4, 0, 2].map(BlockId),
        samples: true,
    };
    let batch = ForwardBatch::new([chunk].into_iter());
    let mut kv = KvLayer::new(&device, KvDType::F32, 5, BLOCK_SIZE, KV_HEADS, HEAD_DIM).unwrap();
    let inv_freq = Tensor::from_f32(&device, &inv_freq, &[inv_freq.len()]).unwrap();
    let angles = RopeAngles::new(&inv_freq, &batch.positions, 1.0, Pairing::Interleaved).unwrap();
    assert_close(
        &attention.forward(&x, &angles, &batch, &mut kv).unwrap(),
        &want,
    );
    Ok(())
}
