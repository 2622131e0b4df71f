//! What is in a checkpoint, and the memory it would need here, without loading it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use glm_core::{Checkpoint, Format, LoadError};
use glm_kernels::KvDType;
use serde::Serialize;

use crate::kv::auto_kv_dtype_on_cpu;
use crate::load::{ModelSource, Quantization, TensorSpec, weight_bytes};
use crate::memory::{EstimateOptions, MemoryEstimate};

/// What [`inspect`] is to assume about the engine that would run the model.
#[derive(Debug, Clone, Copy, Default)]
pub struct InspectOptions {
    /// Quantise while loading.
    pub quantize: Option<Quantization>,
    /// Storage of keys and values; default: as the engine chooses.
    pub kv_dtype: Option<KvDType>,
    /// Context length in tokens; default: the model's own.
    pub max_model_len: Option<usize>,
}

/// Everything there is to say about a model before it is loaded.
#[derive(Debug, Clone, Serialize)]
pub struct Inspection {
    /// Name as opened.
    pub name: String,
    /// Where its files are; `None` for the embedded model and for random weights.
    pub path: Option<PathBuf>,
    /// `safetensors`, `pytorch`, `gguf` or `random`.
    pub format: &'static str,
    /// `model_type` of the config.
    pub architecture: String,
    /// Number of weights.
    pub parameters: u64,
    /// Bytes of all tensors as stored.
    pub tensor_bytes: u64,
    /// Tensors and bytes in each storage type.
    pub types: BTreeMap<String, TypeTotal>,
    /// The configuration, as `config.json` would have it.
    pub config: serde_json::Value,
    /// The tokenizer; random weights have none.
    pub tokenizer: Option<TokenizerSummary>,
    /// The chat format; random weights have none.
    pub chat: Option<ChatSummary>,
    /// What would keep the model from answering, one sentence each.
    pub problems: Vec<String>,
    /// Sampling that the checkpoint recommends, and its end tokens.
    pub generation: GenerationSummary,
    /// What a loaded engine would take.
    pub memory: MemorySummary,
    /// Every tensor, in file order.
    pub tensors: Vec<TensorSummary>,
}

/// Share of one storage type.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TypeTotal {
    /// Number of tensors.
    pub tensors: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// One tensor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TensorSummary {
    /// Canonical name.
    pub name: String,
    /// Row-major shape.
    pub shape: Vec<usize>,
    /// Storage type.
    #[serde(rename = "type")]
    pub ty: String,
    /// Length in bytes.
    pub bytes: u64,
}

/// The tokenizer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TokenizerSummary {
    /// Number of token ids.
    pub vocab_size: usize,
    /// Ids put before a raw prompt.
    pub prefix: Vec<u32>,
    /// The same as text.
    pub prefix_text: String,
    /// Ids of special tokens with their text.
    pub special_tokens: BTreeMap<u32, String>,
}

/// The chat format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChatSummary {
    /// Generation of the family whose conventions apply.
    pub generation: String,
    /// Whether the checkpoint brings a template; otherwise the built-in one is used.
    pub own_template: bool,
}

/// What `generation_config.json` says.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct GenerationSummary {
    /// Tokens that end an answer.
    pub eos_token_ids: Vec<u32>,
    /// `false` asks for greedy decoding.
    pub do_sample: Option<bool>,
    /// Softmax temperature.
    pub temperature: Option<f64>,
    /// Nucleus mass.
    pub top_p: Option<f64>,
    /// Number of candidates.
    pub top_k: Option<u32>,
}

/// Memory that a loaded engine would take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemorySummary {
    /// Context length in tokens that this is for.
    pub max_model_len: usize,
    /// Storage of keys and values.
    pub kv_dtype: String,
    /// Item by item.
    #[serde(flatten)]
    pub estimate: MemoryEstimate,
    /// All items together.
    pub total: u64,
    /// Whether it fits here now.
    pub fits: bool,
    /// What would make it fit, if it does not.
    pub advice: Option<String>,
}

/// Tokens in the largest step, as the engine chooses by itself.
const MAX_NUM_BATCHED_TOKENS: usize = 512;

/// Looks at a model. Damage that opening did not find, such as an unusable tokenizer, is part of the result.
pub fn inspect(source: &ModelSource, options: &InspectOptions) -> Inspection {
    let specs = source.tensors();
    let tensors: Vec<_> = specs.iter().map(summary).collect();
    let mut types = BTreeMap::<String, TypeTotal>::new();
    for tensor in &tensors {
        let total = types.entry(tensor.ty.clone()).or_default();
        total.tensors += 1;
        total.bytes += tensor.bytes;
    }
    let checkpoint = source.checkpoint();
    let mut problems = Vec::new();
    let tokenizer = checkpoint.and_then(|checkpoint| noting(tokenizer(checkpoint), &mut problems));
    let chat = checkpoint.and_then(|checkpoint| noting(chat(checkpoint), &mut problems));
    Inspection {
        name: source.name().to_owned(),
        path: checkpoint.and_then(Checkpoint::path).map(Into::into),
        format: format_name(checkpoint),
        architecture: source.config().architecture().to_owned(),
        parameters: specs.iter().map(TensorSpec::elements).sum(),
        tensor_bytes: tensors.iter().map(|tensor| tensor.bytes).sum(),
        types,
        config: source.config().to_json(),
        tokenizer,
        chat,
        problems,
        generation: generation(source),
        memory: memory(source, options),
        tensors,
    }
}

fn format_name(checkpoint: Option<&Checkpoint>) -> &'static str {
    match checkpoint.map(Checkpoint::format) {
        Some(Format::Safetensors) => "safetensors",
        Some(Format::PyTorch) => "pytorch",
        Some(Format::Gguf) => "gguf",
        None => "random",
    }
}

fn summary(spec: &TensorSpec) -> TensorSummary {
    TensorSummary {
        name: spec.name.clone(),
        shape: spec.shape.clone(),
        ty: spec.format.name().to_owned(),
        bytes: byte_len(spec),
    }
}

/// Bytes of a tensor as stored; opening has checked that blocks divide its rows.
fn byte_len(spec: &TensorSpec) -> u64 {
    spec.elements() / spec.format.block_len() as u64 * spec.format.block_bytes() as u64
}

/// The value, or `None` and one more problem.
fn noting<T>(result: Result<T, LoadError>, problems: &mut Vec<String>) -> Option<T> {
    result
        .map_err(|error| problems.push(error.to_string()))
        .ok()
}

fn tokenizer(checkpoint: &Checkpoint) -> Result<TokenizerSummary, LoadError> {
    let tokenizer = checkpoint.tokenizer()?;
    let special = (0..tokenizer.vocab_size() as u32)
        .filter(|&id| tokenizer.is_special(id))
        .filter_map(|id| Some((id, tokenizer.id_to_token(id)?.to_owned())));
    Ok(TokenizerSummary {
        vocab_size: tokenizer.vocab_size(),
        prefix: tokenizer.prefix().to_vec(),
        prefix_text: tokenizer.decode(tokenizer.prefix(), false),
        special_tokens: special.collect(),
    })
}

fn chat(checkpoint: &Checkpoint) -> Result<ChatSummary, LoadError> {
    let format = checkpoint.chat_format()?;
    Ok(ChatSummary {
        generation: format.generation().to_string(),
        own_template: !format.is_built_in(),
    })
}

fn generation(source: &ModelSource) -> GenerationSummary {
    source
        .generation_config()
        .map_or_else(GenerationSummary::default, |config| GenerationSummary {
            eos_token_ids: config.eos_token_ids.clone(),
            do_sample: config.do_sample,
            temperature: config.temperature,
            top_p: config.top_p,
            top_k: config.top_k,
        })
}

fn memory(source: &ModelSource, options: &InspectOptions) -> MemorySummary {
    let dense = source.config().dense();
    let max_model_len = options.max_model_len.unwrap_or_else(|| dense.max_context());
    let kv_dtype = options
        .kv_dtype
        .unwrap_or_else(|| auto_kv_dtype_on_cpu(dense, max_model_len));
    let weights = weight_bytes(source, options.quantize, None);
    let sizes = EstimateOptions {
        kv_dtype,
        kv_tokens: max_model_len,
        max_num_batched_tokens: MAX_NUM_BATCHED_TOKENS,
    };
    let estimate = MemoryEstimate::new(source.config(), weights, sizes);
    MemorySummary {
        max_model_len,
        kv_dtype: kv_dtype.name().to_owned(),
        total: estimate.total(),
        fits: estimate.fits(),
        advice: estimate
            .check(options.quantize.is_some())
            .err()
            .map(|shortage| shortage.advice),
        estimate,
    }
}
