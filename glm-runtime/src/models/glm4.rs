//! GLM-4-0414 and GLM-Z1 (`Glm4ForCausalLM`): GQA, half-rotary interleaved RoPE, SwiGLU, RMSNorm before and after each
//! block.
//! Checked against transformers' `modeling_glm4.py`; golden data in `models/tiny-glm4*`.

use glm_kernels::{KernelError, KvLayer, RopeAngles, Tensor};

use super::decoder::{Decoder, DecoderLayer};
use crate::error::BuildError;
use crate::forward::ForwardBatch;
use crate::layers::{Attention, Mlp, RmsNorm};
use crate::load::WeightLoader;

/// The model.
pub type Glm4 = Decoder<Glm4Layer>;

/// One layer; fields carry the checkpoint's names.
#[derive(Debug)]
pub struct Glm4Layer {
    input_layernorm: RmsNorm,
    self_attn: Attention,
    post_self_attn_layernorm: RmsNorm,
    /// Before the MLP, in spite of its name.
    post_attention_layernorm: RmsNorm,
    mlp: Mlp,
    post_mlp_layernorm: RmsNorm,
}

impl DecoderLayer for Glm4Layer {
    /// `x += norm(attn(norm(x)))`, then `x += norm(mlp(norm(x)))`; `x`: `[T, C]`.
    fn forward(
        &self,
        x: &mut Tensor,
        rope: &RopeAngles,
        batch: &ForwardBatch,
        kv: &mut KvLayer,
    ) -> Result<(), KernelError> {
        let attn = self
            .self_attn
            .forward(&self.input_layernorm.forward(x)?, rope, batch, kv)?;
        let normed = self.post_attention_layernorm.add_forward_after(
            &self.post_self_attn_layernorm,
            x,
            &attn,
        )?;
        let mlp = self.mlp.forward(&normed, batch)?;
        self.post_mlp_layernorm.add_to(x, &mlp)
    }

    fn load(weights: &mut WeightLoader<'_>, layer: usize) -> Result<Self, BuildError> {
        let prefix = format!("model.layers.{layer}");
        Ok(Self {
            input_layernorm: weights.rms_norm(&format!("{prefix}.input_layernorm"))?,
            self_attn: weights.attention(layer)?,
            post_self_attn_layernorm: weights
                .rms_norm(&format!("{prefix}.post_self_attn_layernorm"))?,
            post_attention_layernorm: weights
                .rms_norm(&format!("{prefix}.post_attention_layernorm"))?,
            mlp: weights.mlp(layer)?,
            post_mlp_layernorm: weights.rms_norm(&format!("{prefix}.post_mlp_layernorm"))?,
        })
    }
}
