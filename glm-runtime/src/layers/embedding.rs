use std::sync::Arc;

use glm_kernels::{KernelError, Tensor, Weight, embed};

use crate::forward::ForwardBatch;
use crate::lora::add_embeddings;

/// Token embeddings: row `id` of a `[V, C]` table, and for the tokens of an adapter what it adds.
#[derive(Debug)]
pub struct Embedding {
    /// `[V, C]`; shared with the `lm_head` where the two are tied.
    pub weight: Arc<Weight>,
}

impl Embedding {
    /// The `[T]` ids of a step to `[T, C]`.
    pub fn forward(&self, batch: &ForwardBatch) -> Result<Tensor, KernelError> {
        let mut x = embed(&self.weight, &batch.token_ids)?;
        add_embeddings(&batch.adapters, &batch.token_ids, &mut x)?;
        Ok(x)
    }
}
