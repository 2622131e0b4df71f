//! The models, one file per architecture, named as in `config.json`; [`decoder`] is what the dense ones share.

mod decoder;
mod glm;
mod glm4;

pub use glm::Glm;
use glm_core::DenseConfig;
use glm_kernels::{KernelError, Tensor, gather_rows};
pub use glm4::Glm4;

use crate::forward::ForwardBatch;
use crate::kv::KvPool;
use crate::lora::AdapterRows;

/// A decoder-only language model over a paged KV cache. A forward pass reads the model, the batch and the pool, nothing else.
pub trait CausalLm: Send + Sync {
    /// The configuration it was built from.
    fn config(&self) -> &DenseConfig;

    /// Final hidden states after the last norm, `[T, C]`; keys and values of all T tokens are in `kv` afterwards.
    /// `each` sees the embedding output and then the output of every layer, `[T, C]`.
    ///
    /// # Errors
    /// [`KernelError`] if the batch does not fit the model or the pool.
    fn hidden_states(
        &self,
        batch: &ForwardBatch,
        kv: &mut KvPool,
        each: &mut dyn FnMut(&Tensor),
    ) -> Result<Tensor, KernelError>;

    /// Logits of final hidden states: `[R, C]` to `[R, V]`. `adapters`: which of these rows they change.
    ///
    /// # Errors
    /// [`KernelError`] if `x` is not as wide as the model.
    fn logits(&self, x: &Tensor, adapters: &[AdapterRows]) -> Result<Tensor, KernelError>;

    /// Logits of the rows that the batch asks for, `[R, V]`.
    ///
    /// # Errors
    /// As [`Self::hidden_states`].
    fn forward(&self, batch: &ForwardBatch, kv: &mut KvPool) -> Result<Tensor, KernelError> {
        let x = self.hidden_states(batch, kv, &mut |_| {})?;
        let rows = &batch.logit_rows;
        let adapters = AdapterRows::picked(&batch.adapters, rows);
        self.logits(&gather_rows(&x, rows)?, &adapters)
    }
}
