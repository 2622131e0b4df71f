//! How an engine is built: [`EngineOptions`], its builder, and what came of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use glm_core::{OpenOptions, Progress};
use glm_kernels::{Device, Isa, KvDType};
use serde::Serialize;

use super::kv_budget::KvBudget;
use super::{Engine, EngineHandle};
use crate::error::BuildError;
use crate::load::Quantization;
use crate::speculate::Speculation;

pub(super) const DEFAULT_MAX_NUM_SEQS: usize = 64;
/// Long enough that a prompt is computed at the speed of matrix products.
const DEFAULT_MAX_NUM_BATCHED_TOKENS: usize = 512;
/// The same on a graphics processor. A product is cut into tiles there, and fewer tokens would make fewer tiles than there are multiprocessors.
const DEFAULT_MAX_NUM_BATCHED_TOKENS_ON_CUDA: usize = 2048;

/// Everything that can be chosen about an engine. `None` means: decide from the checkpoint and this machine.
#[derive(Clone, Default)]
pub struct EngineOptions {
    /// Worker threads; default: the physical cores this process may use.
    pub threads: Option<usize>,
    /// `auto`, `cpu`, `cuda` or `cuda:N`; default `auto`: the first graphics processor of NVIDIA's if there is one, or else the CPU.
    pub device: Option<String>,
    /// A device that is open already, in place of [`Self::device`], [`Self::threads`] and [`Self::isa`].
    pub open_device: Option<Device>,
    /// Instruction set to compute with on the CPU, which `auto` then means; default: the best of this machine, or `GLM_ISA`.
    pub isa: Option<Isa>,
    /// Quantise the weights while loading; default: keep them as they are in the checkpoint.
    pub quantize: Option<Quantization>,
    /// Storage of keys and values; default: f32 if the whole cache takes at most 256 MiB, else f16; on a graphics processor bf16.
    pub kv_dtype: Option<KvDType>,
    /// Context size in tokens; default: what the checkpoint allows, at most 8192.
    pub max_model_len: Option<usize>,
    /// Tokens the KV cache holds, over all sequences; default: four full contexts if a quarter of the free memory
    /// allows it, at least one; on a graphics processor nine tenths of the memory beside the weights.
    pub kv_cache_tokens: Option<usize>,
    /// Most sequences in one step; default 64.
    pub max_num_seqs: Option<usize>,
    /// Most tokens in one step: longer prompts are computed in chunks; default 512, on a graphics processor 2048, and as many more as
    /// [`Self::max_num_seqs`] is more than 64.
    pub max_num_batched_tokens: Option<usize>,
    /// Most prompt tokens in a step in which answers go on; default: as many as [`Self::max_step_time`] has room for.
    pub max_num_prefill_tokens: Option<usize>,
    /// How long a step in which answers go on should take at most, as far as prompts make it long: the time between two tokens
    /// (ITL) of everybody whose answer is under way while a prompt is read. More makes prompts faster and answers less steady.
    /// Default: three times what it takes without prompts, at least 100 ms. A step without answers may take five times as long, and 1 s in any
    /// case; every step reads a few tokens of prompts, whatever they take. `Duration::MAX`: no bound, for work that nobody watches.
    pub max_step_time: Option<Duration>,
    /// Most requests beyond the `max_num_seqs` that can run; a further one is refused with
    /// [`EngineError::QueueFull`](crate::EngineError::QueueFull). Default: no limit.
    pub max_waiting: Option<usize>,
    /// Most tokens of all waiting requests together; one that waits alone may have more. Default: no limit.
    pub max_waiting_tokens: Option<usize>,
    /// How long a request waits before it comes before later ones of one level of priority more; default 10 s.
    pub priority_aging: Option<Duration>,
    /// Keep the keys and values of requests that have ended, and begin later ones that start with the same tokens where
    /// those differ; default: yes. They take only memory that nobody needs.
    pub prefix_cache: Option<bool>,
    /// Begin with the prefix cache that is in this file, if it is there and was written by an engine that computes the same, and
    /// write it when the engine drains or ends; a program that exits should drain it first. It holds the tokens of prompts and answers; default: none. See
    /// [`Engine::save_prefix_cache`].
    pub prefix_cache_file: Option<PathBuf>,
    /// Bytes of host memory for requests that lose their blocks to others: what they have computed is copied there and back, instead
    /// of being computed again. Memory is taken as it is needed. Default: 0, because on a CPU the same memory prevents the loss if the
    /// KV cache gets it ([`Self::kv_cache_tokens`]).
    pub swap_space: Option<u64>,
    /// Guess several tokens ahead, so that one step can make more than one; default: no. Answers stay the same.
    pub speculation: Speculation,
    /// Seed of `random:` weights (default 0) and of requests that bring no seed of their own (default: a fresh one).
    pub seed: Option<u64>,
    /// LoRA adapters to load with the model: the name that requests choose one by, and its directory.
    pub adapters: Vec<(String, PathBuf)>,
    /// Refuse a model without a tokenizer before its weights are loaded.
    pub require_tokenizer: bool,
    /// Never touch the network.
    pub offline: bool,
    /// Hub cache directory; default: the hub's own.
    pub cache_dir: Option<PathBuf>,
    /// Told about downloading and loading.
    pub progress: Option<Arc<dyn Progress>>,
    /// Answers in place of MODEL, of which only tokenizer, template and configuration are read then.
    #[cfg(feature = "testing")]
    pub fake: Option<crate::testing::FakeModel>,
}

impl std::fmt::Debug for EngineOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineOptions")
            .field("threads", &self.threads)
            .field("device", &self.device)
            .field("open_device", &self.open_device)
            .field("quantize", &self.quantize)
            .field("kv_dtype", &self.kv_dtype)
            .field("max_model_len", &self.max_model_len)
            .field("kv_cache_tokens", &self.kv_cache_tokens)
            .field("max_num_seqs", &self.max_num_seqs)
            .field("max_num_batched_tokens", &self.max_num_batched_tokens)
            .field("max_num_prefill_tokens", &self.max_num_prefill_tokens)
            .field("max_step_time", &self.max_step_time)
            .field("max_waiting", &self.max_waiting)
            .field("max_waiting_tokens", &self.max_waiting_tokens)
            .field("priority_aging", &self.priority_aging)
            .field("prefix_cache", &self.prefix_cache)
            .field("prefix_cache_file", &self.prefix_cache_file)
            .field("swap_space", &self.swap_space)
            .field("speculation", &self.speculation)
            .field("seed", &self.seed)
            .field("adapters", &self.adapters)
            .field("require_tokenizer", &self.require_tokenizer)
            .field("offline", &self.offline)
            .finish_non_exhaustive()
    }
}

impl EngineOptions {
    /// The part that concerns opening the checkpoint.
    pub fn open_options(&self) -> OpenOptions {
        let mut open = OpenOptions::default();
        open.offline = self.offline;
        open.cache_dir = self.cache_dir.clone();
        open.progress = self.progress.clone();
        open
    }

    /// [`Self::max_num_batched_tokens`] if no number is asked for. Sequences beyond the usual number come on top, so that prompts have as
    /// much room beside them.
    pub(crate) fn default_batched_tokens(on_cuda: bool, max_num_seqs: usize) -> usize {
        let tokens = match on_cuda {
            true => DEFAULT_MAX_NUM_BATCHED_TOKENS_ON_CUDA,
            false => DEFAULT_MAX_NUM_BATCHED_TOKENS,
        };
        tokens.saturating_add(max_num_seqs.saturating_sub(DEFAULT_MAX_NUM_SEQS))
    }
}

/// Collects [`EngineOptions`] and builds; every method takes the plain value or an `Option`.
#[derive(Debug, Clone)]
#[must_use]
pub struct EngineBuilder {
    model: String,
    options: EngineOptions,
}

macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident: $ty:ty,)*) => {
        $($(#[$doc])*
        pub fn $name(mut self, $name: impl Into<Option<$ty>>) -> Self {
            self.options.$name = $name.into();
            self
        })*
    };
}

impl EngineBuilder {
    pub(super) fn new(model: String) -> Self {
        Self {
            model,
            options: EngineOptions::default(),
        }
    }

    setters! {
        /// See [`EngineOptions::threads`].
        threads: usize,
        /// See [`EngineOptions::device`].
        device: String,
        /// See [`EngineOptions::open_device`].
        open_device: Device,
        /// See [`EngineOptions::isa`].
        isa: Isa,
        /// See [`EngineOptions::quantize`].
        quantize: Quantization,
        /// See [`EngineOptions::kv_dtype`].
        kv_dtype: KvDType,
        /// See [`EngineOptions::max_model_len`].
        max_model_len: usize,
        /// See [`EngineOptions::kv_cache_tokens`].
        kv_cache_tokens: usize,
        /// See [`EngineOptions::max_num_seqs`].
        max_num_seqs: usize,
        /// See [`EngineOptions::max_num_batched_tokens`].
        max_num_batched_tokens: usize,
        /// See [`EngineOptions::max_num_prefill_tokens`].
        max_num_prefill_tokens: usize,
        /// See [`EngineOptions::max_step_time`].
        max_step_time: Duration,
        /// See [`EngineOptions::max_waiting`].
        max_waiting: usize,
        /// See [`EngineOptions::max_waiting_tokens`].
        max_waiting_tokens: usize,
        /// See [`EngineOptions::priority_aging`].
        priority_aging: Duration,
        /// See [`EngineOptions::prefix_cache`].
        prefix_cache: bool,
        /// See [`EngineOptions::prefix_cache_file`].
        prefix_cache_file: PathBuf,
        /// See [`EngineOptions::swap_space`].
        swap_space: u64,
        /// See [`EngineOptions::seed`].
        seed: u64,
        /// See [`EngineOptions::cache_dir`].
        cache_dir: PathBuf,
        /// See [`EngineOptions::progress`].
        progress: Arc<dyn Progress>,
    }

    /// See [`EngineOptions::speculation`].
    pub fn speculation(mut self, speculation: Speculation) -> Self {
        self.options.speculation = speculation;
        self
    }

    /// See [`EngineOptions::fake`].
    #[cfg(feature = "testing")]
    pub fn fake(mut self, fake: crate::testing::FakeModel) -> Self {
        self.options.fake = Some(fake);
        self
    }

    /// Loads a LoRA adapter with the model: a directory that PEFT wrote. Requests choose it by
    /// [`name`](crate::GenerateOptions::adapter). May be called several times.
    pub fn adapter(mut self, name: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        self.options.adapters.push((name.into(), path.into()));
        self
    }

    /// See [`EngineOptions::require_tokenizer`].
    pub fn require_tokenizer(mut self, required: bool) -> Self {
        self.options.require_tokenizer = required;
        self
    }

    /// See [`EngineOptions::offline`].
    pub fn offline(mut self, offline: bool) -> Self {
        self.options.offline = offline;
        self
    }

    /// Replaces all options at once.
    pub fn options(mut self, options: EngineOptions) -> Self {
        self.options = options;
        self
    }

    /// Loads the model and starts the engine on a thread of its own.
    ///
    /// # Errors
    /// [`BuildError`]: the model cannot be opened, does not fit into memory, or an option is out of range.
    pub fn build(self) -> Result<EngineHandle, BuildError> {
        self.build_engine()?.spawn()
    }

    /// Loads the model into an engine without a thread: the caller drives it with [`Engine::step`].
    ///
    /// # Errors
    /// As [`Self::build`].
    pub fn build_engine(self) -> Result<Engine, BuildError> {
        Engine::load(&self.model, &self.options)
    }
}

/// A linear layer's name and size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LinearShape {
    /// Name, as in the checkpoint where it is one matrix there.
    pub name: String,
    /// `[out_features, in_features]`.
    pub shape: [usize; 2],
}

/// What was loaded, and how.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ModelInfo {
    /// Name of the model as opened.
    pub name: String,
    /// The MODEL that was asked for.
    pub asked_as: String,
    /// `model_type` of the config.
    pub architecture: String,
    /// Number of weights.
    pub parameters: u64,
    /// Bytes of all weights as held.
    pub weight_bytes: u64,
    /// Bytes of weights that one decode step reads: all of them but the embedding table, unless it is tied to the head.
    pub weight_bytes_per_step: u64,
    /// Arithmetic operations that the layers' matrices take for one token, a multiply-add counted as two.
    pub layer_operations: u64,
    /// Operations of the output head for one row of logits.
    pub head_operations: u64,
    /// The linear layers of a decoder layer and the output head.
    pub linear_layers: Vec<LinearShape>,
    /// Formats of the weight matrices with the bytes in each, largest first.
    pub formats: Vec<(String, u64)>,
    /// Storage of keys and values.
    pub kv_dtype: String,
    /// KV bytes of one token over all layers.
    pub kv_bytes_per_token: u64,
    /// Tokens the KV cache holds.
    pub kv_capacity_tokens: usize,
    /// The size of the KV cache and what it follows from.
    pub kv_budget: KvBudget,
    /// Context size in tokens, prompt and answer together.
    pub max_model_len: usize,
    /// Most tokens in one step.
    pub max_num_batched_tokens: usize,
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Length of a hidden state, and of an embedding.
    pub hidden_size: usize,
    /// Device, as a person would name it.
    pub device: String,
    /// Bytes that a graphics processor's memory moves by its clock, in GB/s (1e9 bytes); `None` on the CPU.
    pub device_bandwidth_gb_s: Option<f64>,
    /// Worker threads.
    pub threads: usize,
    /// Whether text can go in and out.
    pub has_tokenizer: bool,
    /// What the checkpoint says about itself that a user should know (the embedded demo, for one).
    pub note: Option<String>,
    /// What loading did that the caller may not expect, one sentence each.
    pub load_notes: Vec<String>,
}
