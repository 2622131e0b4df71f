//! Every name a tensor has in some format, and its canonical name: the one place where formats differ.
//!
//! Canonical are the names of transformers' `glm` and `glm4`. No tensor is permuted or split on the way: `chatglm`'s fused
//! query-key-value projection keeps a canonical name of its own (`qkv_proj`), and GGUF lists dimensions in reverse, which the
//! reader has already undone.

use crate::config::ModelConfig;

/// The embedding's name in GGUF.
pub(crate) const GGUF_EMBEDDING: &str = "token_embd.weight";
/// The output layer's name in GGUF; absent when tied.
pub(crate) const GGUF_OUTPUT: &str = "output.weight";

/// The naming scheme of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// transformers' `glm` and `glm4`.
    Transformers,
    /// The remote code of `chatglm`.
    ChatGlm,
    /// llama.cpp's `chatglm` and `glm4`.
    Gguf,
}

/// What to do with a tensor of a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Mapped {
    /// It is this canonical tensor.
    Canonical(String),
    /// It repeats what the configuration says: precomputed frequencies, masks.
    Ignored,
    /// The scheme has no such name.
    Unknown,
}

/// `(canonical, chatglm, GGUF)` of the tensors outside the layers.
const GLOBAL: [(&str, &str, &str); 3] = [
    (
        "model.embed_tokens.weight",
        "transformer.embedding.word_embeddings.weight",
        GGUF_EMBEDDING,
    ),
    (
        "model.norm.weight",
        "transformer.encoder.final_layernorm.weight",
        "output_norm.weight",
    ),
    (
        "lm_head.weight",
        "transformer.output_layer.weight",
        GGUF_OUTPUT,
    ),
];

/// `(canonical, chatglm, GGUF)` below `model.layers.N.`, `transformer.encoder.layers.N.` and `blk.N.`; "" where a scheme has no such tensor.
const LAYER: [(&str, &str, &str); 16] = [
    (
        "input_layernorm.weight",
        "input_layernorm.weight",
        "attn_norm.weight",
    ),
    (
        "self_attn.qkv_proj.weight",
        "self_attention.query_key_value.weight",
        "attn_qkv.weight",
    ),
    (
        "self_attn.qkv_proj.bias",
        "self_attention.query_key_value.bias",
        "attn_qkv.bias",
    ),
    ("self_attn.q_proj.weight", "", "attn_q.weight"),
    ("self_attn.k_proj.weight", "", "attn_k.weight"),
    ("self_attn.v_proj.weight", "", "attn_v.weight"),
    ("self_attn.q_proj.bias", "", "attn_q.bias"),
    ("self_attn.k_proj.bias", "", "attn_k.bias"),
    ("self_attn.v_proj.bias", "", "attn_v.bias"),
    (
        "self_attn.o_proj.weight",
        "self_attention.dense.weight",
        "attn_output.weight",
    ),
    // GGUF's `post_attention_norm` is the second norm around the attention; Hugging Face's `post_attention_layernorm` precedes the MLP.
    (
        "post_self_attn_layernorm.weight",
        "",
        "post_attention_norm.weight",
    ),
    (
        "post_attention_layernorm.weight",
        "post_attention_layernorm.weight",
        "ffn_norm.weight",
    ),
    (
        "mlp.gate_up_proj.weight",
        "mlp.dense_h_to_4h.weight",
        "ffn_up.weight",
    ),
    (
        "mlp.down_proj.weight",
        "mlp.dense_4h_to_h.weight",
        "ffn_down.weight",
    ),
    ("post_mlp_layernorm.weight", "", "post_ffw_norm.weight"),
    // Written by conversions that took the sandwich norms' names literally.
    ("post_mlp_layernorm.weight", "", "post_ffn_norm.weight"),
];

impl Scheme {
    fn global<'a>(self, row: &(&'a str, &'a str, &'a str)) -> &'a str {
        match self {
            Self::Transformers => row.0,
            Self::ChatGlm => row.1,
            Self::Gguf => row.2,
        }
    }

    fn layer_prefix(self) -> &'static str {
        match self {
            Self::Transformers => "model.layers.",
            Self::ChatGlm => "transformer.encoder.layers.",
            Self::Gguf => "blk.",
        }
    }

    /// The canonical name of a file's tensor.
    pub(crate) fn canonical(self, name: &str) -> Mapped {
        if is_precomputed(name) {
            return Mapped::Ignored;
        }
        if let Some(row) = GLOBAL.iter().find(|row| self.global(row) == name) {
            return Mapped::Canonical(row.0.to_owned());
        }
        let layer = name
            .strip_prefix(self.layer_prefix())
            .and_then(|rest| rest.split_once('.'));
        let Some((index, suffix)) = layer else {
            return Mapped::Unknown;
        };
        // "01" and "+1" would give two names to one layer.
        let is_index = index
            .parse::<u32>()
            .is_ok_and(|parsed| parsed.to_string() == index);
        match LAYER.iter().find(|row| self.global(row) == suffix) {
            Some(row) if is_index => Mapped::Canonical(format!("model.layers.{index}.{}", row.0)),
            _ => Mapped::Unknown,
        }
    }
}

/// Buffers that old checkpoints carry and every engine computes itself.
fn is_precomputed(name: &str) -> bool {
    name.ends_with("rotary_pos_emb.inv_freq")
        || name.ends_with("rotary_emb.inv_freq")
        || name == "rope_freqs.weight"
        || name.ends_with(".attn_rot_embd.weight")
}

/// llama.cpp's name of a canonical tensor; `None` if it has none.
///
/// ```
/// use glm_core::gguf::tensor_name;
/// let name = tensor_name("model.layers.3.mlp.gate_up_proj.weight");
/// assert_eq!(name.as_deref(), Some("blk.3.ffn_up.weight"));
/// ```
pub fn gguf_tensor_name(canonical: &str) -> Option<String> {
    if let Some(row) = GLOBAL.iter().find(|row| row.0 == canonical) {
        return Some(row.2.to_owned());
    }
    let (index, suffix) = canonical.strip_prefix("model.layers.")?.split_once('.')?;
    let row = LAYER
        .iter()
        .find(|row| row.0 == suffix && !row.2.is_empty())?;
    Some(format!("blk.{index}.{}", row.2))
}

/// Whether the first layer of a GGUF file has a bias on its query, key and value projections.
pub(crate) fn gguf_has_attention_bias(contains: impl Fn(&str) -> bool) -> bool {
    contains("blk.0.attn_qkv.bias") || contains("blk.0.attn_q.bias")
}

/// Whether a checkpoint's query, key and value projections are one tensor or three.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Projections {
    Fused,
    Split,
}

/// Every tensor that the model consists of, canonical name and shape, layer by layer.
pub(crate) fn expected_tensors(
    config: &ModelConfig,
    projections: impl Fn(usize) -> Projections,
) -> Vec<(String, Vec<usize>)> {
    let c = config.dense();
    let (q, kv) = (
        c.num_attention_heads * c.head_dim,
        c.num_key_value_heads * c.head_dim,
    );
    let mut expected = vec![(
        "model.embed_tokens.weight".to_owned(),
        vec![c.vocab_size, c.hidden_size],
    )];
    for layer in 0..c.num_hidden_layers {
        let mut put = |suffix: &str, shape: &[usize]| {
            expected.push((format!("model.layers.{layer}.{suffix}"), shape.to_vec()))
        };
        let rows: &[(&str, usize)] = match projections(layer) {
            Projections::Fused => &[("qkv_proj", q + 2 * kv)],
            Projections::Split => &[("q_proj", q), ("k_proj", kv), ("v_proj", kv)],
        };
        put("input_layernorm.weight", &[c.hidden_size]);
        for &(projection, rows) in rows {
            put(
                &format!("self_attn.{projection}.weight"),
                &[rows, c.hidden_size],
            );
            if c.attention_bias {
                put(&format!("self_attn.{projection}.bias"), &[rows]);
            }
        }
        put("self_attn.o_proj.weight", &[c.hidden_size, q]);
        put("post_attention_layernorm.weight", &[c.hidden_size]);
        put(
            "mlp.gate_up_proj.weight",
            &[2 * c.intermediate_size, c.hidden_size],
        );
        put(
            "mlp.down_proj.weight",
            &[c.hidden_size, c.intermediate_size],
        );
        if matches!(config, ModelConfig::Glm4(_)) {
            put("post_self_attn_layernorm.weight", &[c.hidden_size]);
            put("post_mlp_layernorm.weight", &[c.hidden_size]);
        }
    }
    expected.push(("model.norm.weight".to_owned(), vec![c.hidden_size]));
    if !c.tie_word_embeddings {
        expected.push((
            "lm_head.weight".to_owned(),
            vec![c.vocab_size, c.hidden_size],
        ));
    }
    expected
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_the_table_leads_to_its_canonical_name() {
        for row in &LAYER {
            for (scheme, prefix, name) in [
                (Scheme::Transformers, "model.layers.", row.0),
                (Scheme::ChatGlm, "transformer.encoder.layers.", row.1),
                (Scheme::Gguf, "blk.", row.2),
            ] {
                if !name.is_empty() && !is_precomputed(name) {
                    let expected = Mapped::Canonical(format!("model.layers.7.{}", row.0));
                    assert_eq!(scheme.canonical(&format!("{prefix}7.{name}")), expected);
                }
            }
        }
    }

    #[test]
    fn names_of_another_scheme_and_odd_indices_are_unknown() {
        for name in [
            "blk.0.attn_norm.weight",
            "model.layers.01.input_layernorm.weight",
            "model.layers.x.input_layernorm.weight",
            "",
            "model.layers.",
        ] {
            assert_eq!(
                Scheme::Transformers.canonical(name),
                Mapped::Unknown,
                "{name}"
            );
        }
    }

    #[test]
    fn precomputed_frequencies_are_ignored() {
        assert_eq!(
            Scheme::ChatGlm.canonical("transformer.rotary_pos_emb.inv_freq"),
            Mapped::Ignored
        );
        assert_eq!(Scheme::Gguf.canonical("rope_freqs.weight"), Mapped::Ignored);
    }
}
