//! From a checkpoint to weights on a device.

mod expected;
mod format;
mod pieces;
mod quantization;
mod random;
mod source;
mod weights;

pub(crate) use format::format_for;
pub(crate) use pieces::fill_pieces;
pub use quantization::Quantization;
pub use random::RandomWeights;
pub(crate) use random::mix;
pub use source::{ModelSource, SourceTensor, TensorSpec};
pub(crate) use weights::{Loaded, WeightLoader, weight_bytes};
