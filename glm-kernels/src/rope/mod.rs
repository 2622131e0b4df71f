//! Rotary position embedding and KV store.
use crate::{Device, KernelError, KvLayer, Tensor};

/// The head counts and the head size of an attention layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttnDims {
    /// Query heads, `H`.
    pub num_heads: usize,
    /// Key-value heads, `KVH`; divides `H`.
    pub num_kv_heads: usize,
    /// The size of a head, `D`.
    pub head_dim: usize,
}

/// Which two elements of a head make a pair that is rotated together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairing {
    /// `(2i, 2i + 1)`: GLM.
    Interleaved,
    /// `(i, i + rotary_dim / 2)`: Llama.
    HalfSplit,
}

/// Cosines and sines of a step's positions.
#[derive(Debug, Clone)]
pub struct RopeAngles {
    _device: Device,
}

impl RopeAngles {
    /// Angles of `positions` under `inv_freq` (`rotary_dim / 2` values); cosines and sines are multiplied by `scale` (1 but for YaRN).
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`]
    pub fn new(_device: &Device, _inv_freq: &[f32], _positions: &[u32], _scale: f32, _pairing: Pairing) -> Result<Self, KernelError> {
        unimplemented!()
    }
}

/// Rotates Q and K, stores K and V at `slot_mapping`, returns Q `[T, H*D]`. `qkv`: `[T, (H + 2*KVH)*D]`.
///
/// # Errors
/// [`KernelError::Shape`], [`KernelError::Index`]
pub fn rope_store_kv(_qkv: &Tensor, _dims: AttnDims, _angles: &RopeAngles, _slot_mapping: &[u32], _kv: &mut KvLayer) -> Result<Tensor, KernelError> {
    unimplemented!()
}
