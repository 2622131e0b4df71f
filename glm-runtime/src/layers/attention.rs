use glm_kernels::{
    AttnDims, KernelError, KvLayer, RopeAngles, Tensor, paged_attention, rope_store_kv,
};

use super::AdaptedLinear;
use crate::forward::ForwardBatch;

/// Grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245) over the paged KV cache.
#[derive(Debug)]
pub struct Attention {
    /// `[(H + 2 KVH) D, C]`: query rows, key rows, value rows.
    pub qkv_proj: AdaptedLinear,
    /// `[C, H D]`.
    pub o_proj: AdaptedLinear,
    /// H, KVH and D.
    pub dims: AttnDims,
}

impl Attention {
    /// `[T, C]` to `[T, C]`; stores this step's keys and values in `kv`.
    pub fn forward(
        &self,
        x: &Tensor,
        rope: &RopeAngles,
        batch: &ForwardBatch,
        kv: &mut KvLayer,
    ) -> Result<Tensor, KernelError> {
        let scale = 1.0 / (self.dims.head_dim as f32).sqrt();
        let qkv = self.qkv_proj.forward(x, batch)?; // [T, (H + 2 KVH) D]
        let q = rope_store_kv(&qkv, self.dims, rope, &batch.slot_mapping, kv)?; // [T, H D]
        let out = paged_attention(&q, kv, &batch.attn, self.dims, scale)?; // [T, H D]
        self.o_proj.forward(&out, batch) // [T, C]
    }
}
