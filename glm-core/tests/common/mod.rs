//! Small synthetic checkpoints, well-formed unless a test spoils them.
#![allow(dead_code)] // each test file uses its own part

use std::path::{Path, PathBuf};

use glm_core::{Checkpoint, LoadError};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// A tensor to be written: name, dtype as safetensors spells it, shape, bytes.
#[derive(Clone)]
pub struct Tensor {
    pub name: String,
    pub dtype: &'static str,
    pub shape: Vec<usize>,
    pub data: Vec<u8>,
}

/// A checkpoint directory before it is written.
#[derive(Clone)]
pub struct Model {
    pub config: Map<String, Value>,
    pub tensors: Vec<Tensor>,
}

pub fn bf16_tensor(name: &str, shape: &[usize]) -> Tensor {
    let count = shape.iter().product::<usize>();
    // Small values that differ between tensors; the exact numbers do not matter, that they survive does.
    let seed = name
        .bytes()
        .fold(7u32, |h, b| h.wrapping_mul(31).wrapping_add(b.into()));
    let value = |i: usize| {
        ((seed.wrapping_add((i as u32).wrapping_mul(2_654_435_761)) >> 16) as f32 / 65536.0 - 0.5)
            .to_bits()
            >> 16
    };
    let data = (0..count)
        .flat_map(|i| (value(i) as u16).to_le_bytes())
        .collect();
    Tensor {
        name: name.into(),
        dtype: "BF16",
        shape: shape.into(),
        data,
    }
}

impl Model {
    /// Two layers, hidden size 64, 4 query heads on 2 key-value heads of 16, biased unless `bias` says otherwise.
    pub fn new(model_type: &str, bias: bool, tied: bool) -> Self {
        let config = json!({
            "architectures": ["SomeForCausalLM"], "model_type": model_type, "vocab_size": 96, "hidden_size": 64,
            "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
            "hidden_act": "silu", "attention_bias": bias, "max_position_embeddings": 128, "partial_rotary_factor": 0.5,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": tied, "eos_token_id": [90, 91], "pad_token_id": 90,
        });
        let Value::Object(config) = config else {
            unreachable!("an object literal")
        };
        let mut tensors = vec![bf16_tensor("model.embed_tokens.weight", &[96, 64])];
        for layer in 0..2 {
            let mut put = |suffix: &str, shape: &[usize]| {
                tensors.push(bf16_tensor(
                    &format!("model.layers.{layer}.{suffix}"),
                    shape,
                ))
            };
            put("input_layernorm.weight", &[64]);
            for (projection, rows) in [("q_proj", 64), ("k_proj", 32), ("v_proj", 32)] {
                put(&format!("self_attn.{projection}.weight"), &[rows, 64]);
                if bias {
                    put(&format!("self_attn.{projection}.bias"), &[rows]);
                }
            }
            put("self_attn.o_proj.weight", &[64, 64]);
            put("post_attention_layernorm.weight", &[64]);
            put("mlp.gate_up_proj.weight", &[96, 64]);
            put("mlp.down_proj.weight", &[64, 48]);
            if model_type == "glm4" {
                put("post_self_attn_layernorm.weight", &[64]);
                put("post_mlp_layernorm.weight", &[64]);
            }
        }
        tensors.push(bf16_tensor("model.norm.weight", &[64]));
        if !tied {
            tensors.push(bf16_tensor("lm_head.weight", &[96, 64]));
        }
        Self { config, tensors }
    }

    /// The same sizes under the names of `chatglm`'s remote code, with its fused projection.
    pub fn chatglm() -> Self {
        let config = json!({
            "architectures": ["ChatGLMModel"], "model_type": "chatglm", "padded_vocab_size": 96, "hidden_size": 64,
            "ffn_hidden_size": 48, "num_layers": 2, "num_attention_heads": 4, "multi_query_attention": true,
            "multi_query_group_num": 2, "kv_channels": 16, "add_qkv_bias": true, "add_bias_linear": false, "rmsnorm": true,
            "post_layer_norm": true, "original_rope": true, "layernorm_epsilon": 1e-5, "seq_length": 128, "rope_ratio": 50,
            "eos_token_id": 2, "pad_token_id": 0,
        });
        let Value::Object(config) = config else {
            unreachable!("an object literal")
        };
        let mut tensors = vec![bf16_tensor(
            "transformer.embedding.word_embeddings.weight",
            &[96, 64],
        )];
        tensors.push(bf16_tensor("transformer.rotary_pos_emb.inv_freq", &[4]));
        for layer in 0..2 {
            for (suffix, shape) in [
                ("input_layernorm.weight", &[64][..]),
                ("self_attention.query_key_value.weight", &[128, 64]),
                ("self_attention.query_key_value.bias", &[128]),
                ("self_attention.dense.weight", &[64, 64]),
                ("post_attention_layernorm.weight", &[64]),
                ("mlp.dense_h_to_4h.weight", &[96, 64]),
                ("mlp.dense_4h_to_h.weight", &[64, 48]),
            ] {
                tensors.push(bf16_tensor(
                    &format!("transformer.encoder.layers.{layer}.{suffix}"),
                    shape,
                ));
            }
        }
        tensors.push(bf16_tensor(
            "transformer.encoder.final_layernorm.weight",
            &[64],
        ));
        tensors.push(bf16_tensor("transformer.output_layer.weight", &[96, 64]));
        Self { config, tensors }
    }

    pub fn with(mut self, field: &str, value: Value) -> Self {
        self.config.insert(field.into(), value);
        self
    }

    pub fn without(mut self, field: &str) -> Self {
        self.config.remove(field).expect("the field was there");
        self
    }

    pub fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors
            .iter_mut()
            .find(|tensor| tensor.name == name)
            .expect("the tensor is there")
    }

    pub fn config_text(&self) -> String {
        Value::Object(self.config.clone()).to_string()
    }

    /// Writes `config.json` and `model.safetensors` into a new directory.
    pub fn write(&self) -> TempDir {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("config.json"), self.config_text()).unwrap();
        std::fs::write(
            directory.path().join("model.safetensors"),
            safetensors(&self.tensors),
        )
        .unwrap();
        directory
    }

    pub fn open(&self) -> Result<Checkpoint, LoadError> {
        open(self.write().path())
    }
}

pub fn open(path: &Path) -> Result<Checkpoint, LoadError> {
    Checkpoint::open(path.to_str().unwrap())
}

/// A safetensors file.
pub fn safetensors(tensors: &[Tensor]) -> Vec<u8> {
    let mut offset = 0;
    let entries = tensors.iter().map(|tensor| {
        let range = [offset, offset + tensor.data.len()];
        offset = range[1];
        format!(
            "{}:{}",
            json!(tensor.name),
            json!({ "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": range })
        )
    });
    let header = format!(
        "{{\"__metadata__\":{{\"format\":\"pt\"}},{}}}",
        entries.collect::<Vec<_>>().join(",")
    );
    let data = tensors
        .iter()
        .flat_map(|tensor| tensor.data.iter().copied())
        .collect::<Vec<_>>();
    safetensors_with(&header, &data)
}

/// A safetensors file of a given header.
pub fn safetensors_with(header: &str, data: &[u8]) -> Vec<u8> {
    [
        &(header.len() as u64).to_le_bytes(),
        header.as_bytes(),
        data,
    ]
    .concat()
}

/// The message of an error, which is one line and mentions each of `parts`.
#[track_caller]
pub fn assert_says<T>(result: Result<T, LoadError>, parts: &[&str]) {
    let Err(error) = result else {
        panic!("accepted; expected an error about {parts:?}")
    };
    let message = error.to_string();
    assert!(!message.contains('\n'), "more than one line: {message}");
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

/// A directory that holds copies of the files of another.
pub fn copy_directory(from: &Path) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path: PathBuf = entry.unwrap().path();
        std::fs::copy(&path, directory.path().join(path.file_name().unwrap())).unwrap();
    }
    directory
}
