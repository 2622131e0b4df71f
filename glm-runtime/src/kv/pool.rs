//! The bytes of the KV cache.

use glm_core::DenseConfig;
use glm_kernels::{Device, KernelError, KvDType, KvLayer};

use super::BLOCK_SIZE;

/// A cache of at most this many bytes is kept in f32 when nothing else is asked for: the memory does not matter then,
/// and short contexts of small models keep every bit.
const F32_LIMIT: u64 = 256 << 20;

/// Keys and values of all layers, in blocks of [`BLOCK_SIZE`] tokens; block ids mean the same in every layer.
#[derive(Debug)]
pub struct KvPool {
    layers: Vec<KvLayer>,
}

impl KvPool {
    /// Room for `num_blocks` blocks in every layer of a model with this config.
    ///
    /// # Errors
    /// [`KernelError`] if the device cannot allocate it.
    pub fn new(
        device: &Device,
        config: &DenseConfig,
        dtype: KvDType,
        num_blocks: usize,
    ) -> Result<Self, KernelError> {
        let layer = |_| {
            KvLayer::new(
                device,
                dtype,
                num_blocks,
                BLOCK_SIZE,
                config.num_key_value_heads,
                config.head_dim,
            )
        };
        Ok(Self {
            layers: (0..config.num_hidden_layers)
                .map(layer)
                .collect::<Result<_, _>>()?,
        })
    }

    /// The layers in order, to read from and write to.
    pub fn layers_mut(&mut self) -> impl Iterator<Item = &mut KvLayer> {
        self.layers.iter_mut()
    }
}

/// The storage chosen when none is asked for: f32 if `tokens` tokens take at most 256 MiB in it, else f16.
pub(crate) fn auto_kv_dtype(config: &DenseConfig, tokens: usize) -> KvDType {
    let f32_bytes =
        crate::memory::kv_bytes_per_token(config, KvDType::F32).saturating_mul(tokens as u64);
    if f32_bytes <= F32_LIMIT {
        KvDType::F32
    } else {
        KvDType::F16
    }
}
