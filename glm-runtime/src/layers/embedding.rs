use std::sync::Arc;

use glm_kernels::{KernelError, Tensor, Weight, embed};

/// Token embeddings: row `id` of a `[V, C]` table.
#[derive(Debug)]
pub struct Embedding {
    /// `[V, C]`; shared with the `lm_head` where the two are tied.
    pub weight: Arc<Weight>,
}

impl Embedding {
    /// `[T]` ids to `[T, C]`.
    pub fn forward(&self, token_ids: &[u32]) -> Result<Tensor, KernelError> {
        embed(&self.weight, token_ids)
    }
}
