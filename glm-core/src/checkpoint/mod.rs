//! Opening a checkpoint, whatever form it has.
//!
//! [`resolve`] turns the model argument into a place; [`directory`] and [`gguf_files`] read what is there into [`Parts`]; [`assemble`] renames the
//! tensors and checks them against the configuration. From then on sources do not differ.

mod assemble;
mod directory;
mod gguf_files;
#[cfg(feature = "hub")]
mod hub;
mod index;
mod resolve;
mod text;

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::chat::ChatFormat;
use crate::config::{GenerationConfig, ModelConfig};
use crate::error::LoadError;
use crate::gguf::Reader;
use crate::source::SourceFile;
use crate::tensor::{RawTensor, TensorData, TensorInfo};
use crate::tokenizer::Tokenizer;

pub(crate) use index::parse_index;

/// Reports of a slow operation: downloading, loading, quantising.
///
/// Calls come in the order `begin`, any number of `advance`, `end`, possibly from another thread.
pub trait Progress: Send + Sync {
    /// Something of `total` bytes starts; 0 when the size is not known.
    fn begin(&self, what: &str, total: u64);
    /// So many more bytes are done.
    fn advance(&self, bytes: u64);
    /// It ended, well or not.
    fn end(&self);
}

/// How [`Checkpoint::open_with`] looks for a model.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct OpenOptions {
    /// Never touch the network. `HF_HUB_OFFLINE=1` in the environment does the same.
    pub offline: bool,
    /// Hub cache; `None` is `$HF_HUB_CACHE`, else `$HF_HOME/hub`, else `~/.cache/huggingface/hub`.
    pub cache_dir: Option<PathBuf>,
    /// Address of the hub; `None` is `$HF_ENDPOINT`, else `https://huggingface.co`.
    pub endpoint: Option<String>,
    /// Told about downloads.
    pub progress: Option<Arc<dyn Progress>>,
}

impl OpenOptions {
    /// Where downloaded checkpoints are kept, by the rule of every program that shares this cache: [`OpenOptions::cache_dir`],
    /// `$HF_HUB_CACHE`, `$HF_HOME/hub` or `~/.cache/huggingface/hub`.
    pub fn hub_cache_dir(&self) -> PathBuf {
        let variable = |name| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        self.cache_dir
            .clone()
            .or_else(|| variable("HF_HUB_CACHE"))
            .or_else(|| variable("HF_HOME").map(|home| home.join("hub")))
            .or_else(|| std::env::home_dir().map(|home| home.join(".cache/huggingface/hub")))
            .unwrap_or_else(|| PathBuf::from("huggingface/hub"))
    }

    /// Whether the network is off: [`OpenOptions::offline`] or `HF_HUB_OFFLINE` in the environment.
    pub fn is_offline(&self) -> bool {
        let value = std::env::var("HF_HUB_OFFLINE")
            .unwrap_or_default()
            .to_ascii_uppercase();
        self.offline || matches!(value.as_str(), "1" | "ON" | "YES" | "TRUE")
    }
}

/// Which kind of file the weights are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `model.safetensors`, or shards with an index.
    Safetensors,
    /// `pytorch_model.bin`, or shards with an index.
    PyTorch,
    /// A `.gguf` file, possibly split.
    Gguf,
}

/// An opened checkpoint: configuration read, tensors listed and checked, their data untouched. Cheap to clone.
///
/// ```
/// use glm_core::Checkpoint;
/// # if cfg!(feature = "demo") {
/// let checkpoint = Checkpoint::open("demo")?;
/// let hidden_size = checkpoint.config().dense().hidden_size;
/// let norm = checkpoint.tensor("model.norm.weight")?;
/// assert_eq!(norm.info.shape, [hidden_size]);
/// assert_eq!(norm.bytes.len() as u64, norm.info.bytes);
/// # }
/// # Ok::<(), glm_core::LoadError>(())
/// ```
#[derive(Clone)]
pub struct Checkpoint(Arc<Inner>);

struct Inner {
    name: String,
    path: PathBuf,
    embedded: bool,
    format: Format,
    config: ModelConfig,
    generation: GenerationConfig,
    note: Option<String>,
    warnings: Vec<String>,
    files: Vec<Arc<SourceFile>>,
    tensors: Vec<TensorInfo>,
    /// Per tensor: index of its file and first byte.
    places: Vec<(usize, u64)>,
    by_name: HashMap<String, usize>,
    side: SideFiles,
}

/// What a source delivers before renaming and checking.
struct Parts {
    name: String,
    path: PathBuf,
    embedded: bool,
    format: Format,
    config: ModelConfig,
    generation: GenerationConfig,
    note: Option<String>,
    warnings: Vec<String>,
    files: Vec<Arc<SourceFile>>,
    tensors: Vec<RawTensor>,
    side: SideFiles,
}

/// Where the tokenizer and the chat template are.
enum SideFiles {
    Directory(PathBuf),
    Embedded(&'static [glm_models::EmbeddedFile]),
    Gguf(Box<Reader>),
}

impl Checkpoint {
    /// Opens `demo`, a directory, a `.gguf` file or a hub id `owner/name[@revision]` with default options.
    ///
    /// # Errors
    /// As [`Checkpoint::open_with`].
    pub fn open(model: &str) -> Result<Self, LoadError> {
        Self::open_with(model, &OpenOptions::default())
    }

    /// Opens `demo`, a directory, a `.gguf` file (any part of a split one) or a hub id `owner/name[@revision]`.
    ///
    /// A hub id that is in the cache is opened from there, without asking the hub; otherwise configuration, tokenizer and weights
    /// are downloaded, continuing where an earlier download stopped. Headers are read and every tensor that the configuration
    /// asks for is checked to be there once, with its shape; no weight is read.
    ///
    /// # Errors
    /// [`LoadError::UnknownModel`], [`LoadError::NotACheckpoint`], [`LoadError::NotCached`], [`LoadError::Download`] or
    /// [`LoadError::Io`] if there is nothing usable; any other [`LoadError`] if a file contradicts itself, its configuration, or asks
    /// for what this crate does not support.
    pub fn open_with(model: &str, options: &OpenOptions) -> Result<Self, LoadError> {
        resolve::open(model, options)
    }

    /// Short name: `demo`, the directory's or file's name, or the hub id.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Kind of the weight files.
    pub fn format(&self) -> Format {
        self.0.format
    }

    /// The directory or file; `None` for the embedded model.
    pub fn path(&self) -> Option<&Path> {
        (!self.0.embedded).then_some(&self.0.path)
    }

    /// Architecture and hyperparameters.
    pub fn config(&self) -> &ModelConfig {
        &self.0.config
    }

    /// Stop tokens and sampling defaults.
    pub fn generation_config(&self) -> &GenerationConfig {
        &self.0.generation
    }

    /// What the checkpoint's author wants every user to know: `glm_demo_note` in `config.json`.
    pub fn note(&self) -> Option<&str> {
        self.0.note.as_deref()
    }

    /// What looks doubtful and is no error: values that known converters are known to write wrongly.
    pub fn warnings(&self) -> &[String] {
        &self.0.warnings
    }

    /// Every tensor of the model, in file order.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorInfo> {
        self.0.tensors.iter()
    }

    /// The tensor with this canonical name.
    pub fn tensor_info(&self, name: &str) -> Option<&TensorInfo> {
        self.0
            .by_name
            .get(name)
            .map(|&index| &self.0.tensors[index])
    }

    /// The data of the tensor with this canonical name.
    ///
    /// # Errors
    /// [`LoadError::MissingTensor`] if there is none.
    pub fn tensor(&self, name: &str) -> Result<TensorData<'_>, LoadError> {
        match self.0.by_name.get(name) {
            Some(&index) => Ok(self.data(index)),
            None => Err(self.missing(name, &[])),
        }
    }

    /// The data of the tensor with this canonical name, if it has this shape.
    ///
    /// # Errors
    /// [`LoadError::MissingTensor`] or [`LoadError::Shape`].
    pub fn tensor_checked(&self, name: &str, shape: &[usize]) -> Result<TensorData<'_>, LoadError> {
        let Some(&index) = self.0.by_name.get(name) else {
            return Err(self.missing(name, shape));
        };
        let info = &self.0.tensors[index];
        if info.shape != shape {
            return Err(LoadError::Shape {
                file: info.file.clone(),
                tensor: info.source_name.clone(),
                expected: shape.to_vec(),
                found: info.shape.clone(),
            });
        }
        Ok(self.data(index))
    }

    /// Says that `bytes`, a tensor's [`TensorData::bytes`] or a part of them, are not needed any more: the memory that they were mapped
    /// to goes back to the system, which fetches what follows them in the file meanwhile. Loading calls this as it proceeds, so that
    /// a file and what was made of it are not in memory together.
    ///
    /// It is a hint. The bytes can still be read, from the file once more; bytes from elsewhere are ignored.
    pub fn release(&self, bytes: &[u8]) {
        self.0.files.iter().any(|file| file.release(bytes));
    }

    /// The tokenizer: `tokenizer.json`, `tokenizer.model` (sentencepiece or tiktoken ranks), or the vocabulary in a GGUF file.
    ///
    /// # Errors
    /// [`LoadError::NoTokenizer`] if there is none; [`LoadError::Tokenizer`] if it cannot be read or does not fit the embedding.
    pub fn tokenizer(&self) -> Result<Tokenizer, LoadError> {
        text::tokenizer(self)
    }

    /// The chat format: the checkpoint's own template, else the built-in one of its generation.
    ///
    /// # Errors
    /// [`LoadError::Template`] if the template cannot be compiled; [`LoadError::Io`].
    pub fn chat_format(&self) -> Result<ChatFormat, LoadError> {
        text::chat_format(self)
    }

    fn data(&self, index: usize) -> TensorData<'_> {
        let (info, (file, offset)) = (&self.0.tensors[index], self.0.places[index]);
        // `assemble` has checked that the range lies within the file.
        let bytes = &self.0.files[file].bytes()[offset as usize..(offset + info.bytes) as usize];
        TensorData {
            info,
            bytes: Cow::Borrowed(bytes),
        }
    }

    fn missing(&self, name: &str, shape: &[usize]) -> LoadError {
        LoadError::MissingTensor {
            file: self.0.path.clone(),
            tensor: name.to_owned(),
            expected: shape.to_vec(),
        }
    }
}

impl std::fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checkpoint")
            .field("name", &self.0.name)
            .field("format", &self.0.format)
            .field("config", &self.0.config)
            .field("tensors", &self.0.tensors.len())
            .finish_non_exhaustive()
    }
}
