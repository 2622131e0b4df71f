//! Rotary position embedding (arXiv:2104.09864, eq. 34) of queries and keys, and storing of keys
//! and values: what lies between the QKV projection and attention.

mod cuda;
mod reference;
mod simd;

use crate::simd::run;
use crate::{DType, Indices, Isa, KernelError, KvLayer, Tensor, Work};

const OP: &str = "rope_store_kv";

/// The head counts and the head size of an attention layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttnDims {
    /// Query heads, `H`.
    pub num_heads: usize,
    /// Key-value heads, `KVH`; divides `H`. Query head `h` attends to KV head `h / (H / KVH)`.
    pub num_kv_heads: usize,
    /// The size of a head, `D`.
    pub head_dim: usize,
}

impl AttnDims {
    /// Checks the dims in themselves and against the layer that holds the keys and values.
    pub(crate) fn check(&self, op: &'static str, kv: &KvLayer) -> Result<(), KernelError> {
        if self.num_kv_heads == 0
            || !self.num_heads.is_multiple_of(self.num_kv_heads)
            || self.num_heads == 0
        {
            return Err(KernelError::Value {
                op,
                name: "num_heads",
                found: self.num_heads,
                rule: "a multiple of num_kv_heads",
            });
        }
        // At most three times as many heads lie in a row of queries, keys and values.
        if crate::tensor::element_count(&[3, self.num_heads, self.head_dim]).is_err() {
            let dims = vec![self.num_heads, self.head_dim];
            return Err(KernelError::ShapeOverflow(dims));
        }
        let (expected, found) = (
            [kv.num_kv_heads(), kv.head_dim()],
            [self.num_kv_heads, self.head_dim],
        );
        if expected != found {
            return Err(KernelError::Shape {
                op,
                name: "dims",
                expected: expected.to_vec(),
                found: found.to_vec(),
            });
        }
        Ok(())
    }

    /// Query heads that share a KV head.
    pub(crate) fn group(&self) -> usize {
        self.num_heads / self.num_kv_heads
    }

    /// The length of a row of queries.
    pub(crate) fn q_len(&self) -> usize {
        self.num_heads * self.head_dim
    }

    /// The length of a row of queries, keys and values.
    fn qkv_len(&self) -> usize {
        (self.num_heads + 2 * self.num_kv_heads) * self.head_dim
    }
}

/// Which two elements of a head's rotary part are rotated together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairing {
    /// `(2i, 2i + 1)`: GLM, GPT-J.
    Interleaved,
    /// `(i, i + rotary_dim / 2)`: Llama, GPT-NeoX.
    HalfSplit,
}

/// Cosines and sines of the positions of a step's tokens: computed once, used by every layer. A
/// clone shares the memory.
#[derive(Debug, Clone)]
pub struct RopeAngles {
    /// `[2, T, pairs]`: cosines, then sines.
    table: Tensor,
    num_tokens: usize,
    pairs: usize,
    pairing: Pairing,
}

impl RopeAngles {
    /// The angles `positions[t] * inv_freq[i]`, in f32 as transformers computes them.
    ///
    /// - `inv_freq`: f32, one per pair, `rotary_dim / 2` of them; elements of a head beyond `rotary_dim`
    ///   are not rotated.
    /// - `scale`: multiplies cosines and sines; 1 but for YaRN's attention factor.
    ///
    /// # Errors
    /// [`KernelError::DType`] unless `inv_freq` is f32; [`KernelError::OutOfMemory`] or
    /// [`KernelError::ShapeOverflow`].
    pub fn new(
        inv_freq: &Tensor,
        positions: &Indices,
        scale: f32,
        pairing: Pairing,
    ) -> Result<Self, KernelError> {
        let (num_tokens, pairs) = (positions.len(), inv_freq.len());
        let device = inv_freq.device();
        if let Some(cuda) = device.as_cuda() {
            inv_freq.expect_dtype("RopeAngles::new", DType::F32)?;
            return Ok(Self {
                table: cuda::angles(cuda, inv_freq, positions, scale)?,
                num_tokens,
                pairs,
                pairing,
            });
        }
        let mut table = Tensor::empty(device, DType::F32, &[2, num_tokens, pairs])?;
        let inv_freq = inv_freq.as_f32()?;
        let (cos, sin) = table.as_f32_mut()?.split_at_mut(num_tokens * pairs);
        let cells = cos.iter_mut().zip(sin);
        let angles = positions
            .iter()
            .flat_map(|position| inv_freq.iter().map(|inv_freq| *position as f32 * inv_freq));
        for ((cos, sin), angle) in cells.zip(angles) {
            (*cos, *sin) = (angle.cos() * scale, angle.sin() * scale);
        }
        Ok(Self {
            table,
            num_tokens,
            pairs,
            pairing,
        })
    }

    /// The number of tokens, `T`.
    pub fn num_tokens(&self) -> usize {
        self.num_tokens
    }

    /// How many elements of a head are rotated.
    pub fn rotary_dim(&self) -> usize {
        2 * self.pairs
    }

    /// The angles, for the CPU.
    fn on_host(&self) -> Result<HostAngles<'_>, KernelError> {
        let (cos, sin) = self.table.as_f32()?.split_at(self.num_tokens * self.pairs);
        Ok(HostAngles {
            cos,
            sin,
            pairs: self.pairs,
            pairing: self.pairing,
        })
    }
}

/// [`RopeAngles`] that the CPU can read.
struct HostAngles<'a> {
    cos: &'a [f32],
    sin: &'a [f32],
    pairs: usize,
    pairing: Pairing,
}

impl HostAngles<'_> {
    /// Cosines and sines of one token.
    fn of_token(&self, token: usize) -> (&[f32], &[f32]) {
        let row = token * self.pairs..(token + 1) * self.pairs;
        (&self.cos[row.clone()], &self.sin[row])
    }

    fn rotate(&self, isa: Isa, token: usize, heads: &mut [f32], head_dim: usize) {
        let (cos, sin) = self.of_token(token);
        if let Err(kernel) = run(
            isa,
            simd::RotateHeads {
                pairing: self.pairing,
                heads,
                head_dim,
                cos,
                sin,
            },
        ) {
            for head in kernel.heads.chunks_exact_mut(head_dim) {
                reference::rotate(self.pairing, head, cos, sin);
            }
        }
    }
}

/// Rotates queries and keys, stores keys and values, and returns the queries: `[T, H*D]`.
///
/// - `qkv`: `[T, (H + 2*KVH)*D]`: queries, keys, values.
/// - `slot_mapping`: `[T]`, where each token's key and value go; of two tokens with one slot the
///   later stays on the CPU, either elsewhere.
///
/// # Errors
/// [`KernelError::Shape`] or [`KernelError::Length`] if arguments do not fit each other,
/// [`KernelError::Index`] for a slot that `kv` does not have, [`KernelError::Value`] if more
/// elements are to be rotated than a head has. Nothing is stored then.
pub fn rope_store_kv(
    qkv: &Tensor,
    dims: AttnDims,
    angles: &RopeAngles,
    slot_mapping: &Indices,
    kv: &mut KvLayer,
) -> Result<Tensor, KernelError> {
    check(qkv, dims, angles, slot_mapping, kv)?;
    if let Some(cuda) = qkv.device().as_cuda() {
        qkv.expect_dtype(OP, DType::F32)?;
        return cuda::rope_store_kv(cuda, qkv, dims, angles, slot_mapping, kv);
    }
    let (values, device, tokens) = (qkv.as_f32()?, qkv.device(), slot_mapping.len());
    let angles = angles.on_host()?;
    let _span = device.record(|| {
        let stored = kv.dtype().bytes_per_token(dims.num_kv_heads, dims.head_dim);
        let bytes = (dims.qkv_len() + dims.q_len()) * size_of::<f32>() + stored;
        Work::moving("rope_store_kv", tokens * bytes)
    });
    let mut q = Tensor::empty(device, DType::F32, &[tokens, dims.q_len()])?;
    device
        .pool()
        .for_each_rows(q.as_f32_mut()?, dims.q_len(), |tokens, out| {
            for (token, out) in tokens.zip(out.chunks_exact_mut(dims.q_len())) {
                out.copy_from_slice(&values[token * dims.qkv_len()..][..dims.q_len()]);
                angles.rotate(device.isa(), token, out, dims.head_dim);
            }
        });

    let writer = kv.writer();
    let store_head = |head: usize| {
        let (mut short, mut long) = ([0.0; SHORT_HEAD], Vec::new());
        let key = if dims.head_dim <= SHORT_HEAD {
            &mut short[..dims.head_dim]
        } else {
            long.resize(dims.head_dim, 0.0); // a head has no size limit, the stack has
            &mut long[..]
        };
        for (token, slot) in slot_mapping.iter().enumerate() {
            let kv = &values[token * dims.qkv_len() + dims.q_len()..];
            let (keys, values) = kv.split_at(dims.num_kv_heads * dims.head_dim);
            key.copy_from_slice(&keys[head * dims.head_dim..][..dims.head_dim]);
            angles.rotate(device.isa(), token, key, dims.head_dim);
            // SAFETY: this is the only task with this head.
            unsafe {
                writer.store(
                    *slot as usize,
                    head,
                    key,
                    &values[head * dims.head_dim..][..dims.head_dim],
                )
            };
        }
    };
    if tokens < MIN_TOKENS_PER_TASK {
        (0..dims.num_kv_heads).for_each(store_head);
    } else {
        device.pool().for_each(dims.num_kv_heads, store_head);
    }
    Ok(q)
}

/// Heads of up to this size, those of every known model, are rotated on the stack: to ask for memory
/// takes longer than to rotate.
const SHORT_HEAD: usize = 256;

/// With fewer tokens, storing them takes less time than to share the work: a head of a token is
/// some tens of nanoseconds.
const MIN_TOKENS_PER_TASK: usize = 32;

fn check(
    qkv: &Tensor,
    dims: AttnDims,
    angles: &RopeAngles,
    slot_mapping: &Indices,
    kv: &KvLayer,
) -> Result<(), KernelError> {
    let tokens = slot_mapping.len();
    dims.check(OP, kv)?;
    qkv.device().check_same(OP, "kv", kv.device())?;
    qkv.expect_shape(OP, "qkv", &[tokens, dims.qkv_len()])?;
    if angles.num_tokens != tokens {
        return Err(KernelError::Length {
            op: OP,
            name: "angles",
            expected: tokens,
            found: angles.num_tokens,
        });
    }
    if angles.rotary_dim() > dims.head_dim {
        return Err(KernelError::Value {
            op: OP,
            name: "rotary_dim",
            found: angles.rotary_dim(),
            rule: "at most head_dim",
        });
    }
    slot_mapping.check_below(OP, "slot", kv.num_slots())
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;
    use crate::testing::{Random, assert_close, devices, every_device};
    use crate::{Device, KvDType};

    const BLOCK_SIZE: usize = 16;

    fn angles(
        device: &Device,
        inv_freq: &[f32],
        positions: &[u32],
        scale: f32,
        pairing: Pairing,
    ) -> RopeAngles {
        let inv_freq = Tensor::from_f32(device, inv_freq, &[inv_freq.len()]).unwrap();
        RopeAngles::new(&inv_freq, &positions.into(), scale, pairing).unwrap()
    }

    fn inv_freq(rotary_dim: usize) -> Vec<f32> {
        (0..rotary_dim / 2)
            .map(|i| 10_000f32.powf(-2.0 * i as f32 / rotary_dim as f32))
            .collect()
    }

    /// Equation 34 in f64, element by element.
    fn expected(head: &[f32], position: u32, inv_freq: &[f32], pairing: Pairing) -> Vec<f32> {
        let mut out = head.to_vec();
        for (i, freq) in inv_freq.iter().enumerate() {
            let (a, b) = match pairing {
                Pairing::Interleaved => (2 * i, 2 * i + 1),
                Pairing::HalfSplit => (i, i + inv_freq.len()),
            };
            let angle = f64::from(position as f32 * freq);
            let (x, y) = (f64::from(head[a]), f64::from(head[b]));
            out[a] = (x * angle.cos() - y * angle.sin()) as f32;
            out[b] = (y * angle.cos() + x * angle.sin()) as f32;
        }
        out
    }

    fn dims(num_heads: usize, num_kv_heads: usize, head_dim: usize) -> AttnDims {
        AttnDims {
            num_heads,
            num_kv_heads,
            head_dim,
        }
    }

    #[test]
    fn every_device_rotates_by_the_equation_and_stores_where_told() {
        for device in every_device(2) {
            for (tokens, dims, rotary_dim) in [
                (1, dims(4, 2, 16), 16),
                (4, dims(2, 1, 7), 6),
                (7, dims(6, 2, 24), 8),
                (5, dims(3, 3, 80), 40),
                (3, dims(2, 1, SHORT_HEAD + 32), 64),
                (129, dims(8, 2, 128), 64),
            ] {
                for pairing in [Pairing::Interleaved, Pairing::HalfSplit] {
                    for dtype in [KvDType::F32, KvDType::F16, KvDType::BF16, KvDType::Fp8] {
                        check_case(&device, dtype, tokens, dims, rotary_dim, pairing);
                    }
                }
            }
        }
    }

    fn check_case(
        device: &Device,
        dtype: KvDType,
        tokens: usize,
        dims: AttnDims,
        rotary_dim: usize,
        pairing: Pairing,
    ) {
        let mut random = Random::new(tokens as u64);
        let values = random.values(tokens * dims.qkv_len());
        let qkv = Tensor::from_f32(device, &values, &[tokens, dims.qkv_len()]).unwrap();
        // Some so large that angles are many turns.
        let positions: Vec<u32> = (0..tokens as u32)
            .map(|t| t * 37 + t % 3 * 100_003)
            .collect();
        let angles = angles(device, &inv_freq(rotary_dim), &positions, 1.0, pairing);
        let blocks = tokens.div_ceil(BLOCK_SIZE) + 1;
        let (kv_heads, head_dim) = (dims.num_kv_heads, dims.head_dim);
        let mut kv = KvLayer::new(device, dtype, blocks, BLOCK_SIZE, kv_heads, head_dim).unwrap();
        let slots: Vec<u32> = random.permutation(kv.num_slots())[..tokens].to_vec();
        let q = rope_store_kv(&qkv, dims, &angles, &slots.clone().into(), &mut kv).unwrap();
        assert_eq!(q.shape(), [tokens, dims.q_len()]);
        let q = q.to_f32_vec().unwrap();

        let context = format!("{device:?} {dtype} {tokens} {dims:?} {pairing:?}");
        let stored = on_host(&kv);
        let stored = stored.as_ref().unwrap_or(&kv);
        let heads: Vec<&[f32]> = values.chunks_exact(head_dim).collect();
        for (t, heads) in heads
            .chunks_exact(dims.num_heads + 2 * kv_heads)
            .enumerate()
        {
            let rotated =
                |head: usize| expected(heads[head], positions[t], &inv_freq(rotary_dim), pairing);
            let want: Vec<f32> = (0..dims.num_heads).flat_map(rotated).collect();
            let row = &q[t * dims.q_len()..][..dims.q_len()];
            assert_close(row, &want, 1e-6, &context);
            let slot = slots[t] as usize;
            let (block, offset) = (slot / BLOCK_SIZE, slot % BLOCK_SIZE);
            for head in 0..kv_heads {
                let key = rotated(dims.num_heads + head);
                let value = heads[dims.num_heads + kv_heads + head];
                for d in 0..head_dim {
                    let got = stored.key(block, head, offset, d);
                    assert_stored(dtype, got, key[d], 1e-6, &context);
                    let got = stored.value(block, head, offset, d);
                    assert_stored(dtype, got, value[d], 0.0, &context);
                }
            }
        }
    }

    /// Panics unless `got` is what a number becomes that is at most `slack` from `want`.
    fn assert_stored(dtype: KvDType, got: f32, want: f32, slack: f32, context: &str) {
        // Half of the last place, relative to a number and at least.
        let (relative, least) = match dtype {
            KvDType::F16 => (2f32.powi(-11), 2f32.powi(-25)),
            KvDType::BF16 => (2f32.powi(-8), 0.0),
            KvDType::Fp8 => (2f32.powi(-4), 2f32.powi(-10)),
            _ => (0.0, 0.0),
        };
        let largest = (want.abs() * relative).max(least) + slack;
        assert!((got - want).abs() <= largest, "{context}: {got} for {want}");
    }

    /// The same keys and values where the CPU can look at them, if they are elsewhere.
    fn on_host(kv: &KvLayer) -> Option<KvLayer> {
        kv.device().as_cuda()?;
        let (size, heads, head_dim) = (kv.block_size(), kv.num_kv_heads(), kv.head_dim());
        let host = kv.device().host();
        let copy = KvLayer::new(&host, kv.dtype(), kv.num_blocks(), size, heads, head_dim);
        let mut copy = copy.unwrap();
        let writer = copy.writer();
        for block in 0..kv.num_blocks() {
            let mut bytes = vec![0; kv.block_bytes()];
            kv.read_block(block, &mut bytes).unwrap();
            let numbers = widened(kv.dtype(), &bytes);
            let (keys, values) = numbers.split_at(heads * size * head_dim);
            for (i, (key, value)) in keys
                .chunks_exact(head_dim)
                .zip(values.chunks_exact(head_dim))
                .enumerate()
            {
                // SAFETY: one thread.
                unsafe { writer.store(block * size + i % size, i / size, key, value) };
            }
        }
        Some(copy)
    }

    fn widened(dtype: KvDType, bytes: &[u8]) -> Vec<f32> {
        let words = || bytes.as_chunks().0.iter();
        match dtype {
            KvDType::F16 => words().map(|x| f16::from_le_bytes(*x).to_f32()).collect(),
            KvDType::BF16 => words().map(|x| bf16::from_le_bytes(*x).to_f32()).collect(),
            // The same bits further down in an f16 are 2^-8 of it.
            KvDType::Fp8 => bytes
                .iter()
                .map(|x| u16::from(*x))
                .map(|x| f16::from_bits((x & 0x80) << 8 | (x & 0x7f) << 7).to_f32() * 256.0)
                .collect(),
            _ => bytes
                .as_chunks()
                .0
                .iter()
                .map(|x| f32::from_le_bytes(*x))
                .collect(),
        }
    }

    #[test]
    fn the_scale_multiplies_what_is_rotated() {
        for device in every_device(1) {
            let qkv = Tensor::from_f32(&device, &[1.0; 12], &[1, 12]).unwrap();
            let angles = angles(&device, &[1.0], &[0], 2.0, Pairing::Interleaved);
            let mut kv = KvLayer::new(&device, KvDType::F32, 1, 1, 1, 4).unwrap();
            let q = rope_store_kv(&qkv, dims(1, 1, 4), &angles, &[0].into(), &mut kv).unwrap();
            assert_eq!(q.to_f32_vec().unwrap(), [2.0, 2.0, 1.0, 1.0]);
        }
    }

    #[test]
    fn arguments_that_do_not_fit_are_errors_and_store_nothing() {
        let device = devices(1).remove(0);
        let dims = dims(2, 1, 4);
        let qkv = Tensor::from_f32(&device, &[1.0; 32], &[2, 16]).unwrap();
        let angles = |positions: &[u32], pairs| {
            let inv_freq = vec![1.0; pairs];
            self::angles(&device, &inv_freq, positions, 1.0, Pairing::Interleaved)
        };
        let mut kv = KvLayer::new(&device, KvDType::F32, 1, 16, 1, 4).unwrap();
        let mut call = |dims, angles: &RopeAngles, slots: &[u32]| {
            rope_store_kv(&qkv, dims, angles, &slots.into(), &mut kv).unwrap_err()
        };
        assert!(matches!(
            call(dims, &angles(&[0, 1], 2), &[0, 16]),
            KernelError::Index {
                index: 16,
                len: 16,
                ..
            }
        ));
        assert!(matches!(
            call(dims, &angles(&[0], 2), &[0, 1]),
            KernelError::Length { name: "angles", .. }
        ));
        assert!(matches!(
            call(dims, &angles(&[0, 1], 3), &[0, 1]),
            KernelError::Value {
                name: "rotary_dim",
                ..
            }
        ));
        assert!(matches!(
            call(dims, &angles(&[0], 2), &[0]),
            KernelError::Shape { name: "qkv", .. }
        ));
        assert!(matches!(
            call(
                AttnDims {
                    num_kv_heads: 2,
                    ..dims
                },
                &angles(&[0, 1], 2),
                &[0, 1]
            ),
            KernelError::Shape { name: "dims", .. }
        ));
        assert!(matches!(
            call(
                AttnDims {
                    num_kv_heads: 0,
                    ..dims
                },
                &angles(&[0, 1], 2),
                &[0, 1]
            ),
            KernelError::Value { .. }
        ));
        assert!((0..16).all(|offset| (0..4).all(|d| kv.key(0, 0, offset, d) == 0.0)));
    }
}
