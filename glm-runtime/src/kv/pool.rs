//! The bytes of the KV cache.

use glm_core::DenseConfig;
use glm_kernels::{Device, KernelError, KvDType, KvLayer};

use super::{BLOCK_SIZE, BlockId};

/// A cache of at most this many bytes is kept in f32 when nothing else is asked for: the memory does not matter then,
/// and short contexts of small models keep every bit.
const F32_LIMIT: u64 = 256 << 20;

/// Keys and values of all layers, in blocks of [`BLOCK_SIZE`] tokens; block ids mean the same in every layer.
#[derive(Debug)]
pub struct KvPool {
    layers: Vec<KvLayer>,
    num_blocks: usize,
}

impl KvPool {
    /// Room for `num_blocks` blocks in every layer of a model with this config; on a graphics processor also for
    /// [`Self::spare`].
    ///
    /// # Errors
    /// [`KernelError`] if the device cannot allocate it.
    pub fn new(
        device: &Device,
        config: &DenseConfig,
        dtype: KvDType,
        num_blocks: usize,
    ) -> Result<Self, KernelError> {
        let spare = usize::from(device.cuda_info().is_some());
        let layer = |_| {
            KvLayer::new(
                device,
                dtype,
                num_blocks + spare,
                BLOCK_SIZE,
                config.num_key_value_heads,
                config.head_dim,
            )
        };
        Ok(Self {
            layers: (0..config.num_hidden_layers)
                .map(layer)
                .collect::<Result<_, _>>()?,
            num_blocks,
        })
    }

    /// A block that no sequence ever has, on graphics processors only: there go the keys and values of the tokens that a step is
    /// filled up with.
    pub(crate) fn spare(&self) -> BlockId {
        BlockId(self.num_blocks as u32)
    }

    /// The bytes of a block over all layers.
    pub fn block_bytes(&self) -> usize {
        self.layers.iter().map(KvLayer::block_bytes).sum()
    }

    /// Copies a block out, bit for bit, layer after layer ([`KvLayer::read_block`]). With [`Self::write_block`] this is all that
    /// those know of the pool's memory who keep blocks elsewhere.
    ///
    /// # Errors
    /// [`KernelError`] for a block that is not there, or unless `out` has [`Self::block_bytes`] bytes.
    pub fn read_block(&self, block: BlockId, mut out: &mut [u8]) -> Result<(), KernelError> {
        for layer in &self.layers {
            let len = layer.block_bytes().min(out.len());
            let (part, rest) = out.split_at_mut(len);
            layer.read_block(block.0 as usize, part)?;
            out = rest;
        }
        Ok(())
    }

    /// Overwrites a block with what [`Self::read_block`] copied out.
    ///
    /// # Errors
    /// As [`Self::read_block`].
    pub fn write_block(&mut self, block: BlockId, mut bytes: &[u8]) -> Result<(), KernelError> {
        for layer in &mut self.layers {
            let len = layer.block_bytes().min(bytes.len());
            let (part, rest) = bytes.split_at(len);
            layer.write_block(block.0 as usize, part)?;
            bytes = rest;
        }
        Ok(())
    }

    /// The layers in order, to read from and write to.
    pub fn layers_mut(&mut self) -> impl Iterator<Item = &mut KvLayer> {
        self.layers.iter_mut()
    }
}

/// The storage chosen when none is asked for: f32 if `tokens` tokens take at most 256 MiB in it, else f16. On a graphics processor bf16,
/// which its tensor cores take as it is.
pub(crate) fn auto_kv_dtype(config: &DenseConfig, device: &Device, tokens: usize) -> KvDType {
    if device.cuda_info().is_some() {
        return KvDType::BF16;
    }
    auto_kv_dtype_on_cpu(config, tokens)
}

/// [`auto_kv_dtype`] of the CPU.
pub(crate) fn auto_kv_dtype_on_cpu(config: &DenseConfig, tokens: usize) -> KvDType {
    let f32_bytes =
        crate::memory::kv_bytes_per_token(config, KvDType::F32).saturating_mul(tokens as u64);
    if f32_bytes <= F32_LIMIT {
        KvDType::F32
    } else {
        KvDType::F16
    }
}
