//! Paged keys and values of one layer.
use crate::{Device, KernelError};

/// How keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KvDType {
    /// 4 bytes per value, exact.
    F32,
    /// 2 bytes per value.
    F16,
    /// 2 bytes per value.
    BF16,
    /// 1 byte per value and an f32 scale per head and token.
    Q8_0,
}

impl KvDType {
    /// The bytes that keys and values of one token take in one layer.
    pub fn bytes_per_token(self, num_kv_heads: usize, head_dim: usize) -> usize {
        let head = match self {
            Self::F32 => 4 * head_dim,
            Self::F16 | Self::BF16 => 2 * head_dim,
            Self::Q8_0 => head_dim + 4,
        };
        2 * num_kv_heads * head
    }
}

/// Keys and values of one layer.
#[derive(Debug)]
pub struct KvLayer {
    _device: Device,
}

impl KvLayer {
    /// Zeroed blocks.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`]
    pub fn new(device: &Device, _dtype: KvDType, _num_blocks: usize, _block_size: usize, _num_kv_heads: usize, _head_dim: usize) -> Result<Self, KernelError> {
        Ok(Self { _device: device.clone() })
    }
    /// The bytes it takes.
    pub fn byte_len(&self) -> usize {
        unimplemented!()
    }
}
