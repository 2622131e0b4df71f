//! `config.json` of every supported member, and what is wrong with it.

mod common;

use common::{Model, assert_says};
use glm_core::{ModelConfig, RopeScaling};
use serde_json::{Value, json};

fn read(text: &str) -> Result<ModelConfig, glm_core::LoadError> {
    ModelConfig::from_json(text, "model/config.json".as_ref())
}

fn read_model(model: &Model) -> Result<ModelConfig, glm_core::LoadError> {
    read(&model.config_text())
}

#[test]
fn chatglm_keys_are_read_under_their_own_names() {
    let config = read_model(&Model::chatglm()).unwrap();
    let dense = config.dense();
    assert!(matches!(config, ModelConfig::Glm(_)));
    assert_eq!(
        (
            dense.vocab_size,
            dense.intermediate_size,
            dense.num_hidden_layers
        ),
        (96, 48, 2)
    );
    assert_eq!(
        (dense.num_key_value_heads, dense.head_dim, dense.rotary_dim),
        (2, 16, 8)
    );
    assert_eq!(
        (dense.rope_theta, dense.rope_scaling),
        (500_000.0, RopeScaling::None)
    );
    assert_eq!(
        (
            dense.max_position_embeddings,
            dense.rms_norm_eps,
            dense.attention_bias
        ),
        (128, 1e-5, true)
    );
    assert_eq!(
        (dense.eos_token_ids.as_slice(), dense.pad_token_id),
        ([2].as_slice(), Some(0))
    );
}

#[test]
fn only_chatglm2_divides_positions_by_rope_ratio() {
    let named = |name: &str| {
        read_model(&Model::chatglm().with("_name_or_path", json!(name)))
            .unwrap()
            .dense()
            .clone()
    };
    let second = named("THUDM/chatglm2-6b-32k");
    assert_eq!(
        (second.rope_theta, second.rope_scaling),
        (10_000.0, RopeScaling::Linear { factor: 50.0 })
    );
    let third = named("THUDM/chatglm3-6b-32k");
    assert_eq!(
        (third.rope_theta, third.rope_scaling),
        (500_000.0, RopeScaling::None)
    );
    let in_directory = ModelConfig::from_json(
        &Model::chatglm().config_text(),
        "chatglm2-6b-32k/config.json".as_ref(),
    )
    .unwrap();
    assert_eq!(
        in_directory.dense().rope_scaling,
        RopeScaling::Linear { factor: 50.0 }
    );
}

#[test]
fn old_and_new_spelling_of_the_rope_agree() {
    let flat = Model::new("glm4", true, false)
        .with("rope_theta", json!(5e6))
        .with("partial_rotary_factor", json!(1.0));
    let nested = Model::new("glm4", true, false)
        .without("rope_theta")
        .without("partial_rotary_factor")
        .with(
            "rope_parameters",
            json!({ "rope_type": "default", "rope_theta": 5e6, "partial_rotary_factor": 1.0 }),
        );
    assert_eq!(read_model(&flat).unwrap(), read_model(&nested).unwrap());
    assert_eq!(read_model(&flat).unwrap().dense().rotary_dim, 16);
}

#[test]
fn missing_fields_take_the_defaults_of_transformers() {
    let model = Model::new("glm4", true, false)
        .without("partial_rotary_factor")
        .without("rope_theta")
        .without("attention_bias");
    let dense = read_model(&model).unwrap().dense().clone();
    assert_eq!(
        (dense.rotary_dim, dense.rope_theta, dense.attention_bias),
        (8, 10_000.0, true)
    );
    let error = read_model(&Model::new("glm", true, false).without("hidden_size"));
    assert_says(error, &["model/config.json", "`hidden_size` is missing"]);
}

#[test]
fn yarn_is_read_in_both_spellings() {
    for scaling in [
        json!({ "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768 }),
        json!({ "rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 32768, "beta_fast": 32, "beta_slow": 1 }),
    ] {
        let dense = read_model(&Model::new("glm4", true, false).with("rope_scaling", scaling))
            .unwrap()
            .dense()
            .clone();
        let expected = RopeScaling::Yarn {
            factor: 4.0,
            original_max_position_embeddings: 32768,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: None,
        };
        assert_eq!(dense.rope_scaling, expected);
    }
}

#[test]
fn yarns_attention_factor_may_be_given_in_deepseeks_way() {
    let yarn = |scales: serde_json::Value| {
        let mut scaling =
            json!({ "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64 });
        let fields = scaling.as_object_mut().unwrap();
        fields.extend(scales.as_object().unwrap().clone());
        read_model(&Model::new("glm4", true, false).with("rope_scaling", scaling))
    };
    let factor = |scales| match yarn(scales).unwrap().dense().rope_scaling {
        RopeScaling::Yarn {
            attention_factor, ..
        } => attention_factor,
        other => panic!("{other:?}"),
    };
    // `get_mscale(4, 0.5) / get_mscale(4, 1.0)` of transformers' `_compute_yarn_parameters`.
    let found = factor(json!({ "mscale": 0.5, "mscale_all_dim": 1.0 })).unwrap();
    assert!((found - 0.939_124_428).abs() < 1e-9, "{found}");
    assert_eq!(factor(json!({ "mscale": 0.5 })), None);
    assert_eq!(
        factor(json!({ "mscale": 0.5, "mscale_all_dim": 1.0, "attention_factor": 2.0 })),
        Some(2.0)
    );
    assert_says(
        yarn(json!({ "truncate": false })),
        &["rope_scaling.truncate", "true", "false"],
    );
}

#[test]
fn yarn_extends_the_context() {
    let model = Model::new("glm4", true, false).with("max_position_embeddings", json!(32768));
    let context = |model: &Model| read_model(model).unwrap().dense().max_context();
    assert_eq!(context(&model), 32768);
    let yarn = json!({ "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768 });
    assert_eq!(
        context(&model.clone().with("rope_scaling", yarn.clone())),
        131_072
    );
    let already = model
        .clone()
        .with("max_position_embeddings", json!(200_000));
    assert_eq!(context(&already.with("rope_scaling", yarn)), 200_000);
    let linear = json!({ "type": "linear", "factor": 4.0 });
    assert_eq!(context(&model.with("rope_scaling", linear)), 32768);
}

#[test]
fn every_rotary_width_survives_being_written_as_a_share() {
    let original = read_model(&Model::new("glm4", true, false)).unwrap();
    // Sizes for which `rotary_dim / head_dim * head_dim` comes out below `rotary_dim`, and usual ones.
    for head_dim in [26, 44, 46, 52, 64, 78, 80, 128] {
        for rotary_dim in (2..=head_dim).step_by(2) {
            let mut config = original.clone();
            let ModelConfig::Glm4(dense) = &mut config else {
                panic!("{config:?}")
            };
            (dense.head_dim, dense.rotary_dim) = (head_dim, rotary_dim);
            let read = read(&config.to_json().to_string());
            assert_eq!(read.unwrap(), config, "{rotary_dim} of {head_dim}");
        }
    }
}

#[test]
fn what_is_written_reads_back_equal() {
    let yarn = json!({ "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "attention_factor": 1.5 });
    for model in [
        Model::chatglm(),
        Model::chatglm().with("_name_or_path", json!("chatglm2-6b-32k")),
        Model::new("glm", false, true),
        Model::new("glm4", true, false).with("rope_scaling", yarn),
    ] {
        let config = read_model(&model).unwrap();
        assert_eq!(read(&config.to_json().to_string()).unwrap(), config);
    }
}

#[test]
fn absurd_and_contradictory_values_name_their_field() {
    let huge = json!(1u64 << 40);
    for (field, value, part) in [
        ("num_attention_heads", json!(0), "0"),
        ("num_attention_heads", json!(-4), "-4"),
        ("num_key_value_heads", json!(0), "0"),
        (
            "num_key_value_heads",
            json!(3),
            "a divisor of num_attention_heads = 4",
        ),
        ("hidden_size", json!(0), "0"),
        ("hidden_size", huge.clone(), "1099511627776"),
        ("intermediate_size", json!(0), "0"),
        ("num_hidden_layers", json!(0), "0"),
        ("num_hidden_layers", json!(1_000_000_000), "1000000000"),
        ("vocab_size", json!(0), "0"),
        ("vocab_size", huge, "1099511627776"),
        ("head_dim", json!(15), "even"),
        ("head_dim", json!("16"), "a text"),
        ("partial_rotary_factor", json!(2.0), "2"),
        ("partial_rotary_factor", json!(0.0), "0 elements"),
        ("partial_rotary_factor", json!(0.1), "1 elements"),
        ("rms_norm_eps", json!(0.0), "0"),
        ("rms_norm_eps", json!(-1e-5), "-0.00001"),
        ("rms_norm_eps", json!("1e-5"), "a text"),
        ("rope_theta", json!(0.0), "0"),
        ("max_position_embeddings", json!(0), "0"),
        ("max_position_embeddings", json!(1.5), "1.5"),
        ("tie_word_embeddings", json!(1), "1"),
        ("eos_token_id", json!([90, 96]), "96"),
        ("eos_token_id", json!(-1), "-1"),
        ("pad_token_id", json!(1000), "1000"),
        ("hidden_act", json!("gelu"), "gelu"),
        (
            "rope_scaling",
            json!({ "type": "longrope", "factor": 4.0 }),
            "longrope",
        ),
        (
            "rope_scaling",
            json!({ "type": "yarn" }),
            "rope_scaling.factor",
        ),
        (
            "rope_scaling",
            json!({ "type": "yarn", "factor": 0.0 }),
            "rope_scaling.factor",
        ),
        (
            "rope_scaling",
            json!({ "type": "yarn", "factor": 4, "original_max_position_embeddings": 0 }),
            "original_max_position",
        ),
        (
            "quantization_config",
            json!({ "quant_method": "gptq" }),
            "gptq",
        ),
    ] {
        let model = Model::new("glm4", true, false).with(field, value);
        assert_says(read_model(&model), &["model/config.json", field, part]);
    }
    let indivisible = Model::new("glm", true, false)
        .without("head_dim")
        .with("hidden_size", json!(66));
    assert_says(
        read_model(&indivisible),
        &[
            "`hidden_size` is 66",
            "a multiple of num_attention_heads = 4",
        ],
    );
}

#[test]
fn graphs_that_no_chatglm_checkpoint_has_are_refused() {
    for (field, value) in [
        ("rmsnorm", json!(false)),
        ("post_layer_norm", json!(false)),
        ("original_rope", json!(false)),
        ("add_bias_linear", json!(true)),
        ("apply_residual_connection_post_layernorm", json!(true)),
        ("quantization_bit", json!(4)),
        ("kv_channels", json!(0)),
        ("multi_query_group_num", json!(3)),
        ("layernorm_epsilon", json!(2.0)),
        ("rope_ratio", json!(-1)),
        ("rope_ratio", json!(0)),
    ] {
        assert_says(
            read_model(&Model::chatglm().with(field, value)),
            &["model/config.json", field],
        );
    }
}

#[test]
fn relatives_are_recognised_by_name() {
    for (model_type, member) in [
        ("glm4_moe", "GLM-4.5"),
        ("glm4_moe_lite", "GLM-4.7-Flash"),
        ("glm_moe_dsa", "GLM-5"),
        ("glm4v", "GLM-4.1V"),
        ("glm4v_moe", "GLM-4.5V"),
        ("glm5_next", "GLM-5.3-Flash"),
        ("glm_ocr", "GLM-OCR"),
        ("glmasr", "GLM-ASR"),
    ] {
        let error = read(&json!({ "model_type": model_type }).to_string());
        assert_says(
            error,
            &["model/config.json", member, model_type, "not supported yet"],
        );
    }
    let vision = Model::chatglm().with("vision_config", json!({}));
    assert_says(read_model(&vision), &["GLM-4V-9B", "not supported yet"]);
    let first =
        json!({ "model_type": "chatglm", "position_encoding_2d": true, "vocab_size": 130528 });
    assert_says(
        read(&first.to_string()),
        &["ChatGLM-6B", "not supported yet"],
    );
    let edge_v = Model::new("glm", false, true).with("vision_config", json!({}));
    assert_says(read_model(&edge_v), &["GLM-Edge-V", "not supported yet"]);
}

#[test]
fn unknown_architectures_list_the_known_ones() {
    assert_says(
        read(r#"{"model_type": "llama"}"#),
        &["`llama` is not supported", "chatglm", "glm4"],
    );
    assert_says(read("{}"), &["`model_type` is missing"]);
    assert_says(read("[1, 2]"), &["a JSON object", "a list"]);
    assert_says(
        read("{\"model_type\": "),
        &["model/config.json", "not valid JSON"],
    );
    assert_says(
        read(r#"{"model_type": 4}"#),
        &["`model_type` is 4", "a text"],
    );
}

#[test]
fn generation_config_goes_before_config() {
    let directory = Model::new("glm", true, false).write();
    let path = directory.path().join("generation_config.json");
    std::fs::write(&path, r#"{"eos_token_id": [1, 2, 3], "do_sample": true, "temperature": 0.8, "top_p": 0.9, "top_k": null}"#).unwrap();
    let generation = common::open(directory.path())
        .unwrap()
        .generation_config()
        .clone();
    assert_eq!(generation.eos_token_ids, [1, 2, 3]);
    assert_eq!(
        (generation.temperature, generation.top_p, generation.top_k),
        (Some(0.8), Some(0.9), None)
    );
    assert_eq!(generation.pad_token_id, Some(90));
    std::fs::write(&path, r#"{"temperature": 0.8}"#).unwrap();
    assert_eq!(
        common::open(directory.path())
            .unwrap()
            .generation_config()
            .eos_token_ids,
        [90, 91]
    );
    for (text, field) in [
        (r#"{"temperature": "hot"}"#, "temperature"),
        (r#"{"top_p": 1.5}"#, "top_p"),
        (r#"{"eos_token_id": "x"}"#, "eos_token_id"),
    ] {
        std::fs::write(&path, text).unwrap();
        assert_says(
            common::open(directory.path()),
            &["generation_config.json", field],
        );
    }
}

#[test]
fn a_suspicious_rope_base_is_a_warning() {
    let model = Model::new("glm", true, false).with("max_position_embeddings", json!(131_072));
    assert!(model.open().unwrap().warnings()[0].contains("rope_theta is 10000"));
    assert!(
        Model::new("glm", true, false)
            .open()
            .unwrap()
            .warnings()
            .is_empty()
    );
}

#[test]
fn a_note_in_the_config_is_shown() {
    let model = Model::new("glm", true, false).with("glm_demo_note", Value::from("random weights"));
    assert_eq!(model.open().unwrap().note(), Some("random weights"));
}
