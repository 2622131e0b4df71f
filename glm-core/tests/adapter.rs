//! LoRA adapters in PEFT's layout: what opens, and the message for what does not.

mod common;

use std::path::{Path, PathBuf};

use common::{Tensor, assert_says, bf16_tensor, safetensors};
use glm_core::{Adapter, Checkpoint, LoadError, LoadErrorKind, ModelConfig, Projection};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// Hidden size 64, 4 query heads on 2 key-value heads of 16, 3 layers.
fn model() -> ModelConfig {
    let json = r#"{"model_type":"glm4","vocab_size":400,"hidden_size":64,"intermediate_size":96,"num_hidden_layers":3,
        "num_attention_heads":4,"num_key_value_heads":2,"head_dim":16}"#;
    ModelConfig::from_json(json, Path::new("config.json")).unwrap()
}

/// An adapter before it is written.
#[derive(Clone)]
struct Files {
    config: Map<String, Value>,
    tensors: Vec<Tensor>,
}

impl Files {
    /// Query and value of layer 1, rank 8.
    fn new() -> Self {
        let config = json!({
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 8, "lora_alpha": 16, "lora_dropout": 0.1, "bias": "none",
            "target_modules": ["q_proj", "v_proj"], "peft_version": "0.21.2", "use_dora": false, "modules_to_save": null,
        });
        let Value::Object(config) = config else {
            unreachable!("an object literal")
        };
        Self {
            config,
            tensors: Vec::new(),
        }
        .module("model.layers.1.self_attn.q_proj", 8, [64, 64])
        .module("model.layers.1.self_attn.v_proj", 8, [64, 32])
    }

    /// With A and B of one more module of `[in, out]` features.
    fn module(mut self, path: &str, rank: usize, [input, output]: [usize; 2]) -> Self {
        let name = |half: &str| format!("base_model.model.{path}.lora_{half}.weight");
        self.tensors.push(bf16_tensor(&name("A"), &[rank, input]));
        self.tensors.push(bf16_tensor(&name("B"), &[output, rank]));
        self
    }

    fn with(mut self, field: &str, value: Value) -> Self {
        self.config.insert(field.into(), value);
        self
    }

    fn without(mut self, field: &str) -> Self {
        self.config.remove(field).expect("the field was there");
        self
    }

    fn write(&self) -> TempDir {
        let directory = tempfile::tempdir().unwrap();
        let config = Value::Object(self.config.clone()).to_string();
        std::fs::write(directory.path().join("adapter_config.json"), config).unwrap();
        let weights = safetensors(&self.tensors);
        std::fs::write(directory.path().join("adapter_model.safetensors"), weights).unwrap();
        directory
    }

    fn open(&self) -> Result<Adapter, LoadError> {
        Adapter::open(self.write().path(), &model())
    }
}

#[test]
fn parts_of_a_projection_become_rows_of_it() {
    let files = Files::new()
        .with("target_modules", json!("all-linear"))
        .module("model.layers.0.mlp.up_proj", 8, [64, 96])
        .module("model.layers.2.self_attn.k_proj", 8, [64, 32])
        .module("model.layers.2.mlp.down_proj", 8, [96, 64])
        .module(
            "transformer.encoder.layers.0.self_attention.query_key_value",
            8,
            [64, 128],
        )
        .module(
            "transformer.encoder.layers.2.self_attention.dense",
            8,
            [64, 64],
        );
    let adapter = files.open().unwrap();
    let modules: Vec<_> = adapter
        .modules()
        .iter()
        .map(|module| (module.layer, module.projection, module.rows.clone()))
        .collect();
    let expected = [
        (0, Projection::Qkv, 0..128),
        (0, Projection::GateUp, 96..192),
        (1, Projection::Qkv, 0..64),
        (1, Projection::Qkv, 96..128),
        (2, Projection::Qkv, 64..96),
        (2, Projection::Output, 0..64),
        (2, Projection::Down, 0..64),
    ];
    assert_eq!(modules, expected);
    for module in adapter.modules() {
        assert_eq!((module.rank, module.scaling), (8, 2.0));
        let a = adapter.a(module);
        let written = files.tensors.iter().find(|t| t.name == a.info.name);
        assert_eq!(a.bytes.as_ref(), written.unwrap().data);
        assert_eq!(
            a.info.shape,
            [8, module.projection.in_features(model().dense())]
        );
        assert_eq!(adapter.b(module).info.shape, [module.rows.len(), 8]);
    }
}

#[test]
fn rank_and_scaling_are_the_first_pattern_that_matches() {
    let scalings = |files: Files| -> Vec<f32> {
        let adapter = files.open().unwrap();
        adapter.modules().iter().map(|m| m.scaling).collect()
    };
    let alphas = |table: Value| scalings(Files::new().with("alpha_pattern", table));
    assert_eq!(alphas(json!({"q_proj": 4})), [0.5, 2.0]);
    assert_eq!(alphas(json!({"layers.0.self_attn.q_proj": 4})), [2.0, 2.0]);
    assert_eq!(alphas(json!({r".*\.1\..*": 24, "v_proj": 4})), [3.0, 3.0]);
    assert_eq!(
        alphas(json!({"^model.layers.1.self_attn.v_proj": 0.5})),
        [2.0, 0.0625]
    );
    // No part of a name.
    assert_eq!(alphas(json!({"proj": 4})), [2.0, 2.0]);
    let rslora = Files::new()
        .with("use_rslora", json!(true))
        .with("lora_alpha", json!(2.0));
    assert_eq!(scalings(rslora), [2.0 / 8f32.sqrt(); 2]);

    let ranks = Files::new()
        .with("rank_pattern", json!({"layers.2.self_attn.k_proj": 3}))
        .with("target_modules", json!(r".*\.self_attn\.[qkv]_proj"))
        .module("model.layers.2.self_attn.k_proj", 3, [64, 32]);
    let adapter = ranks.open().unwrap();
    let last = adapter.modules().last().unwrap();
    assert_eq!((last.rank, last.scaling), (3, 16.0 / 3.0));
}

#[test]
fn what_is_not_computed_is_refused_by_name() {
    for (field, value) in [
        ("use_dora", json!(true)),
        ("bias", json!("all")),
        ("bias", json!("lora_only")),
        ("lora_bias", json!(true)),
        ("fan_in_fan_out", json!(true)),
        ("modules_to_save", json!(["lm_head"])),
        ("layer_replication", json!([[0, 2]])),
        ("use_qalora", json!(true)),
        ("target_parameters", json!(["experts.weight"])),
        ("trainable_token_indices", json!([1])),
        ("alora_invocation_tokens", json!([1, 2])),
        ("megatron_config", json!({"a": 1})),
        ("init_lora_weights", json!("pissa_niter_4")),
        ("init_lora_weights", json!("loftq")),
        ("peft_type", json!("IA3")),
        ("task_type", json!("SEQ_CLS")),
        ("a_field_of_the_future", json!(3)),
    ] {
        let opened = Files::new().with(field, value.clone()).open();
        if let Err(error) = &opened {
            assert_eq!(error.kind(), LoadErrorKind::Unsupported, "{error}");
        }
        let value = value.to_string();
        assert_says(
            opened,
            &["adapter_config.json", field, &value, "merge_and_unload"],
        );
    }
    assert_says(Files::new().without("peft_type").open(), &["peft_type"]);
}

#[test]
fn what_belongs_to_embedding_and_output_layer_must_fit_them() {
    let ends = || {
        Files::new().with(
            "target_modules",
            json!(["lm_head", "embed_tokens", "q_proj", "v_proj"]),
        )
    };
    let head = ends().module("lm_head", 8, [64, 400]);
    let opened = head.open().unwrap();
    let module = opened
        .modules()
        .iter()
        .find(|m| m.projection == Projection::Head);
    assert_eq!(module.map(|module| module.rows.clone()), Some(0..400));
    assert_says(
        ends().module("lm_head", 8, [64, 401]).open(),
        &["lm_head.lora_B.weight", "400", "401"],
    );
    assert_says(
        head.with("layers_to_transform", json!([0, 1, 2])).open(),
        &["lm_head", "layers_to_transform"],
    );
    let renamed = |name: &str| {
        let mut files = ends();
        files.tensors[0].name = format!("base_model.model.{name}");
        files.open()
    };
    for name in [
        "model.embed_tokens.lora_A.weight",
        "lm_head.lora_embedding_A",
        "model.layers.0.self_attn.q_proj.base_layer.weight",
    ] {
        assert_says(renamed(name), &[name]);
    }
    let copy = "lm_head.base_layer.weight";
    assert_says(renamed(copy), &[copy, "[400, 64]"]);
}

#[test]
fn what_changes_nothing_is_ignored() {
    let files = Files::new()
        .with("init_lora_weights", json!("gaussian"))
        .with("loftq_config", json!({"loftq_bits": 4}))
        .with("base_model_name_or_path", json!("somewhere"))
        .with("a_field_of_the_future", json!({}))
        .with("target_modules", Value::Null)
        .without("task_type");
    assert_eq!(files.open().unwrap().modules().len(), 2);
}

#[test]
fn a_field_that_is_wrong_is_named_with_what_was_expected() {
    for (field, value, expected) in [
        ("r", json!(0), "at least 1"),
        ("r", json!(-3), "at least 1"),
        ("r", json!("8"), "whole number"),
        ("lora_alpha", json!("a"), "number"),
        ("use_rslora", json!(1), "true or false"),
        ("rank_pattern", json!({"q_proj": 0}), "at least 1"),
        ("rank_pattern", json!([1]), "an object"),
        ("alpha_pattern", json!({"q_proj": null}), "numbers"),
        ("alpha_pattern", json!({"(": 1}), "unclosed"),
        ("alpha_pattern", json!({"(?=x)": 1}), "look-around"),
        ("alpha_pattern", json!({r"(?:a{1000}){1000}": 1}), "memory"),
        ("target_modules", json!(3), "list of module names"),
        ("target_modules", json!([3]), "list of module names"),
        ("target_modules", json!("*"), "regular expressions"),
        ("layers_to_transform", json!("1"), "layer numbers"),
        ("lora_alpha", json!(1e300), "32 bits"),
    ] {
        let opened = Files::new().with(field, value).open();
        assert_says(opened, &["adapter_config.json", field, expected]);
    }
    for field in ["r", "lora_alpha"] {
        assert_says(Files::new().without(field).open(), &[field, "missing"]);
    }
}

#[test]
fn tensors_that_contradict_the_config_are_refused() {
    assert_says(
        Files::new().with("r", json!(4)).open(),
        &["q_proj.lora_A", "[8, 64]", "[4, 64]"],
    );
    assert_says(
        Files::new()
            .with("target_modules", json!(["q_proj", "k_proj"]))
            .open(),
        &["v_proj", "target_modules"],
    );
    assert_says(
        Files::new()
            .with("target_modules", json!("model.layers.1.self_attn.q_proj"))
            .open(),
        &["v_proj", "target_modules"],
    );
    assert_says(
        Files::new()
            .with("exclude_modules", json!(["v_proj"]))
            .open(),
        &["v_proj", "exclude_modules"],
    );
    for layers in [json!([0, 2]), json!(2)] {
        let opened = Files::new().with("layers_to_transform", layers).open();
        assert_says(opened, &["layers.1", "layers_to_transform"]);
    }
    assert!(
        Files::new()
            .with("layers_to_transform", json!(1))
            .open()
            .is_ok()
    );
}

#[test]
fn tensors_that_do_not_fit_the_model_are_refused() {
    let all = || Files::new().with("target_modules", json!("all-linear"));
    for path in [
        "model.layers.3.self_attn.q_proj",
        "model.layers.01.self_attn.k_proj",
        "model.layers.0.self_attn.r_proj",
        "model.layers.0.input_layernorm",
        "layers.0.self_attn.q_proj",
        "transformer.encoder.layers.0.self_attn.q_proj",
        "transformer.encoder.layers.0.mlp.gate_proj.up_proj",
        "",
    ] {
        let opened = all().module(path, 8, [64, 64]).open();
        assert_says(opened, &["has no place", path]);
    }
    let opened = all()
        .module("model.layers.0.self_attn.k_proj", 8, [64, 64])
        .open();
    assert_says(opened, &["k_proj.lora_B", "[64, 8]", "[32, 8]"]);
    // Two names for one place, and a part of what is there as a whole.
    for path in [
        "transformer.encoder.layers.1.self_attention.query_key_value",
        "model.layers.1.self_attn.qkv_proj",
    ] {
        let opened = all().module(path, 8, [64, 128]).open();
        assert_says(opened, &["twice"]);
    }
    let mut mixed = all();
    mixed.tensors[1].name =
        "base_model.model.transformer.encoder.layers.1.self_attn.q_proj.lora_B.weight".into();
    assert_says(mixed.open(), &["has no place"]);
    let qkv = "model.layers.0.self_attn.qkv_proj";
    let mut mixed = all().module(qkv, 8, [64, 128]);
    mixed.tensors[5].name = "base_model.model.transformer.encoder.layers.0.self_attention.query_key_value.lora_B.weight".into();
    assert_says(mixed.open(), &["query_key_value.lora_B", "twice"]);
    let mut lonely = Files::new();
    lonely.tensors.pop();
    assert_says(lonely.open(), &["lora_B", "v_proj", "missing"]);
    let mut empty = Files::new();
    empty.tensors.clear();
    empty.tensors.push(bf16_tensor("a", &[1]));
    assert_says(empty.open(), &["`a`", "no place"]);
    let mut odd = Files::new();
    odd.tensors[0].dtype = "I16";
    assert_says(odd.open(), &["I16", "q_proj.lora_A"]);
}

#[test]
fn a_folder_that_is_no_adapter_says_what_is_missing() {
    let open = |path: &Path| Adapter::open(path, &model());
    assert_says(
        open(Path::new("/no/such")),
        &["/no/such", "adapter_config.json"],
    );
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
    assert_says(open(&models.join("tiny-glm4")), &["it is a checkpoint"]);
    let written = Files::new().write();
    std::fs::remove_file(written.path().join("adapter_model.safetensors")).unwrap();
    assert_says(open(written.path()), &["adapter_model.safetensors"]);
    std::fs::write(
        written.path().join("adapter_config.json"),
        " ".repeat(3 << 20),
    )
    .unwrap();
    assert_says(open(written.path()), &["adapter_config.json", "2097152"]);
}

/// Every adapter kept beside the tiny checkpoints, and the configuration of its model.
fn kept() -> Vec<(PathBuf, ModelConfig)> {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(models).unwrap() {
        let checkpoint = entry.unwrap().path();
        for adapter in std::fs::read_dir(checkpoint.join("adapters"))
            .into_iter()
            .flatten()
        {
            let model = Checkpoint::open(checkpoint.to_str().unwrap()).unwrap();
            found.push((adapter.unwrap().path(), model.config().clone()));
        }
    }
    found
}

#[test]
fn what_peft_wrote_opens() {
    let kept = kept();
    assert!(kept.len() >= 8, "{}", kept.len());
    for (path, model) in kept {
        let adapter = Adapter::open(&path, &model);
        assert!(
            adapter.is_ok_and(|adapter| !adapter.modules().is_empty()),
            "{path:?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever is damaged, there is an adapter whose matrices can be read, or an error.
    #[test]
    fn damaged_files_never_panic(
        which in 0usize..2,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let directory = Files::new().write();
        let file = ["adapter_config.json", "adapter_model.safetensors"][which];
        let path = directory.path().join(file);
        let mut bytes = std::fs::read(&path).unwrap();
        // The header is what can go wrong; the numbers are anything.
        let header = bytes.len().min(1200);
        for (at, value) in edits {
            bytes[at.index(header)] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(header));
        }
        std::fs::write(&path, bytes).unwrap();
        if let Ok(adapter) = Adapter::open(directory.path(), &model()) {
            for module in adapter.modules() {
                prop_assert_eq!(adapter.a(module).bytes.len() as u64, adapter.a(module).info.bytes);
                prop_assert!(module.scaling.is_finite());
            }
        }
    }
}
