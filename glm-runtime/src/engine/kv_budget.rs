//! How many blocks the KV cache gets, and why.

use std::fmt;

use glm_core::DenseConfig;
use glm_kernels::{Device, KvDType};
use serde::Serialize;

use super::EngineOptions;
use super::open::{Sizes, checked_quantization, open_device, swap_beside_weights};
use crate::error::BuildError;
use crate::kv::{BLOCK_SIZE, auto_kv_dtype, blocks_for};
use crate::load::{ModelSource, weight_bytes};
use crate::memory::{Bytes, available_on, kv_bytes_per_token};

/// Full contexts the cache holds when no size is asked for and memory allows.
const DEFAULT_CONTEXTS: usize = 4;
/// The share of the memory beside the weights that the cache takes at most when no size is asked for.
const DEFAULT_SHARE: u64 = 4;
/// Tenths of a graphics processor's memory beside the weights that the cache takes when no size is asked for: nobody else is expected
/// there, and what is left is for activations.
const CUDA_TENTHS: u64 = 9;
/// Slots are counted in 32 bits.
const MAX_BLOCKS: usize = u32::MAX as usize / BLOCK_SIZE;

/// The size of the KV cache and the arithmetic behind it; printed, one line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct KvBudget {
    /// Blocks in the cache.
    pub blocks: usize,
    /// Tokens in a block.
    pub block_tokens: usize,
    /// Bytes of one token over all layers.
    pub bytes_per_token: u64,
    /// Context size in tokens.
    pub max_model_len: usize,
    /// What could be allocated beside the weights when the size was decided; `None` where the operating system does not
    /// say, or where it was not asked because the size was given.
    pub free_bytes: Option<u64>,
    /// What the size follows from.
    pub reason: KvBudgetReason,
}

/// What the size of the KV cache follows from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KvBudgetReason {
    /// `kv_cache_tokens` was given.
    #[default]
    Asked,
    /// Four full contexts, which memory allows.
    Contexts,
    /// A quarter of the free memory, which holds fewer than four.
    Memory,
    /// Nine tenths of a graphics processor's free memory.
    DeviceMemory,
    /// One full context: less would be of no use, whatever memory says.
    OneContext,
}

impl KvBudget {
    /// The size that was asked for, in tokens, or the one that memory allows beside `weights` bytes of weights.
    ///
    /// # Errors
    /// [`BuildError::Option`] unless a whole context fits.
    pub(super) fn decide(
        config: &DenseConfig,
        device: &Device,
        asked: Option<usize>,
        dtype: Option<KvDType>,
        max_model_len: usize,
        weights: u64,
    ) -> Result<Self, BuildError> {
        let budget = |blocks, free_bytes, reason| {
            let dtype = dtype.unwrap_or_else(|| auto_kv_dtype(config, device, blocks * BLOCK_SIZE));
            Self {
                blocks,
                block_tokens: BLOCK_SIZE,
                bytes_per_token: kv_bytes_per_token(config, dtype),
                max_model_len,
                free_bytes,
                reason,
            }
        };
        let one = blocks_for(max_model_len);
        if let Some(tokens) = asked {
            return if blocks_for(tokens) < one || tokens > u32::MAX as usize {
                Err(BuildError::Option {
                    option: "kv_cache_tokens",
                    allowed: "at least max_model_len and below 2^32",
                    found: tokens.to_string(),
                })
            } else {
                Ok(budget(blocks_for(tokens), None, KvBudgetReason::Asked))
            };
        }
        let most = one * DEFAULT_CONTEXTS;
        let free = available_on(device).map(|bytes| bytes.saturating_sub(weights));
        let block_bytes = budget(most, None, KvBudgetReason::Contexts)
            .bytes_per_token
            .max(1)
            * BLOCK_SIZE as u64;
        if let (Some(_), Some(bytes)) = (device.cuda_info(), free) {
            let blocks = usize::try_from(bytes / 10 * CUDA_TENTHS / block_bytes);
            let blocks = blocks.unwrap_or(usize::MAX).min(MAX_BLOCKS);
            return Ok(match blocks > one {
                true => budget(blocks, free, KvBudgetReason::DeviceMemory),
                false => budget(one, free, KvBudgetReason::OneContext),
            });
        }
        let share = free.map_or(u64::MAX, |bytes| bytes / DEFAULT_SHARE / block_bytes);
        let share = usize::try_from(share).unwrap_or(usize::MAX);
        let (blocks, reason) = if share >= most {
            (most, KvBudgetReason::Contexts)
        } else if share > one {
            (share, KvBudgetReason::Memory)
        } else {
            (one, KvBudgetReason::OneContext)
        };
        Ok(budget(blocks, free, reason))
    }

    /// The KV cache that an engine with these options would get here and now, without loading the model. Adapters and a draft model
    /// are left out.
    ///
    /// # Errors
    /// [`BuildError`] if an option is out of range.
    pub fn plan(source: &ModelSource, options: &EngineOptions) -> Result<Self, BuildError> {
        let device = open_device(options)?;
        let quantize = checked_quantization(options, &device)?;
        let weights = weight_bytes(source, quantize, Some(&device))
            .saturating_add(swap_beside_weights(&device, options));
        let (_, budget) = Sizes::decide(source.config().dense(), &device, options, weights)?;
        Ok(budget)
    }

    /// Tokens the cache holds.
    pub fn tokens(&self) -> usize {
        self.blocks * self.block_tokens
    }
}

impl fmt::Display for KvBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let block_bytes = self
            .bytes_per_token
            .saturating_mul(self.block_tokens as u64);
        write!(
            f,
            "KV cache: {} blocks x {} tokens x {} bytes = {}, ",
            self.blocks,
            self.block_tokens,
            self.bytes_per_token,
            Bytes(block_bytes.saturating_mul(self.blocks as u64)),
        )?;
        let free = |f: &mut fmt::Formatter<'_>| match self.free_bytes {
            Some(bytes) => write!(f, " ({} free beside the weights)", Bytes(bytes)),
            None => Ok(()),
        };
        let len = self.max_model_len;
        match self.reason {
            KvBudgetReason::Asked => write!(f, "as asked for"),
            KvBudgetReason::Contexts => {
                write!(f, "{DEFAULT_CONTEXTS} contexts of {len} tokens")?;
                free(f)
            }
            KvBudgetReason::Memory => {
                write!(f, "1/{DEFAULT_SHARE} of the memory")?;
                free(f)
            }
            KvBudgetReason::DeviceMemory => {
                write!(f, "{CUDA_TENTHS}/10 of the device's memory")?;
                free(f)
            }
            KvBudgetReason::OneContext => {
                write!(f, "one context of {len} tokens, the least that works")?;
                free(f)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use glm_core::ModelConfig;
    use glm_kernels::CpuOptions;
    use std::path::Path;

    fn decide(asked: Option<usize>, weights: u64) -> Result<KvBudget, BuildError> {
        let json = r#"{"model_type":"glm4","vocab_size":64,"hidden_size":32,"intermediate_size":32,"num_hidden_layers":1,
            "num_attention_heads":2,"num_key_value_heads":1,"head_dim":16,"max_position_embeddings":4096}"#;
        let config = ModelConfig::from_json(json, Path::new("config.json")).unwrap();
        let device = Device::cpu(CpuOptions::default()).unwrap();
        let dtype = Some(KvDType::F16);
        KvBudget::decide(config.dense(), &device, asked, dtype, 100, weights)
    }

    #[test]
    fn the_arithmetic_can_be_read() {
        let asked = decide(Some(160), 0).unwrap();
        assert_eq!(
            asked.to_string(),
            "KV cache: 10 blocks x 16 tokens x 64 bytes = 10.0 KiB, as asked for"
        );
        let roomy = decide(None, 0).unwrap();
        assert_eq!((roomy.blocks, roomy.reason), (28, KvBudgetReason::Contexts));
        assert!(
            roomy.to_string().contains("4 contexts of 100 tokens ("),
            "{roomy}"
        );
        // Weights that leave nothing.
        let full = decide(None, u64::MAX).unwrap();
        assert_eq!(
            (full.tokens(), full.reason),
            (112, KvBudgetReason::OneContext)
        );
        assert!(
            full.to_string().ends_with("(0 B free beside the weights)"),
            "{full}"
        );
        assert!(decide(Some(96), 0).is_err());
    }
}
