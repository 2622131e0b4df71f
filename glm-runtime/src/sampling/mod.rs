//! Choosing the next token from a row of logits.

mod params;

pub use params::{InvalidSampling, MAX_LOGPROBS, SamplingParams};

/// A token and its log-probability under the model.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct TokenLogprob {
    /// Token id.
    pub id: u32,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}
