//! The blocks that GLM models share. Each is a few named weights and a `forward` that reads like its formula; device,
//! dtype and quantisation are the kernels' business.
//!
//! T: tokens in this step, H/KVH: query/KV heads, D: head_dim, C: hidden_size, F: intermediate_size, V: vocab_size.

mod attention;
mod embedding;
mod linear;
mod mlp;
mod norm;
mod rope;

pub use attention::Attention;
pub use embedding::Embedding;
pub use linear::{AdaptedLinear, Linear};
pub use mlp::Mlp;
pub use norm::RmsNorm;
pub use rope::RotaryEmbedding;

#[cfg(test)]
mod tests;
