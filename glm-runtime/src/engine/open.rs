//! From MODEL and options to an [`Engine`]: decide the sizes, check that they fit, load.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use glm_core::{
    Adapter, ChatFormat, Checkpoint, DenseConfig, GenerationConfig, LoadError, ModelConfig,
    Tokenizer,
};
use glm_kernels::{CpuOptions, CudaOptions, Device, Graphs, KvDType};

use super::draft::OpenedDraft;
use super::handle::Front;
use super::kv_budget::{Beside, KvBudget};
use super::launch::runs_ahead;
use super::limits::Limits;
use super::options::DEFAULT_MAX_NUM_SEQS;
use super::prefix_cache::{KvSource, PrefixCacheKeeper};
use super::{Engine, EngineOptions, EngineStats, LinearShape, ModelInfo};
use crate::error::BuildError;
use crate::guide::{GuideFactory, MaskThreads};
use crate::kv::{BLOCK_SIZE, BlockAllocator, KvPool, auto_kv_dtype};
use crate::load::{Loaded, ModelSource, Quantization, TensorSpec, WeightLoader, weight_bytes};
use crate::lora::{AdapterError, AdapterRegistry, packed_bytes};
use crate::memory::{EstimateOptions, MemoryEstimate, activation_bytes, available_on};
use crate::models::{CausalLm, Glm, Glm4};
use crate::profile::Profiler;
use crate::sampling::SamplingParams;
use crate::scheduler::{Scheduler, SchedulerConfig};
use crate::speculate::Speculator;
#[cfg(feature = "testing")]
use crate::testing::FakeModel;

/// Context size when none is asked for: enough for a conversation, and the KV cache of a 9B model stays below 1 GiB.
const DEFAULT_MAX_MODEL_LEN: usize = 8192;
/// Requests that a person waits for come before a batch of lower priority for as long as a person waits.
const DEFAULT_PRIORITY_AGING: Duration = Duration::from_secs(10);

/// The sizes an engine is built with.
#[derive(Debug, Clone)]
pub(super) struct Sizes {
    pub(super) num_blocks: usize,
    pub(super) kv_dtype: KvDType,
    pub(super) prefix_cache: bool,
    pub(super) scheduler: SchedulerConfig,
}

/// What matrices become, if the device has it.
pub(super) fn checked_quantization(
    options: &EngineOptions,
    device: &Device,
) -> Result<Option<Quantization>, BuildError> {
    let checked = |quantize: Quantization| quantize.checked_on(device);
    options.quantize.map(checked).transpose()
}

impl Engine {
    /// Opens MODEL and loads it.
    pub(super) fn load(model: &str, options: &EngineOptions) -> Result<Self, BuildError> {
        options.speculation.check()?;
        check_prefix_cache(options)?;
        let device = open_device(options)?;
        let quantize = checked_quantization(options, &device)?;
        let source = ModelSource::open(model, &options.open_options(), options.seed.unwrap_or(0))?;
        // Whatever is wrong with the text side is said before minutes of loading weights.
        let text = TextSide::open(&source, options.require_tokenizer)?;
        #[cfg(feature = "testing")]
        if let Some(fake) = &options.fake {
            return Self::with_fake(fake, (model, &source), text, device.host(), options);
        }
        let adapters = adapter_bytes(options, source.config(), &device)?;
        let draft = OpenedDraft::open(options, &source, text.tokenizer.as_ref())?;
        let draft_weights = draft
            .as_ref()
            .map_or(0, |draft| draft.weight_bytes(&device));
        let own_weights = weight_bytes(&source, quantize, Some(&device)).saturating_add(adapters);
        let weights = own_weights
            .saturating_add(draft_weights)
            .saturating_add(swap_beside_weights(&device, options));
        let config = source.config().dense();
        let draft_config = draft.as_ref().map(OpenedDraft::config);
        let (sizes, kv_budget) = Sizes::decide(config, &device, options, weights, draft_config)?;
        let draft_kv = draft.as_ref().map_or(0, |draft| draft.kv_bytes(&sizes));
        sizes
            .estimate(source.config(), &device, weights.saturating_add(draft_kv))
            .check(quantize.is_some())?;

        let mut loader = WeightLoader::new(&source, &device, quantize, options.progress.as_deref());
        let asked_as = model.to_owned();
        let model = load_model(&source, &mut loader)?;
        let draft = draft.map(|draft| draft.load(&device, &sizes, own_weights, options));
        let speculator = Speculator::new(&options.speculation, draft.transpose()?);
        let loaded = loader.finish();
        let mut front = Front::new(
            &source,
            text,
            &device,
            (&sizes, kv_budget),
            &loaded,
            quantize,
        );
        front.info.asked_as = asked_as;
        for (name, path) in &options.adapters {
            front.adapters.load(name, path)?;
        }
        let kv_dtype = sizes.kv_dtype;
        let mut engine = Self::assemble(
            device,
            model,
            sizes,
            front,
            eos_token_ids(&source),
            options.seed,
        )?;
        engine.speculator = speculator;
        let kv_source = KvSource::Model {
            source,
            quantize,
            kv_dtype,
        };
        engine.with_kept_blocks(options, kv_source)
    }

    /// Adds the places outside of the KV cache where blocks are kept, if they are asked for.
    fn with_kept_blocks(
        mut self,
        options: &EngineOptions,
        kv_source: KvSource,
    ) -> Result<Self, BuildError> {
        self.keeper = PrefixCacheKeeper::new(options.prefix_cache_file.clone(), kv_source);
        self.restore_prefix_cache()?;
        self.with_swap_space(options.swap_space.unwrap_or(0))
    }

    #[cfg(feature = "testing")]
    fn with_fake(
        fake: &FakeModel,
        (model, source): (&str, &ModelSource),
        text: TextSide,
        device: Device,
        options: &EngineOptions,
    ) -> Result<Self, BuildError> {
        let config = FakeModel::config(source.config().dense());
        let (mut sizes, kv_budget) = Sizes::decide(&config, &device, options, 0, None)?;
        // What such a model computes in a step must not depend on how busy a test's machine is.
        sizes.scheduler.max_step_time.get_or_insert(Duration::MAX);
        let eos = eos_token_ids(source);
        let tokenizer = text.tokenizer.clone();
        let hidden_size = config.hidden_size;
        let asked_as = model.to_owned();
        let model = fake.model(config, &device, tokenizer, eos.first().copied());
        let budget = (&sizes, kv_budget);
        let mut front = Front::new(source, text, &device, budget, &Loaded::default(), None);
        front.info.asked_as = asked_as;
        front.info.hidden_size = hidden_size;
        front.info.note = Some("A fake model: its answers come from a test.".to_owned());
        let mut engine = Self::assemble(device, model, sizes, front, eos, options.seed)?;
        engine.speculator = Speculator::new(&options.speculation, None);
        let name = ("model".to_owned(), "fake".to_owned());
        engine.with_kept_blocks(options, KvSource::Named([name].into()))
    }

    /// Puts a model and its cache together.
    pub(super) fn assemble(
        device: Device,
        model: Box<dyn CausalLm>,
        sizes: Sizes,
        front: Front,
        eos_token_ids: Vec<u32>,
        seed: Option<u64>,
    ) -> Result<Self, BuildError> {
        Ok(Self {
            kv: KvPool::new(&device, model.config(), sizes.kv_dtype, sizes.num_blocks)?,
            graphs: Graphs::new(&device),
            runs_ahead: runs_ahead(&device),
            launched: None,
            concluded: Instant::now(),
            blocks: BlockAllocator::new(sizes.num_blocks as u32),
            blocks_of_looks: 0,
            scheduler: Scheduler::new(sizes.scheduler),
            speculator: None,
            swap_store: None,
            requests: HashMap::new(),
            mask_threads: MaskThreads::default(),
            front: Arc::new(front),
            eos_token_ids,
            max_num_batched_tokens: sizes.scheduler.max_num_batched_tokens,
            prefix_cache: sizes.prefix_cache,
            keeper: PrefixCacheKeeper::default(),
            // The standard library seeds its hash maps from the operating system's random numbers.
            seed: seed.unwrap_or_else(|| RandomState::new().build_hasher().finish()),
            next_id: 0,
            origin: Instant::now(),
            counters: EngineStats::default(),
            profiler: Arc::new(Profiler::new(device.clone())),
            device,
            model,
        })
    }
}

/// Reads the weights of a model into what its configuration says it is.
pub(super) fn load_model(
    source: &ModelSource,
    loader: &mut WeightLoader<'_>,
) -> Result<Box<dyn CausalLm>, BuildError> {
    Ok(match source.config() {
        ModelConfig::Glm(_) => Box::new(Glm::load(loader)?),
        ModelConfig::Glm4(_) => Box::new(Glm4::load(loader)?),
        other => {
            let found = other.architecture().to_owned();
            return Err(BuildError::NotSupported {
                what: "architecture",
                found,
            });
        }
    })
}

impl Sizes {
    pub(super) fn decide(
        config: &DenseConfig,
        device: &Device,
        options: &EngineOptions,
        weights: u64,
        draft: Option<&DenseConfig>,
    ) -> Result<(Self, KvBudget), BuildError> {
        let max_num_seqs =
            at_least_one("max_num_seqs", options.max_num_seqs, DEFAULT_MAX_NUM_SEQS)?;
        let max_num_batched_tokens = at_least_one(
            "max_num_batched_tokens",
            options.max_num_batched_tokens,
            EngineOptions::default_batched_tokens(device.cuda_info().is_some(), max_num_seqs),
        )?;
        let max_model_len = max_model_len(config, options.max_model_len)?;
        let max_num_prefill_tokens = at_least_one(
            "max_num_prefill_tokens",
            options.max_num_prefill_tokens,
            max_num_batched_tokens,
        )?;
        if options.max_step_time == Some(Duration::ZERO) {
            return Err(BuildError::Option {
                option: "max_step_time",
                allowed: "longer than 0",
                found: "0".to_owned(),
            });
        }
        let beside = Beside {
            weights,
            activations: activation_bytes(config, max_num_batched_tokens),
            draft,
        };
        let kv_budget = KvBudget::decide(
            config,
            device,
            options.kv_cache_tokens,
            options.kv_dtype,
            max_model_len,
            beside,
        )?;
        let scheduler = SchedulerConfig {
            // Every running sequence decodes in every step, so a step has room for as many.
            max_num_seqs: max_num_seqs.min(max_num_batched_tokens),
            max_num_batched_tokens,
            max_num_prefill_tokens,
            max_step_time: options.max_step_time,
            max_model_len,
            max_waiting: options.max_waiting,
            max_waiting_tokens: options.max_waiting_tokens,
            priority_aging: options.priority_aging.unwrap_or(DEFAULT_PRIORITY_AGING),
        };
        let auto = || auto_kv_dtype(config, device, kv_budget.tokens());
        let sizes = Self {
            num_blocks: kv_budget.blocks,
            kv_dtype: options.kv_dtype.unwrap_or_else(auto),
            prefix_cache: options.prefix_cache.unwrap_or(true),
            scheduler,
        };
        Ok((sizes, kv_budget))
    }

    fn estimate(&self, config: &ModelConfig, device: &Device, weights: u64) -> MemoryEstimate {
        let options = EstimateOptions {
            kv_dtype: self.kv_dtype,
            kv_tokens: self.num_blocks * BLOCK_SIZE,
            max_num_batched_tokens: self.scheduler.max_num_batched_tokens,
        };
        MemoryEstimate {
            available: available_on(device),
            ..MemoryEstimate::new(config, weights, options)
        }
    }
}

/// As asked, or what the checkpoint was made for, at most [`DEFAULT_MAX_MODEL_LEN`].
fn max_model_len(config: &DenseConfig, asked: Option<usize>) -> Result<usize, BuildError> {
    let max = config.max_context();
    match asked {
        Some(asked) if asked == 0 || asked > max => Err(BuildError::MaxModelLen { asked, max }),
        Some(asked) => Ok(asked),
        None => Ok(max.clamp(1, DEFAULT_MAX_MODEL_LEN)),
    }
}

fn at_least_one(
    option: &'static str,
    asked: Option<usize>,
    default: usize,
) -> Result<usize, BuildError> {
    match asked {
        Some(0) => Err(BuildError::Option {
            option,
            allowed: "at least 1",
            found: "0".to_owned(),
        }),
        asked => Ok(asked.unwrap_or(default)),
    }
}

/// Refuses a file for a cache that is switched off.
fn check_prefix_cache(options: &EngineOptions) -> Result<(), BuildError> {
    match &options.prefix_cache_file {
        Some(path) if options.prefix_cache == Some(false) => Err(BuildError::Option {
            option: "prefix_cache_file",
            allowed: "left out where prefix_cache is off",
            found: path.display().to_string(),
        }),
        _ => Ok(()),
    }
}

/// The device that the options name.
pub(super) fn open_device(options: &EngineOptions) -> Result<Device, BuildError> {
    if let Some(device) = &options.open_device {
        return Ok(device.clone());
    }
    let host = CpuOptions {
        threads: options.threads,
        isa: options.isa,
    };
    let cuda = |ordinal| {
        Device::cuda(CudaOptions {
            ordinal,
            host,
            ..CudaOptions::default()
        })
    };
    match options.device.as_deref() {
        // Whoever asks for an instruction set asks for the CPU. Why a graphics processor cannot be used, `doctor` says.
        None | Some("auto") if options.isa.is_none() => match cuda(0) {
            Ok(device) => Ok(device),
            Err(_) => Ok(Device::cpu(host)?),
        },
        None | Some("auto" | "cpu") => Ok(Device::cpu(host)?),
        Some("cuda") => Ok(cuda(0)?),
        Some(other) => match other.strip_prefix("cuda:").map(str::parse) {
            Some(Ok(ordinal)) => Ok(cuda(ordinal)?),
            _ => Err(BuildError::Device(other.to_owned())),
        },
    }
}

/// Bytes of the room for preempted sequences that lie in the same memory as the weights: those are the host's.
pub(super) fn swap_beside_weights(device: &Device, options: &EngineOptions) -> u64 {
    match device.cuda_info() {
        Some(_) => 0,
        None => options.swap_space.unwrap_or(0),
    }
}

/// Bytes of memory that the adapters to be loaded will take. What is wrong with them is said here, before the weights are read.
fn adapter_bytes(
    options: &EngineOptions,
    model: &ModelConfig,
    device: &Device,
) -> Result<u64, BuildError> {
    let mut bytes: u64 = 0;
    for (_, path) in &options.adapters {
        let adapter = Adapter::open(path, model).map_err(AdapterError::from)?;
        bytes = bytes.saturating_add(packed_bytes(&adapter, device));
    }
    Ok(bytes)
}

/// End-of-sequence ids: `generation_config.json` first, else the config's.
fn eos_token_ids(source: &ModelSource) -> Vec<u32> {
    let generation = source
        .generation_config()
        .map(|config| config.eos_token_ids.clone())
        .unwrap_or_default();
    if generation.is_empty() {
        source.config().dense().eos_token_ids.clone()
    } else {
        generation
    }
}

/// What turns text into token ids; both are absent for a model that runs in token ids only.
struct TextSide {
    tokenizer: Option<Tokenizer>,
    chat_format: Option<ChatFormat>,
}

impl TextSide {
    fn open(source: &ModelSource, required: bool) -> Result<Self, BuildError> {
        let tokenizer = match source.checkpoint().map(Checkpoint::tokenizer).transpose() {
            Err(LoadError::NoTokenizer { .. }) => None,
            tokenizer => tokenizer?,
        };
        let chat_format = match (source.checkpoint(), &tokenizer) {
            (Some(checkpoint), Some(_)) => Some(checkpoint.chat_format()?),
            (_, None) if required => {
                return Err(BuildError::NoTokenizer {
                    model: source.name().to_owned(),
                });
            }
            _ => None,
        };
        Ok(Self {
            tokenizer,
            chat_format,
        })
    }
}

impl Front {
    fn new(
        source: &ModelSource,
        text: TextSide,
        device: &Device,
        (sizes, kv_budget): (&Sizes, KvBudget),
        loaded: &Loaded,
        quantize: Option<Quantization>,
    ) -> Self {
        let info = model_info(source, &text, device, (sizes, kv_budget), loaded, quantize);
        let TextSide {
            tokenizer,
            chat_format,
        } = text;
        let limits = Limits {
            model: info.name.clone(),
            vocab_size: info.vocab_size,
            scheduler: sizes.scheduler,
            has_tokenizer: info.has_tokenizer,
        };
        let default_sampling = source
            .generation_config()
            .map(default_sampling)
            .unwrap_or_default();
        let guides = tokenizer.as_ref().map(|tokenizer| {
            let thinks = chat_format
                .as_ref()
                .is_some_and(|format| format.generation().thinks());
            GuideFactory::new(tokenizer.clone(), info.vocab_size, eos_token_ids(source))
                .thinking(thinks)
        });
        Self {
            info,
            limits,
            tokenizer,
            chat_format,
            eos_token_ids: eos_token_ids(source),
            default_sampling,
            guides,
            adapters: AdapterRegistry::new(device, source.config()),
        }
    }
}

/// What was loaded, and how; what it was asked for as is added by whoever was asked.
fn model_info(
    source: &ModelSource,
    text: &TextSide,
    device: &Device,
    (sizes, kv_budget): (&Sizes, KvBudget),
    loaded: &Loaded,
    quantize: Option<Quantization>,
) -> ModelInfo {
    let config = source.config().dense();
    let mut load_notes = source
        .checkpoint()
        .map(|c| c.warnings().to_vec())
        .unwrap_or_default();
    load_notes.extend(fallback_notes(loaded, quantize));
    let mut formats: Vec<_> = loaded
        .formats
        .iter()
        .map(|(f, &bytes)| (f.name().to_owned(), bytes))
        .collect();
    formats.sort_by_key(|&(_, bytes)| std::cmp::Reverse(bytes));
    ModelInfo {
        name: source.name().to_owned(),
        asked_as: String::new(),
        architecture: source.config().architecture().to_owned(),
        parameters: loaded.parameters,
        weight_bytes: loaded.bytes,
        weight_bytes_per_step: loaded.bytes - loaded.untied_embedding_bytes,
        linear_layers: linear_layers(config),
        layer_operations: 2 * layer_weights(source),
        head_operations: 2 * (config.vocab_size * config.hidden_size) as u64,
        formats,
        kv_dtype: sizes.kv_dtype.name().to_owned(),
        kv_bytes_per_token: kv_budget.bytes_per_token,
        kv_capacity_tokens: kv_budget.tokens(),
        kv_budget,
        max_model_len: sizes.scheduler.max_model_len,
        max_num_batched_tokens: sizes.scheduler.max_num_batched_tokens,
        hidden_size: config.hidden_size,
        vocab_size: config.vocab_size,
        device: device.name(),
        device_bandwidth_gb_s: device
            .cuda_info()
            .map(|info| info.memory_bandwidth as f64 / 1e9),
        threads: device.num_threads(),
        has_tokenizer: text.tokenizer.is_some(),
        note: source
            .checkpoint()
            .and_then(Checkpoint::note)
            .map(str::to_owned),
        load_notes,
    }
}

fn linear_layers(config: &DenseConfig) -> Vec<LinearShape> {
    let (c, f) = (config.hidden_size, config.intermediate_size);
    let q = config.num_attention_heads * config.head_dim;
    let kv = config.num_key_value_heads * config.head_dim;
    [
        ("qkv_proj", [q + 2 * kv, c]),
        ("o_proj", [c, q]),
        ("gate_up_proj", [2 * f, c]),
        ("down_proj", [c, f]),
        ("lm_head", [config.vocab_size, c]),
    ]
    .into_iter()
    .map(|(name, shape)| LinearShape {
        name: name.to_owned(),
        shape,
    })
    .collect()
}

/// Weights of the layers' matrices.
fn layer_weights(source: &ModelSource) -> u64 {
    let in_layers = |spec: &&TensorSpec| spec.shape.len() > 1 && spec.name.contains(".layers.");
    let matrices = source.tensors().iter().filter(in_layers);
    matrices.map(TensorSpec::elements).sum()
}

/// One sentence per format that matrices took in place of the requested one.
fn fallback_notes(loaded: &Loaded, quantize: Option<Quantization>) -> Vec<String> {
    let Some(requested) = quantize else {
        return Vec::new();
    };
    let note = |(format, count)| {
        format!(
            "{count} matrices are held as {format}: stored in blocks already, or rows do not divide into {requested}"
        )
    };
    loaded.fallbacks.iter().map(note).collect()
}

/// What the checkpoint recommends; greedy unless it says `do_sample` or gives a temperature.
fn default_sampling(config: &GenerationConfig) -> SamplingParams {
    let off = SamplingParams::default();
    let samples = config.do_sample.unwrap_or(config.temperature.is_some());
    let recommended = SamplingParams {
        temperature: if samples {
            config.temperature.unwrap_or(1.0) as f32
        } else {
            0.0
        },
        top_p: config.top_p.map_or(off.top_p, |p| p as f32),
        top_k: config.top_k.map_or(off.top_k, |k| k as usize),
        repetition_penalty: config
            .repetition_penalty
            .map_or(off.repetition_penalty, |p| p as f32),
        ..off.clone()
    };
    // A checkpoint can recommend nonsense; requests may not inherit it.
    if recommended.validate().is_ok() {
        recommended
    } else {
        off
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_context_that_yarn_extends_can_be_asked_for() {
        let json = r#"{"model_type":"glm4","vocab_size":64,"hidden_size":32,"intermediate_size":32,"num_hidden_layers":1,
            "num_attention_heads":2,"num_key_value_heads":1,"max_position_embeddings":32768,
            "rope_scaling":{"type":"yarn","factor":4.0,"original_max_position_embeddings":32768}}"#;
        let config = ModelConfig::from_json(json, Path::new("config.json")).unwrap();
        let len = |asked| max_model_len(config.dense(), asked);
        assert!(matches!(len(Some(131_072)), Ok(131_072)));
        assert!(matches!(
            len(Some(131_073)),
            Err(BuildError::MaxModelLen { max: 131_072, .. })
        ));
        assert!(matches!(len(None), Ok(DEFAULT_MAX_MODEL_LEN)));
    }
}
