//! One way to read a model's weights on the host, whatever MODEL is: a checkpoint, or `random:PRESET`.

use std::borrow::Cow;

use glm_core::{Checkpoint, GenerationConfig, ModelConfig, OpenOptions, TensorType};
use glm_kernels::WeightFormat;

use super::random::RandomWeights;
use crate::error::BuildError;

/// Where weights come from.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ModelSource {
    /// A checkpoint on disk, from the hub, or embedded.
    Checkpoint(Checkpoint),
    /// `random:PRESET`: weights drawn from a seed at the sizes of a known model; no tokenizer.
    Random(RandomWeights),
}

/// Name, shape and format of one tensor of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Canonical name, as in transformers.
    pub name: String,
    /// `[out, in]` of a matrix, `[n]` of a vector.
    pub shape: Vec<usize>,
    /// Storage format.
    pub format: WeightFormat,
}

impl TensorSpec {
    /// Values in a row: the input features of a matrix, all of a vector.
    pub fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Rows: the output features of a matrix, 1 of a vector.
    pub fn rows(&self) -> usize {
        self.shape.iter().rev().skip(1).product()
    }

    /// Number of weights.
    pub fn elements(&self) -> u64 {
        self.shape.iter().map(|&n| n as u64).product()
    }
}

/// One tensor's bytes on the host.
#[derive(Debug, Clone)]
pub struct SourceTensor<'a> {
    /// What it is.
    pub spec: TensorSpec,
    /// Rows in GGML's on-disk layout of `spec.format`, one after the other.
    pub bytes: Cow<'a, [u8]>,
}

impl ModelSource {
    /// Opens MODEL. `seed` decides the weights of `random:` models and nothing else.
    ///
    /// # Errors
    /// [`BuildError::UnknownPreset`], or [`BuildError::Load`] if the checkpoint cannot be opened.
    pub fn open(model: &str, options: &OpenOptions, seed: u64) -> Result<Self, BuildError> {
        match model.strip_prefix("random:") {
            Some(preset) => Ok(Self::Random(RandomWeights::preset(preset, seed)?)),
            None => Ok(Self::Checkpoint(Checkpoint::open_with(model, options)?)),
        }
    }

    /// The checkpoint's name, or `random:PRESET`.
    pub fn name(&self) -> &str {
        match self {
            Self::Checkpoint(checkpoint) => checkpoint.name(),
            Self::Random(random) => random.name(),
        }
    }

    /// The model's configuration.
    pub fn config(&self) -> &ModelConfig {
        match self {
            Self::Checkpoint(checkpoint) => checkpoint.config(),
            Self::Random(random) => random.config(),
        }
    }

    /// Recommended sampling and end-of-sequence ids; `None` for `random:` models.
    pub fn generation_config(&self) -> Option<&GenerationConfig> {
        self.checkpoint().map(Checkpoint::generation_config)
    }

    /// The checkpoint, unless the weights are random.
    pub fn checkpoint(&self) -> Option<&Checkpoint> {
        match self {
            Self::Checkpoint(checkpoint) => Some(checkpoint),
            Self::Random(_) => None,
        }
    }

    /// All tensors in the order they are stored (or drawn).
    pub fn tensors(&self) -> Vec<TensorSpec> {
        match self {
            Self::Checkpoint(checkpoint) => checkpoint.tensors().map(spec_of).collect(),
            Self::Random(random) => random.tensors().to_vec(),
        }
    }

    /// One tensor by its canonical name, if there is one.
    pub fn tensor_spec(&self, name: &str) -> Option<TensorSpec> {
        match self {
            Self::Checkpoint(checkpoint) => checkpoint.tensor_info(name).map(spec_of),
            Self::Random(random) => random.tensors().iter().find(|spec| spec.name == name).cloned(),
        }
    }

    /// Reads one tensor: mapped from the file, or drawn.
    ///
    /// # Errors
    /// [`BuildError::Load`] if there is none of this name.
    pub fn read(&self, name: &str) -> Result<SourceTensor<'_>, BuildError> {
        match self {
            Self::Checkpoint(checkpoint) => {
                let data = checkpoint.tensor(name)?;
                Ok(SourceTensor { spec: spec_of(data.info), bytes: data.bytes })
            }
            Self::Random(random) => random.read(name),
        }
    }
}

fn spec_of(info: &glm_core::TensorInfo) -> TensorSpec {
    TensorSpec { name: info.name.clone(), shape: info.shape.clone(), format: weight_format(info.ty) }
}

/// The kernels' name for a storage type; both crates list the same types and do not know each other.
pub fn weight_format(ty: TensorType) -> WeightFormat {
    match ty {
        TensorType::F32 => WeightFormat::F32,
        TensorType::F16 => WeightFormat::F16,
        TensorType::BF16 => WeightFormat::BF16,
        TensorType::Q4_0 => WeightFormat::Q4_0,
        TensorType::Q4_1 => WeightFormat::Q4_1,
        TensorType::Q5_0 => WeightFormat::Q5_0,
        TensorType::Q5_1 => WeightFormat::Q5_1,
        TensorType::Q8_0 => WeightFormat::Q8_0,
        TensorType::Q2K => WeightFormat::Q2K,
        TensorType::Q3K => WeightFormat::Q3K,
        TensorType::Q4K => WeightFormat::Q4K,
        TensorType::Q5K => WeightFormat::Q5K,
        TensorType::Q6K => WeightFormat::Q6K,
        TensorType::Iq4Nl => WeightFormat::Iq4Nl,
        TensorType::Iq4Xs => WeightFormat::Iq4Xs,
    }
}
