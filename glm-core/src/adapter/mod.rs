//! LoRA adapters (Hu et al. 2021, arXiv:2106.09685) as PEFT saves them: a directory with `adapter_config.json` and
//! `adapter_model.safetensors` (or `.bin`).
//!
//! An adapter changes linear layers: `W x` becomes `W x + scaling · B (A x)`. PEFT names each by its path in the module tree it was
//! trained on. For one and the same model that may be transformers' or the remote code's of `chatglm`, with query, key and value
//! apart or fused. Here it is a [`Projection`] of a layer, query, key and value always being one, and the rows of it that change.
//!
//! All of it is hostile input: what PEFT can write and the engine does not compute is refused by name, and sizes are checked
//! against the file and the model before anything is read.

mod config;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use self::config::LoraConfig;
use crate::config::{DenseConfig, ModelConfig};
use crate::error::LoadError;
use crate::names::{Mapped, Scheme};
use crate::source::{SourceFile, read_text_if_present};
use crate::tensor::{RawTensor, TensorData, TensorInfo};
use crate::{pytorch, safetensors};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];
/// Far above any real one: with a pattern for each module of a 400-layer model it is below 1 MB.
const MAX_CONFIG_BYTES: u64 = 2 << 20;
/// What PEFT writes before the path of a module.
const PREFIX: &str = "base_model.model.";

/// A matrix of a model that adapters can change. Query, key and value are one, their rows in this order, and so are gate and up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Projection {
    /// `self_attn.qkv_proj`, `[(H + 2 KVH) D, C]`.
    Qkv,
    /// `self_attn.o_proj`, `[C, H D]`.
    Output,
    /// `mlp.gate_up_proj`, `[2F, C]`.
    GateUp,
    /// `mlp.down_proj`, `[C, F]`.
    Down,
    /// `embed_tokens`, of which a token takes a row: A has a column for each token, and B as many rows as that row is long.
    Embedding,
    /// `lm_head`, `[V, C]`.
    Head,
}

impl Projection {
    /// Columns of A in a model of these sizes.
    pub fn in_features(self, config: &DenseConfig) -> usize {
        match self {
            Self::Embedding => config.vocab_size,
            Self::Qkv | Self::GateUp | Self::Head => config.hidden_size,
            Self::Output => config.num_attention_heads * config.head_dim,
            Self::Down => config.intermediate_size,
        }
    }
}

/// The change of one matrix: `scaling · B A` is added to rows `rows` of it; of the embedding, to its columns.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterModule {
    /// Which decoder layer; 0 for what lies outside of them.
    pub layer: usize,
    /// Which of its matrices.
    pub projection: Projection,
    /// Rows of the layer's weight that change: as many as B has.
    pub rows: Range<usize>,
    /// Rows of A, columns of B.
    pub rank: usize,
    /// Factor on `B A`: `lora_alpha / rank`, or `lora_alpha / sqrt(rank)` with `use_rslora`.
    pub scaling: f32,
    a: usize,
    b: usize,
}

/// A LoRA adapter on disk that fits a model. Its tensors are mapped, not read.
pub struct Adapter {
    path: PathBuf,
    file: SourceFile,
    tensors: Vec<TensorInfo>,
    offsets: Vec<u64>,
    modules: Vec<AdapterModule>,
}

impl std::fmt::Debug for Adapter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Adapter")
            .field("path", &self.path)
            .field("modules", &self.modules.len())
            .finish_non_exhaustive()
    }
}

impl Adapter {
    /// Opens the adapter in `directory` for a model with this configuration.
    ///
    /// # Errors
    /// [`LoadError::NotAnAdapter`] without its files, [`LoadError::AdapterNotSupported`] for what is not computed, and the errors
    /// of a checkpoint for files that contradict themselves or the model.
    pub fn open(directory: &Path, model: &ModelConfig) -> Result<Self, LoadError> {
        let config_path = directory.join(CONFIG);
        let Some(text) = read_text_if_present(&config_path, MAX_CONFIG_BYTES)? else {
            return Err(not_an_adapter(directory, CONFIG));
        };
        let config = LoraConfig::read(&text, &config_path)?;
        let weights = WEIGHTS.map(|name| directory.join(name));
        let Some(path) = weights.iter().find(|path| path.exists()) else {
            return Err(not_an_adapter(directory, WEIGHTS[0]));
        };
        let file = SourceFile::open(path)?;
        let raw = match path.extension() {
            Some(extension) if extension == "bin" => pytorch::read_header(&file, 0)?,
            _ => safetensors::read_header(&file, 0)?,
        };
        Self::assemble(directory, file, &raw, &config, model)
    }

    fn assemble(
        directory: &Path,
        file: SourceFile,
        raw: &[RawTensor],
        config: &LoraConfig,
        model: &ModelConfig,
    ) -> Result<Self, LoadError> {
        let mut tensors = Vec::with_capacity(raw.len());
        let mut pairs: BTreeMap<Place, Pair<'_>> = BTreeMap::new();
        for (index, raw) in raw.iter().enumerate() {
            let (module, half) = split_name(raw).ok_or_else(|| unexpected(raw, &file, model))?;
            let place = Place::of(module, model.dense()).filter(|place| half.belongs_to(place));
            let place = place.ok_or_else(|| unexpected(raw, &file, model))?;
            config.check_targeted(module, place.decoder_layer(), file.path())?;
            tensors.push(tensor_info(raw, &file)?);
            if half == Half::Copy {
                check_copy(&tensors[index], model.dense())?;
                continue;
            }
            let pair = pairs.entry(place).or_insert_with(|| Pair::new(module));
            let before = match half {
                Half::A | Half::EmbeddingA => pair.a.replace(index),
                _ => pair.b.replace(index),
            };
            if before.is_some() || pair.module != module {
                return Err(twice(&raw.name, &file));
            }
        }
        let mut modules: Vec<AdapterModule> = Vec::with_capacity(pairs.len());
        for (place, pair) in pairs {
            let module = pair.module(&place, &tensors, config, model.dense(), &file)?;
            let overlaps = modules.last().is_some_and(|last| {
                (last.layer, last.projection) == (module.layer, module.projection)
                    && last.rows.end > module.rows.start
            });
            if overlaps {
                return Err(twice(&tensors[module.a].source_name, &file));
            }
            modules.push(module);
        }
        if modules.is_empty() {
            return Err(LoadError::Header {
                file: file.path().to_path_buf(),
                field: "the list of tensors".into(),
                expected: "lora_A and lora_B of at least one module".into(),
                found: "empty".into(),
            });
        }
        Ok(Self {
            path: directory.to_path_buf(),
            offsets: raw.iter().map(|raw| raw.offset).collect(),
            file,
            tensors,
            modules,
        })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What changes, layer by layer.
    pub fn modules(&self) -> &[AdapterModule] {
        &self.modules
    }

    /// A of a module, `[rank, in_features]`.
    pub fn a(&self, module: &AdapterModule) -> TensorData<'_> {
        self.data(module.a)
    }

    /// B of a module, `[rows.len(), rank]`.
    pub fn b(&self, module: &AdapterModule) -> TensorData<'_> {
        self.data(module.b)
    }

    fn data(&self, index: usize) -> TensorData<'_> {
        let info = &self.tensors[index];
        // The reader of the header has checked that the tensor lies within the file.
        let bytes = &self.file.bytes()[self.offsets[index] as usize..][..info.bytes as usize];
        TensorData {
            info,
            bytes: Cow::Borrowed(bytes),
        }
    }
}

/// What a module's path says of the model; ordered layer by layer, then by rows.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    layer: usize,
    projection: Projection,
    start: usize,
    end: usize,
}

impl Place {
    /// The place of a module such as `model.layers.3.self_attn.q_proj`, if the model has it.
    fn of(module: &str, config: &DenseConfig) -> Option<Self> {
        let scheme = match module.starts_with("transformer.") {
            true => Scheme::ChatGlm,
            false => Scheme::Transformers,
        };
        let canonical = match scheme.canonical(&format!("{module}.weight")) {
            Mapped::Canonical(name) => name,
            // Halves of what is one tensor in every checkpoint.
            _ if module.ends_with(".mlp.gate_proj") || module.ends_with(".mlp.up_proj") => {
                let whole = module.rsplit_once('.')?.0;
                match scheme.canonical(&format!("{whole}.gate_up_proj.weight")) {
                    Mapped::Canonical(_) => format!("{module}.weight"),
                    _ => return None,
                }
            }
            _ => return None,
        };
        let outside = |projection, rows| Self {
            layer: 0,
            projection,
            start: 0,
            end: rows,
        };
        match &*canonical {
            "model.embed_tokens.weight" => {
                return Some(outside(Projection::Embedding, config.hidden_size));
            }
            "lm_head.weight" => return Some(outside(Projection::Head, config.vocab_size)),
            _ => {}
        }
        let rest = canonical.strip_prefix("model.layers.")?;
        let (layer, suffix) = rest.strip_suffix(".weight")?.split_once('.')?;
        let layer = layer.parse().ok()?;
        let (projection, rows) = rows_of(suffix, config)?;
        (layer < config.num_hidden_layers).then_some(Self {
            layer,
            projection,
            start: rows.start,
            end: rows.end,
        })
    }
}

impl Place {
    /// The decoder layer that it is in, if it is in one.
    fn decoder_layer(&self) -> Option<usize> {
        let is_outside = matches!(self.projection, Projection::Embedding | Projection::Head);
        (!is_outside).then_some(self.layer)
    }
}

/// The projection that `suffix`, a module below a layer, is or is a part of, and its rows there.
fn rows_of(suffix: &str, config: &DenseConfig) -> Option<(Projection, Range<usize>)> {
    let (c, f) = (config.hidden_size, config.intermediate_size);
    let q = config.num_attention_heads * config.head_dim;
    let kv = config.num_key_value_heads * config.head_dim;
    Some(match suffix {
        "self_attn.qkv_proj" => (Projection::Qkv, 0..q + 2 * kv),
        "self_attn.q_proj" => (Projection::Qkv, 0..q),
        "self_attn.k_proj" => (Projection::Qkv, q..q + kv),
        "self_attn.v_proj" => (Projection::Qkv, q + kv..q + 2 * kv),
        "self_attn.o_proj" => (Projection::Output, 0..c),
        "mlp.gate_up_proj" => (Projection::GateUp, 0..2 * f),
        "mlp.gate_proj" => (Projection::GateUp, 0..f),
        "mlp.up_proj" => (Projection::GateUp, f..2 * f),
        "mlp.down_proj" => (Projection::Down, 0..c),
        _ => return None,
    })
}

/// Which matrix of a module a tensor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    A,
    B,
    /// Of an embedding, which has names of its own.
    EmbeddingA,
    EmbeddingB,
    /// The model's own embedding or output layer, which PEFT saves beside their changes. They are the model's already.
    Copy,
}

impl Half {
    fn belongs_to(self, place: &Place) -> bool {
        let is_embedding = place.projection == Projection::Embedding;
        match self {
            Self::A | Self::B => !is_embedding,
            Self::EmbeddingA | Self::EmbeddingB => is_embedding,
            Self::Copy => place.decoder_layer().is_none(),
        }
    }
}

/// A and B of a module by their index among the tensors.
struct Pair<'a> {
    /// The module's path.
    module: &'a str,
    a: Option<usize>,
    b: Option<usize>,
}

impl<'a> Pair<'a> {
    fn new(module: &'a str) -> Self {
        Self {
            module,
            a: None,
            b: None,
        }
    }

    fn module(
        &self,
        place: &Place,
        tensors: &[TensorInfo],
        config: &LoraConfig,
        model: &DenseConfig,
        file: &SourceFile,
    ) -> Result<AdapterModule, LoadError> {
        let module = self.module;
        let a = self
            .a
            .ok_or_else(|| lonely(module, "lora_A", "lora_B", file))?;
        let b = self
            .b
            .ok_or_else(|| lonely(module, "lora_B", "lora_A", file))?;
        let rows = place.start..place.end;
        let rank = config.rank(module);
        let shapes = [
            (a, [rank, place.projection.in_features(model)]),
            (b, [rows.len(), rank]),
        ];
        for (index, expected) in shapes {
            let info = &tensors[index];
            if info.shape != expected {
                return Err(LoadError::Shape {
                    file: info.file.clone(),
                    tensor: info.source_name.clone(),
                    expected: expected.to_vec(),
                    found: info.shape.clone(),
                });
            }
        }
        Ok(AdapterModule {
            layer: place.layer,
            projection: place.projection,
            rows,
            rank,
            scaling: config.scaling(module)?,
            a,
            b,
        })
    }
}

/// The path of the module that a tensor belongs to, and which of its matrices it is.
fn split_name(raw: &RawTensor) -> Option<(&str, Half)> {
    let name = raw.name.strip_prefix(PREFIX)?;
    let halves = [
        (".lora_A.weight", Half::A),
        (".lora_B.weight", Half::B),
        (".lora_embedding_A", Half::EmbeddingA),
        (".lora_embedding_B", Half::EmbeddingB),
        (".base_layer.weight", Half::Copy),
    ];
    halves
        .into_iter()
        .find_map(|(suffix, half)| Some((name.strip_suffix(suffix)?, half)))
}

/// A copy of another size is one of another model, or of one whose vocabulary was changed.
fn check_copy(copy: &TensorInfo, model: &DenseConfig) -> Result<(), LoadError> {
    let expected = [model.vocab_size, model.hidden_size];
    if copy.shape == expected {
        return Ok(());
    }
    Err(LoadError::Shape {
        file: copy.file.clone(),
        tensor: copy.source_name.clone(),
        expected: expected.to_vec(),
        found: copy.shape.clone(),
    })
}

fn unexpected(raw: &RawTensor, file: &SourceFile, model: &ModelConfig) -> LoadError {
    LoadError::UnexpectedTensor {
        file: file.path().to_path_buf(),
        tensor: raw.name.clone(),
        found: raw.shape.clone(),
        architecture: model.architecture(),
    }
}

fn twice(name: &str, file: &SourceFile) -> LoadError {
    LoadError::DuplicateTensor {
        tensor: name.to_owned(),
        first: file.path().to_path_buf(),
        second: file.path().to_path_buf(),
    }
}

fn lonely(module: &str, missing: &str, there: &str, file: &SourceFile) -> LoadError {
    LoadError::Header {
        file: file.path().to_path_buf(),
        field: format!("{missing} of module `{module}`"),
        expected: format!("a tensor beside {there}"),
        found: "missing".into(),
    }
}

fn tensor_info(raw: &RawTensor, file: &SourceFile) -> Result<TensorInfo, LoadError> {
    let ty = raw.ty.clone().map_err(|found| LoadError::TensorType {
        file: file.path().to_path_buf(),
        tensor: raw.name.clone(),
        found,
    })?;
    Ok(TensorInfo {
        name: raw.name.clone(),
        source_name: raw.name.clone(),
        shape: raw.shape.clone(),
        ty,
        file: file.path().to_path_buf(),
        bytes: raw.bytes,
    })
}

fn not_an_adapter(directory: &Path, missing: &str) -> LoadError {
    let is_checkpoint = directory.join("config.json").exists();
    LoadError::NotAnAdapter {
        path: directory.to_path_buf(),
        found: format!("it has no {missing}"),
        hint: match is_checkpoint {
            true => "it is a checkpoint: give it as the model",
            false => "give the directory that PEFT's save_pretrained wrote",
        },
    }
}
