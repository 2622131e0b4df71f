//! The tensors that a configuration implies: canonical names and shapes, in the order of the forward pass.

use glm_core::{DenseConfig, ModelConfig};
use glm_kernels::WeightFormat;

use super::source::TensorSpec;

/// Every tensor of a model with this config: matrices as bf16, vectors as f32, query, key and value apart.
pub(crate) fn expected_tensors(config: &ModelConfig) -> Vec<TensorSpec> {
    let dense = config.dense();
    let (c, v) = (dense.hidden_size, dense.vocab_size);
    let mut tensors = vec![matrix("model.embed_tokens.weight".to_owned(), v, c)];
    for layer in 0..dense.num_hidden_layers {
        layer_tensors(
            dense,
            matches!(config, ModelConfig::Glm4(_)),
            &format!("model.layers.{layer}"),
            &mut tensors,
        );
    }
    tensors.push(vector("model.norm.weight".to_owned(), c));
    if !dense.tie_word_embeddings {
        tensors.push(matrix("lm_head.weight".to_owned(), v, c));
    }
    tensors
}

fn layer_tensors(
    config: &DenseConfig,
    sandwich_norms: bool,
    prefix: &str,
    tensors: &mut Vec<TensorSpec>,
) {
    let (c, f) = (config.hidden_size, config.intermediate_size);
    let q = config.num_attention_heads * config.head_dim;
    let kv = config.num_key_value_heads * config.head_dim;
    tensors.push(vector(format!("{prefix}.input_layernorm.weight"), c));
    for (name, rows) in [("q_proj", q), ("k_proj", kv), ("v_proj", kv)] {
        tensors.push(matrix(format!("{prefix}.self_attn.{name}.weight"), rows, c));
        if config.attention_bias {
            tensors.push(vector(format!("{prefix}.self_attn.{name}.bias"), rows));
        }
    }
    tensors.push(matrix(format!("{prefix}.self_attn.o_proj.weight"), c, q));
    let norms: &[&str] = match sandwich_norms {
        true => &[
            "post_self_attn_layernorm",
            "post_attention_layernorm",
            "post_mlp_layernorm",
        ],
        false => &["post_attention_layernorm"],
    };
    tensors.extend(
        norms
            .iter()
            .map(|norm| vector(format!("{prefix}.{norm}.weight"), c)),
    );
    tensors.push(matrix(
        format!("{prefix}.mlp.gate_up_proj.weight"),
        2 * f,
        c,
    ));
    tensors.push(matrix(format!("{prefix}.mlp.down_proj.weight"), c, f));
}

fn matrix(name: String, rows: usize, columns: usize) -> TensorSpec {
    TensorSpec {
        name,
        shape: vec![rows, columns],
        format: WeightFormat::BF16,
    }
}

fn vector(name: String, len: usize) -> TensorSpec {
    TensorSpec {
        name,
        shape: vec![len],
        format: WeightFormat::F32,
    }
}
