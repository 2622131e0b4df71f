//! What the dense models share: an embedding, a stack of layers, a last norm and the output head. The models differ in the layer.

use glm_core::DenseConfig;
use glm_kernels::{KernelError, KvLayer, RopeAngles, Tensor};

use super::CausalLm;
use crate::error::BuildError;
use crate::forward::ForwardBatch;
use crate::kv::KvPool;
use crate::layers::{Embedding, Linear, RmsNorm, RotaryEmbedding};
use crate::load::WeightLoader;
use crate::lora::{AdapterRows, Site, add_updates};

/// One layer of a [`Decoder`].
pub trait DecoderLayer: Send + Sync + Sized {
    /// The layer of this number.
    fn load(weights: &mut WeightLoader<'_>, layer: usize) -> Result<Self, BuildError>;

    /// Adds the layer's attention and MLP to the residual stream `x`, `[T, C]`.
    fn forward(
        &self,
        x: &mut Tensor,
        rope: &RopeAngles,
        batch: &ForwardBatch,
        kv: &mut KvLayer,
    ) -> Result<(), KernelError>;
}

/// A stack of layers between embedding and output head; fields carry the checkpoint's names.
#[derive(Debug)]
pub struct Decoder<L> {
    config: DenseConfig,
    embed_tokens: Embedding,
    rotary_emb: RotaryEmbedding,
    layers: Vec<L>,
    norm: RmsNorm,
    lm_head: Linear,
}

impl<L: DecoderLayer> CausalLm for Decoder<L> {
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
        let mut x = self.embed_tokens.forward(batch)?; // [T, C]
        each(&x);
        for (layer, kv) in self.layers.iter().zip(kv.layers_mut()) {
            layer.forward(&mut x, &rope, batch, kv)?;
            each(&x);
        }
        self.norm.forward(&x)
    }

    fn logits(&self, x: &Tensor, adapters: &[AdapterRows]) -> Result<Tensor, KernelError> {
        let mut logits = self.lm_head.forward(x)?;
        add_updates(adapters, Site::HEAD, x, &mut logits)?;
        Ok(logits)
    }
}

impl<L: DecoderLayer> Decoder<L> {
    pub(crate) fn load(weights: &mut WeightLoader<'_>) -> Result<Self, BuildError> {
        let config = weights.config().clone();
        let embed_tokens = weights.embedding()?;
        let layers = (0..config.num_hidden_layers)
            .map(|layer| L::load(weights, layer))
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
