//! One way to read a model's weights on the host, whatever MODEL is: a checkpoint, or `random:PRESET`.

use std::borrow::Cow;

use glm_core::{Checkpoint, GenerationConfig, ModelConfig, OpenOptions, TensorInfo};
use glm_kernels::WeightFormat;

use super::random::RandomWeights;
use crate::error::BuildError;

/// Where weights come from.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ModelSource {
    /// A checkpoint on disk, from the hub, or embedded.
    Checkpoint {
        /// The checkpoint.
        checkpoint: Checkpoint,
        /// Its tensors, in the order they are stored.
        tensors: Vec<TensorSpec>,
    },
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
            None => {
                let checkpoint = Checkpoint::open_with(model, options)?;
                let tensors = checkpoint
                    .tensors()
                    .map(spec_of)
                    .collect::<Result<_, _>>()?;
                Ok(Self::Checkpoint {
                    checkpoint,
                    tensors,
                })
            }
        }
    }

    /// The checkpoint's name, or `random:PRESET`.
    pub fn name(&self) -> &str {
        match self {
            Self::Checkpoint { checkpoint, .. } => checkpoint.name(),
            Self::Random(random) => random.name(),
        }
    }

    /// The model's configuration.
    pub fn config(&self) -> &ModelConfig {
        match self {
            Self::Checkpoint { checkpoint, .. } => checkpoint.config(),
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
            Self::Checkpoint { checkpoint, .. } => Some(checkpoint),
            Self::Random(_) => None,
        }
    }

    /// All tensors in the order they are stored (or drawn).
    pub fn tensors(&self) -> &[TensorSpec] {
        match self {
            Self::Checkpoint { tensors, .. } => tensors,
            Self::Random(random) => random.tensors(),
        }
    }

    /// One tensor by its canonical name, if there is one.
    pub fn tensor_spec(&self, name: &str) -> Option<&TensorSpec> {
        self.tensors().iter().find(|spec| spec.name == name)
    }

    /// Reads one tensor: mapped from the file, or drawn.
    ///
    /// # Errors
    /// [`BuildError::Load`] if there is none of this name.
    pub fn read(&self, name: &str) -> Result<SourceTensor<'_>, BuildError> {
        match self {
            Self::Checkpoint { checkpoint, .. } => {
                let data = checkpoint.tensor(name)?;
                Ok(SourceTensor {
                    spec: spec_of(data.info)?,
                    bytes: data.bytes,
                })
            }
            Self::Random(random) => random.read(name),
        }
    }
}

impl ModelSource {
    /// Lets go of the memory that a part of a tensor's bytes is mapped to; they can be read again.
    pub(crate) fn release(&self, bytes: &[u8]) {
        if let Self::Checkpoint { checkpoint, .. } = self {
            checkpoint.release(bytes);
        }
    }

    /// Reads one tensor that must have this shape.
    ///
    /// # Errors
    /// [`BuildError::Load`] if there is none of this name, or its shape differs; the error names the file.
    pub(crate) fn read_checked(
        &self,
        name: &str,
        shape: &[usize],
    ) -> Result<SourceTensor<'_>, BuildError> {
        match self {
            Self::Checkpoint { checkpoint, .. } => {
                let data = checkpoint.tensor_checked(name, shape)?;
                Ok(SourceTensor {
                    spec: spec_of(data.info)?,
                    bytes: data.bytes,
                })
            }
            // Drawn in the shape that the config asks for.
            Self::Random(random) => random.read(name),
        }
    }
}

/// The kernels and the checkpoints each list GGML's types and do not know each other; they meet in the types' names.
fn spec_of(info: &TensorInfo) -> Result<TensorSpec, BuildError> {
    let format = info
        .ty
        .name()
        .parse()
        .map_err(|_| BuildError::TensorFormat {
            file: info.file.clone(),
            tensor: info.name.clone(),
            format: info.ty.name().to_owned(),
        })?;
    Ok(TensorSpec {
        name: info.name.clone(),
        shape: info.shape.clone(),
        format,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use glm_core::TensorType;

    #[test]
    fn every_stored_type_has_a_kernel_of_the_same_block() {
        for ty in TensorType::ALL {
            let format: WeightFormat = ty.name().parse().unwrap();
            assert_eq!(
                (format.block_len(), format.block_bytes()),
                (ty.block_len(), ty.block_bytes()),
                "{ty}"
            );
        }
    }
}
