//! LoRA adapters (Hu et al. 2021, arXiv:2106.09685): several beside one model, chosen per request, computed together.
//!
//! Where an adapter changes a linear layer, its tokens get `W x + scaling · B (A x)`. `W x` is computed for all tokens of a step at
//! once, as ever. Then, adapter by adapter, the rows of its tokens are gathered, multiplied by A and by B, and added to theirs. Every
//! one of these operations treats each row by itself, so what a token gets does not depend on who else is in the step; and a step
//! in which nobody uses an adapter computes nothing more than without this module.

mod adapter;
mod error;
mod registry;
mod rows;
#[cfg(test)]
mod tests;

pub(crate) use adapter::{AdapterId, Site, packed_bytes};
pub use error::{AdapterError, UnknownAdapter};
pub use registry::AdapterInfo;
pub(crate) use registry::{AdapterRegistry, AdapterUse};
pub(crate) use rows::{AdapterRows, add_embeddings, add_updates};
