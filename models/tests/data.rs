//! The data is complete and says what the documentation says.

use glm_models::{KNOWN_CHECKPOINTS, PRESETS, known_checkpoint, preset};
use serde_json::Value;
use std::collections::HashSet;

fn config(name: &str) -> Value {
    serde_json::from_str(preset(name).unwrap().config_json).unwrap()
}

fn number(config: &Value, key: &str) -> u64 {
    config[key]
        .as_u64()
        .unwrap_or_else(|| panic!("`{key}` is not a number: {}", config[key]))
}

/// Parameters of a dense checkpoint, from its own configuration.
fn parameters(config: &Value) -> u64 {
    let remote = config["model_type"] == "chatglm";
    let key = |hf: &str, chatglm: &str| number(config, if remote { chatglm } else { hf });
    let hidden = number(config, "hidden_size");
    let head_dim = key("head_dim", "kv_channels");
    let q = number(config, "num_attention_heads") * head_dim;
    let kv = key("num_key_value_heads", "multi_query_group_num") * head_dim;
    let mlp = 3 * hidden * key("intermediate_size", "ffn_hidden_size");
    let layer = hidden * (q + 2 * kv) + q * hidden + mlp;
    let tables = if config["tie_word_embeddings"] == true {
        1
    } else {
        2
    };
    key("num_hidden_layers", "num_layers") * layer
        + tables * hidden * key("vocab_size", "padded_vocab_size")
}

#[test]
fn every_preset_has_the_size_it_claims() {
    for preset in PRESETS {
        let billions = parameters(&config(preset.name)) as f64 / 1e9;
        let claimed: f64 = preset.parameters.trim_end_matches('B').parse().unwrap();
        assert!(
            (billions - claimed).abs() < 0.06 * claimed.min(1.0),
            "{}: {billions:.2}B, claimed {claimed}B",
            preset.name
        );
    }
}

#[test]
fn presets_named_by_the_interface_exist() {
    for name in [
        "glm-4-9b",
        "glm-4-9b-0414",
        "glm-4-32b-0414",
        "glm-edge-1.5b",
        "glm-edge-4b",
        "chatglm3-6b",
        "tiny-9m",
    ] {
        assert!(preset(name).is_some(), "{name}");
    }
    assert!(preset("glm-4").is_none());
}

#[test]
fn presets_are_known_and_supported_checkpoints() {
    for preset in PRESETS {
        let Some(hub_id) = preset.hub_id else {
            continue;
        };
        let known = known_checkpoint(hub_id).unwrap_or_else(|| panic!("{hub_id} is not known"));
        assert!(known.supported, "{}", known.hub_id);
        assert_eq!(
            config(preset.name)["model_type"],
            known.architecture,
            "{}",
            known.hub_id
        );
    }
}

#[test]
fn known_checkpoints_are_found_once_and_under_the_former_owner() {
    let ids: HashSet<_> = KNOWN_CHECKPOINTS
        .iter()
        .map(|known| known.hub_id.to_lowercase())
        .collect();
    assert_eq!(ids.len(), KNOWN_CHECKPOINTS.len());
    assert_eq!(
        known_checkpoint("thudm/GLM-4-9b-chat").unwrap().hub_id,
        "zai-org/glm-4-9b-chat"
    );
    assert_eq!(known_checkpoint("glm-4-9b-chat"), None);
}

#[cfg(feature = "demo")]
#[test]
fn the_demo_is_whole_and_says_what_it_is() {
    let files = glm_models::demo().unwrap();
    let file = |name: &str| {
        files
            .iter()
            .find(|file| file.name == name)
            .unwrap_or_else(|| panic!("no {name}"))
            .bytes
    };
    let json = |name: &str| -> Value { serde_json::from_slice(file(name)).unwrap() };
    for name in [
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ] {
        assert!(json(name).is_object(), "{name}");
    }
    assert!(
        json("config.json")["glm_demo_note"]
            .as_str()
            .unwrap()
            .contains("toy")
    );
    assert!(
        std::str::from_utf8(file("chat_template.jinja"))
            .unwrap()
            .contains("add_generation_prompt")
    );

    let weights = file("model.safetensors");
    let header_len = u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&weights[8..8 + header_len]).unwrap();
    let config = json("config.json");
    let shape = [
        number(&config, "vocab_size"),
        number(&config, "hidden_size"),
    ];
    assert_eq!(
        header["model.embed_tokens.weight"]["shape"],
        serde_json::json!(shape)
    );
}

#[cfg(not(feature = "demo"))]
#[test]
fn without_the_feature_there_is_no_demo() {
    assert!(glm_models::demo().is_none());
}
