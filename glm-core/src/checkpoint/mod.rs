//! Opening a checkpoint, whatever form it has.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::chat::ChatFormat;
use crate::config::{GenerationConfig, ModelConfig};
use crate::error::LoadError;
use crate::tensor::{TensorData, TensorInfo};
use crate::tokenizer::Tokenizer;

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

/// An opened checkpoint: configuration read, tensors listed and checked, nothing else touched. Cheap to clone.
#[derive(Clone)]
pub struct Checkpoint(Arc<Inner>);

struct Inner {
    name: String,
    path: Option<PathBuf>,
    format: Format,
    config: ModelConfig,
    generation: GenerationConfig,
    tensors: Vec<TensorInfo>,
}

impl Checkpoint {
    /// Opens `demo`, a directory, a `.gguf` file or a hub id `owner/name[@revision]` with default options.
    ///
    /// # Errors
    /// As [`Checkpoint::open_with`].
    pub fn open(model: &str) -> Result<Self, LoadError> {
        Self::open_with(model, &OpenOptions::default())
    }

    /// Opens `demo`, a directory, a `.gguf` file or a hub id `owner/name[@revision]`.
    ///
    /// # Errors
    /// A [`LoadError`].
    pub fn open_with(model: &str, _options: &OpenOptions) -> Result<Self, LoadError> {
        Err(LoadError::UnknownModel { model: model.into(), tried: "nothing".into(), hint: "wait".into() })
    }

    /// Short name: the directory's, the file's or the hub id.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Kind of the weight files.
    pub fn format(&self) -> Format {
        self.0.format
    }

    /// The directory or file; `None` for the embedded model.
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// Architecture and hyperparameters.
    pub fn config(&self) -> &ModelConfig {
        &self.0.config
    }

    /// Stop tokens and sampling defaults.
    pub fn generation_config(&self) -> &GenerationConfig {
        &self.0.generation
    }

    /// Every tensor of the model, in file order.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorInfo> {
        self.0.tensors.iter()
    }

    /// The tensor with this canonical name.
    pub fn tensor_info(&self, name: &str) -> Option<&TensorInfo> {
        self.0.tensors.iter().find(|info| info.name == name)
    }

    /// The data of the tensor with this canonical name.
    ///
    /// # Errors
    /// [`LoadError::MissingTensor`] if there is none.
    pub fn tensor(&self, name: &str) -> Result<TensorData<'_>, LoadError> {
        Err(LoadError::MissingTensor { file: PathBuf::new(), tensor: name.into(), expected: vec![] })
    }

    /// The data of the tensor with this canonical name, if it has this shape.
    ///
    /// # Errors
    /// [`LoadError::MissingTensor`] or [`LoadError::Shape`].
    pub fn tensor_checked(&self, name: &str, _shape: &[usize]) -> Result<TensorData<'_>, LoadError> {
        self.tensor(name)
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// [`LoadError::Tokenizer`].
    pub fn tokenizer(&self) -> Result<Tokenizer, LoadError> {
        Err(LoadError::MissingField { file: PathBuf::new(), field: "tokenizer".into() })
    }

    /// The chat format.
    ///
    /// # Errors
    /// [`LoadError::Template`].
    pub fn chat_format(&self) -> Result<ChatFormat, LoadError> {
        Err(LoadError::MissingField { file: PathBuf::new(), field: "chat_template".into() })
    }
}
