//! GLM-4-9B and GLM-Edge (`GlmForCausalLM`), and ChatGLM2/3 and GLM-4-9B as published with remote code (`ChatGLMModel`),
//! which are the same mathematics under other tensor names: GQA, interleaved RoPE on a part of each head, SwiGLU, RMSNorm
//! before each block.
//! Checked against transformers' `modeling_glm.py`; golden data in `models/tiny-glm*` and `models/tiny-chatglm*`.

use glm_core::DenseConfig;
use glm_kernels::{KernelError, KvLayer, RopeAngles, Tensor, add};

use super::CausalLm;
use crate::batch::ForwardBatch;
use crate::error::BuildError;
use crate::kv::KvPool;
use crate::layers::{Attention, Embedding, Linear, Mlp, RmsNorm, RotaryEmbedding};
use crate::load::WeightLoader;

/// The model; fields carry the checkpoint's names.
#[derive(Debug)]
pub struct Glm {
    config: DenseConfig,
    embed_tokens: Embedding,
    rotary_emb: RotaryEmbedding,
    layers: Vec<DecoderLayer>,
    norm: RmsNorm,
    lm_head: Linear,
}

#[derive(Debug)]
struct DecoderLayer {
    input_layernorm: RmsNorm,
    self_attn: Attention,
    post_attention_layernorm: RmsNorm,
    mlp: Mlp,
}

impl CausalLm for Glm {
    fn config(&self) -> &DenseConfig {
        &self.config
    }

    fn hidden_states(
        &self,
        batch: &ForwardBatch,
        kv: &mut KvPool,
        each: &mut dyn FnMut(&Tensor),
    ) -> Result<Tensor, KernelError> {
        let rope = self.rotary_emb.angles(&batch.positions)?; // cos and sin, [T, rotary_dim / 2]
        let mut x = self.embed_tokens.forward(&batch.token_ids)?; // [T, C]
        each(&x);
        for (layer, kv) in self.layers.iter().zip(kv.layers_mut()) {
            layer.forward(&mut x, &rope, batch, kv)?;
            each(&x);
        }
        self.norm.forward(&x)
    }

    fn logits(&self, x: &Tensor) -> Result<Tensor, KernelError> {
        self.lm_head.forward(x)
    }
}

impl DecoderLayer {
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
        add(x, &self.mlp.forward(&normed)?)
    }
}

impl Glm {
    pub(crate) fn load(weights: &mut WeightLoader<'_>) -> Result<Self, BuildError> {
        let config = weights.config().clone();
        let embed_tokens = weights.embedding()?;
        let layers = (0..config.num_hidden_layers)
            .map(|i| DecoderLayer::load(weights, &format!("model.layers.{i}")))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            rotary_emb: weights.rotary_embedding()?,
            norm: weights.rms_norm("model.norm")?,
            lm_head: weights.lm_head(&embed_tokens)?,
            config,
            embed_tokens,
            layers,
        })
    }
}

impl DecoderLayer {
    fn load(weights: &mut WeightLoader<'_>, prefix: &str) -> Result<Self, BuildError> {
        Ok(Self {
            input_layernorm: weights.rms_norm(&format!("{prefix}.input_layernorm"))?,
            self_attn: weights.attention(&format!("{prefix}.self_attn"))?,
            post_attention_layernorm: weights
                .rms_norm(&format!("{prefix}.post_attention_layernorm"))?,
            mlp: weights.mlp(&format!("{prefix}.mlp"))?,
        })
    }
}
