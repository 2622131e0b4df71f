//! `inspect`, of every kind of checkpoint.

use serde_json::Value;

use crate::common::{arg, glm, model};

#[test]
fn inspect_every_kind_of_checkpoint() {
    let kinds = [
        ("tiny-glm4", "safetensors"),
        ("tiny-glm4/sharded", "safetensors"),
        ("tiny-chatglm3", "safetensors"),
        ("tiny-glm-edge/pytorch", "pytorch"),
        ("tiny-glm4/model-bf16.gguf", "gguf"),
        ("tiny-glm/model-00001-of-00002.gguf", "gguf"),
    ];
    for (name, format) in kinds {
        let path = model(name);
        let report = glm(&["inspect", "--json", "--model", arg(&path)]).json();
        assert_eq!(report["format"], format, "{name}");
        let tensors = report["tensors"].as_array().unwrap();
        let elements = |tensor: &Value| {
            tensor["shape"]
                .as_array()
                .unwrap()
                .iter()
                .map(|n| n.as_u64().unwrap())
                .product::<u64>()
        };
        assert_eq!(
            report["parameters"],
            tensors.iter().map(elements).sum::<u64>(),
            "{name}"
        );
        assert_eq!(report["memory"]["fits"], true, "{name}");
        let text = glm(&["inspect", "--tensors", "--model", arg(&path)]).ok();
        assert!(
            text.contains("fits here") && text.contains("model.embed_tokens.weight"),
            "{name}:\n{text}"
        );
    }
}

#[test]
fn inspect_tells_a_checkpoints_template_from_the_built_in_one() {
    for (name, own_template) in [("tiny-glm4", true), ("tiny-chatglm-glm4", false)] {
        let report = glm(&["inspect", "--json", "--model", arg(&model(name))]).json();
        assert_eq!(report["chat"]["own_template"], own_template, "{name}");
    }
}

#[test]
fn inspect_reckons_memory_for_a_context() {
    let memory = |options: &[&str]| {
        let report = glm(&[
            &[
                "inspect",
                "--model",
                "random:glm-4-9b",
                "--kv-dtype",
                "f16",
                "--json",
            ],
            options,
        ]
        .concat())
        .json();
        report["memory"].clone()
    };
    let short = memory(&["--max-model-len", "1024"]);
    let long = memory(&["--max-model-len", "4096"]);
    let bytes = |memory: &Value, item: &str| memory[item].as_u64().unwrap();
    assert_eq!(bytes(&long, "kv_cache"), 4 * bytes(&short, "kv_cache"));
    // 40 layers, 2 KV heads of 128, keys and values in two bytes each.
    assert_eq!(bytes(&short, "kv_bytes_per_token"), 40 * 2 * 128 * 2 * 2);
    let small = memory(&["--max-model-len", "1024", "--quantize", "q4_k"]);
    assert!(bytes(&small, "weights") < bytes(&short, "weights") / 2);
    let mixed = memory(&["--max-model-len", "1024", "--quantize", "q4_k_m"]);
    assert!(bytes(&small, "weights") < bytes(&mixed, "weights"));
    assert!(bytes(&mixed, "weights") < bytes(&short, "weights") / 2);
    let absurd = memory(&["--max-model-len", "100000000"]);
    assert_eq!(absurd["fits"], false);
    assert!(absurd["advice"].as_str().unwrap().contains("--quantize"));
}
