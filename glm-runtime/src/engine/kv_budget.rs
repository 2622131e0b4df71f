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
/// Tenths of a graphics processor's memory beside the weights that the cache takes at most when no size is asked for: nobody else is
/// expected there, and what is left is for activations.
const CUDA_TENTHS: u64 = 9;
/// Slots are counted in 32 bits, those of the block that devices have to spare included.
const MAX_BLOCKS: usize = u32::MAX as usize / BLOCK_SIZE - 1;

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
    /// Nine tenths of a graphics processor's free memory, or what activations leave of it if that is less; a draft model's cache takes its
    /// part of them.
    DeviceMemory,
    /// One full context: less would be of no use, whatever memory says.
    OneContext,
}

/// What lies in the memory beside the cache.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Beside<'a> {
    /// Bytes of weights, and of what else is allocated once.
    pub(super) weights: u64,
    /// Bytes of activations of the largest step.
    pub(super) activations: u64,
    /// A draft model, whose cache holds as many tokens.
    pub(super) draft: Option<&'a DenseConfig>,
}

impl KvBudget {
    /// The size that was asked for, in tokens, or the one that memory allows.
    ///
    /// # Errors
    /// [`BuildError::Option`] unless a whole context fits.
    pub(super) fn decide(
        config: &DenseConfig,
        device: &Device,
        asked: Option<usize>,
        dtype: Option<KvDType>,
        max_model_len: usize,
        beside: Beside<'_>,
    ) -> Result<Self, BuildError> {
        let bytes_per_token = |of: &DenseConfig, blocks: usize| {
            let auto = || auto_kv_dtype(config, device, blocks * BLOCK_SIZE);
            kv_bytes_per_token(of, dtype.unwrap_or_else(auto))
        };
        let budget = |blocks, free_bytes, reason| Self {
            blocks,
            block_tokens: BLOCK_SIZE,
            bytes_per_token: bytes_per_token(config, blocks),
            max_model_len,
            free_bytes,
            reason,
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
        let free = available_on(device).map(|bytes| bytes.saturating_sub(beside.weights));
        let block_bytes = bytes_per_token(config, most).max(1) * BLOCK_SIZE as u64;
        if let (Some(_), Some(bytes)) = (device.cuda_info(), free) {
            // Buffers are a little larger than what is asked for.
            let activations = beside.activations.saturating_add(beside.activations / 4);
            let room = (bytes / 10 * CUDA_TENTHS).min(bytes.saturating_sub(activations));
            let draft = beside.draft.map_or(0, |draft| bytes_per_token(draft, most));
            let blocks = usize::try_from(room / (block_bytes + draft * BLOCK_SIZE as u64));
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
        let config = source.config().dense();
        let (_, budget) = Sizes::decide(config, &device, options, weights, None)?;
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
    use glm_kernels::{CpuOptions, CudaOptions, EmulatedCuda};
    use std::path::Path;

    fn config() -> ModelConfig {
        let json = r#"{"model_type":"glm4","vocab_size":64,"hidden_size":32,"intermediate_size":32,"num_hidden_layers":1,
            "num_attention_heads":2,"num_key_value_heads":1,"head_dim":16,"max_position_embeddings":4096}"#;
        ModelConfig::from_json(json, Path::new("config.json")).unwrap()
    }

    fn decide(asked: Option<usize>, weights: u64) -> Result<KvBudget, BuildError> {
        let device = Device::cpu(CpuOptions::default()).unwrap();
        let dtype = Some(KvDType::F16);
        let beside = Beside {
            weights,
            ..Beside::default()
        };
        KvBudget::decide(config().dense(), &device, asked, dtype, 100, beside)
    }

    #[test]
    fn a_device_has_room_for_activations_and_for_the_cache_of_a_draft_model() {
        let (cuda, config) = (EmulatedCuda::idle(1, 1 << 20), config());
        let device = cuda.open(CudaOptions::default()).unwrap();
        let blocks = |beside| {
            let budget = KvBudget::decide(config.dense(), &device, None, None, 100, beside);
            budget.unwrap().blocks
        };
        // A block takes 16 tokens of 2 * 16 values of 2 bytes, 1 KiB.
        assert_eq!(blocks(Beside::default()), 921);
        let draft = Beside {
            draft: Some(config.dense()),
            ..Beside::default()
        };
        assert_eq!(blocks(draft), 460);
        let activations = Beside {
            activations: 512 << 10,
            ..Beside::default()
        };
        assert_eq!(blocks(activations), 384);
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
