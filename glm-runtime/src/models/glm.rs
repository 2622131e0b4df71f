//! GLM-4-9B and GLM-Edge (`GlmForCausalLM`), and ChatGLM2/3 and GLM-4-9B as published with remote code (`ChatGLMModel`),
//! which are the same mathematics under other tensor names: GQA, interleaved RoPE on a part of each head, SwiGLU, RMSNorm
//! before each block.
//! Checked against transformers' `modeling_glm.py`; golden data in `models/tiny-glm*` and `models/tiny-chatglm*`.

use glm_kernels::{KernelError, KvLayer, RopeAngles, Tensor, add};

use super::decoder::{Decoder, DecoderLayer};
use crate::error::BuildError;
use crate::forward::ForwardBatch;
use crate::layers::{Attention, Mlp, RmsNorm};
use crate::load::WeightLoader;

/// The model.
pub type Glm = Decoder<GlmLayer>;

/// One layer; fields carry the checkpoint's names.
#[derive(Debug)]
pub struct GlmLayer {
    input_layernorm: RmsNorm,
    self_attn: Attention,
    post_attention_layernorm: RmsNorm,
    mlp: Mlp,
}

impl DecoderLayer for GlmLayer {
    /// `x += attn(norm(x))`, then `x += mlp(norm(x))`; `x`: `[T, C]`.
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
        let normed = self.post_attention_layernorm.add_forward(x, &attn)?;
        add(x, &self.mlp.forward(&normed, batch)?)
    }

    fn load(weights: &mut WeightLoader<'_>, layer: usize) -> Result<Self, BuildError> {
        let prefix = format!("model.layers.{layer}");
        Ok(Self {
            input_layernorm: weights.rms_norm(&format!("{prefix}.input_layernorm"))?,
            self_attn: weights.attention(layer)?,
            post_attention_layernorm: weights
                .rms_norm(&format!("{prefix}.post_attention_layernorm"))?,
            mlp: weights.mlp(layer)?,
        })
    }
}
