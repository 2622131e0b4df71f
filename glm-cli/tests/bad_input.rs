//! Whatever is wrong with a model: one clear line, exit code 2, nothing written.

mod common;

use std::fs;
use std::path::Path;

use common::{arg, copy_of, copy_of_gguf, edit_json, edit_safetensors, glm, listing, model};
use serde_json::json;

/// Every command that reads the weights refuses `path`; the line says `expected`.
fn refuses(path: &Path, expected: &str) {
    let folder = if path.is_dir() {
        path.to_owned()
    } else {
        path.parent().unwrap().to_owned()
    };
    let before = folder.is_dir().then(|| listing(&folder));
    let out = tempfile::tempdir().unwrap();
    let gguf = out.path().join("out.gguf");
    let model = arg(path);
    let answers = [
        glm(&[
            "generate",
            "--model",
            model,
            "--prompt",
            "hi",
            "--max-tokens",
            "1",
        ]),
        glm(&[
            "quantize",
            "--model",
            model,
            "--format",
            "q8_0",
            "--output",
            arg(&gguf),
        ]),
    ];
    for answer in answers {
        let line = answer.refused();
        assert!(
            line.to_lowercase().contains(&expected.to_lowercase()),
            "`{expected}` is not in: {line}"
        );
    }
    assert_eq!(listing(out.path()), [], "nothing may be written");
    assert_eq!(
        folder.is_dir().then(|| listing(&folder)),
        before,
        "nothing may be written"
    );
}

/// Like [`refuses`], for damage that only a conversation meets.
fn refuses_to_chat(path: &Path, expected: &str) {
    let line = glm(&[
        "generate",
        "--model",
        arg(path),
        "--prompt",
        "hi",
        "--max-tokens",
        "1",
    ])
    .refused();
    assert!(
        line.to_lowercase().contains(&expected.to_lowercase()),
        "`{expected}` is not in: {line}"
    );
}

fn refuses_config(edit: impl FnOnce(&mut serde_json::Value), expected: &str) {
    let copy = copy_of("tiny-glm4");
    edit_json(copy.path(), "config.json", edit);
    refuses(copy.path(), expected);
}

fn refuses_header(edit: impl FnOnce(&mut serde_json::Value), expected: &str) {
    let copy = copy_of("tiny-glm4");
    edit_safetensors(copy.path(), edit);
    refuses(copy.path(), expected);
}

const NORM: &str = "model.norm.weight";

#[test]
fn a_path_that_is_not_there() {
    refuses(Path::new("/no/such/model"), "/no/such/model");
    let line = glm(&["generate", "--model", "no-such-model", "--prompt", "hi"]).refused();
    assert!(
        line.contains("no-such-model") && line.contains("demo"),
        "says what would work: {line}"
    );
}

#[test]
fn a_path_that_is_no_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    refuses(folder.path(), "not a checkpoint");
    let file = folder.path().join("notes.gguf");
    fs::write(&file, "not a model at all, only words").unwrap();
    refuses(&file, "notes.gguf");
}

#[test]
fn a_file_that_cannot_be_read() {
    let copy = copy_of("tiny-glm4");
    let weights = copy.path().join("model.safetensors");
    fs::remove_file(&weights).unwrap();
    fs::create_dir(&weights).unwrap();
    refuses(copy.path(), "model.safetensors");
}

/// Pipes and devices would make a reader wait or read for ever.
#[cfg(unix)]
#[test]
fn a_file_that_is_a_pipe_or_a_device() {
    let refuses = |path: &Path, expected: &str| {
        let line = glm(&["generate", "--model", arg(path), "--prompt", "hi"]).refused();
        assert!(
            line.contains(expected) && line.contains("regular file"),
            "{line}"
        );
    };
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        let copy = copy_of("tiny-glm4");
        let path = copy.path().join(name);
        fs::remove_file(&path).unwrap();
        common::make_pipe(&path);
        refuses(copy.path(), name);
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        refuses(copy.path(), name);
    }
}

#[test]
fn a_gguf_that_is_not_there_is_no_hub_id() {
    let line = glm(&["generate", "--model", "models/tiny.gguf", "--prompt", "hi"]).refused();
    assert!(line.contains("no such file"), "{line}");
}

#[test]
fn text_for_a_model_without_a_tokenizer() {
    let sharded = common::model("tiny-glm4/sharded");
    let sharded = arg(&sharded);
    for args in [
        ["generate", "--prompt", "hi"],
        ["perplexity", "--file", "Cargo.toml"],
        ["chat", "--system", "hi"],
    ] {
        let line = glm(&[args[0], "--model", sharded, args[1], args[2]]).refused();
        assert!(line.contains("no tokenizer"), "{line}");
    }
}

#[test]
fn a_random_preset_that_does_not_exist() {
    let line = glm(&["generate", "--model", "random:gpt-5", "--prompt-ids", "1"]).refused();
    assert!(line.contains("glm-4-9b"), "lists the presets: {line}");
}

#[test]
fn a_hub_id_that_is_not_in_the_cache() {
    let cache = tempfile::tempdir().unwrap();
    let run = common::command(&[
        "generate",
        "--model",
        "zai-org/no-such",
        "--prompt",
        "hi",
        "--offline",
    ])
    .env("HF_HUB_CACHE", cache.path())
    .output()
    .unwrap();
    let line = common::Run::from(run).refused();
    assert!(line.contains("zai-org/no-such"), "{line}");
    assert_eq!(listing(cache.path()), []);
}

#[test]
fn truncated_safetensors() {
    let copy = copy_of("tiny-glm4");
    let path = copy.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    for keep in [bytes.len() - 1, bytes.len() / 2, 9, 3, 0] {
        fs::write(&path, &bytes[..keep]).unwrap();
        refuses(copy.path(), "model.safetensors");
    }
}

#[test]
fn a_safetensors_header_longer_than_the_file() {
    let copy = copy_of("tiny-glm4");
    let path = copy.path().join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    for length in [bytes.len() as u64, u64::MAX, 1 << 40] {
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        fs::write(&path, &bytes).unwrap();
        refuses(copy.path(), "model.safetensors");
    }
}

#[test]
fn tensors_beyond_the_file_or_of_impossible_size() {
    refuses_header(
        |header| header[NORM]["data_offsets"] = json!([0, u64::MAX]),
        "model.safetensors",
    );
    refuses_header(
        |header| header[NORM]["data_offsets"] = json!([64, 0]),
        "model.safetensors",
    );
    refuses_header(
        |header| header[NORM]["shape"] = json!([u64::MAX, u64::MAX]),
        "model.safetensors",
    );
}

#[test]
fn a_tensor_missing_doubled_or_of_the_wrong_shape() {
    refuses_header(
        |header| {
            header.as_object_mut().unwrap().remove(NORM).unwrap();
        },
        "model.safetensors",
    );
    refuses_header(
        |header| {
            let tensor = header.as_object_mut().unwrap().remove(NORM).unwrap();
            header["model.other.weight"] = tensor;
        },
        "model.other.weight",
    );
    refuses_header(
        |header| {
            let length = header[NORM]["shape"][0].as_u64().unwrap();
            header[NORM]["shape"] = json!([2, length / 2]);
        },
        "shape",
    );
    let copy = copy_of("tiny-glm4");
    let weights = copy.path().join("model.safetensors");
    fs::copy(&weights, copy.path().join("second.safetensors")).unwrap();
    let index = json!({ "weight_map": { NORM: "model.safetensors", "lm_head.weight": "second.safetensors" } });
    fs::write(
        copy.path().join("model.safetensors.index.json"),
        index.to_string(),
    )
    .unwrap();
    fs::rename(&weights, copy.path().join("first.safetensors")).unwrap();
    refuses(copy.path(), "safetensors");
}

#[test]
fn truncated_gguf() {
    let (_folder, path) = copy_of_gguf("tiny-glm4", "model-bf16.gguf");
    let bytes = fs::read(&path).unwrap();
    for keep in [bytes.len() - 64, bytes.len() / 2, 200, 24, 5] {
        fs::write(&path, &bytes[..keep]).unwrap();
        refuses(&path, "model.gguf");
    }
}

#[test]
fn gguf_counts_and_types_that_cannot_be() {
    let (_folder, path) = copy_of_gguf("tiny-glm4", "model-bf16.gguf");
    let original = fs::read(&path).unwrap();
    let with = |at: usize, value: &[u8]| {
        let mut bytes = original.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        fs::write(&path, bytes).unwrap();
    };
    with(8, &u64::MAX.to_le_bytes()); // number of tensors
    refuses(&path, "model.gguf");
    with(16, &u64::MAX.to_le_bytes()); // number of metadata entries
    refuses(&path, "model.gguf");
    with(4, &99u32.to_le_bytes()); // version
    refuses(&path, "99");
    let name = b"output_norm.weight";
    let at = original
        .windows(name.len())
        .position(|window| window == name)
        .unwrap()
        + name.len();
    // After a name: the number of dimensions, each dimension, the type and the offset.
    assert_eq!(original[at..at + 4], 1u32.to_le_bytes());
    with(at + 12, &77u32.to_le_bytes());
    refuses(&path, "77");
    with(at + 4, &u64::MAX.to_le_bytes());
    refuses(&path, "output_norm.weight");
    with(at + 16, &(1u64 << 60).to_le_bytes());
    refuses(&path, "output_norm.weight");
}

#[test]
fn truncated_pickle() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "pytorch_model.bin"] {
        fs::copy(
            model("tiny-glm-edge/pytorch").join(file),
            folder.path().join(file),
        )
        .unwrap();
    }
    let path = folder.path().join("pytorch_model.bin");
    let bytes = fs::read(&path).unwrap();
    for keep in [bytes.len() - 1, bytes.len() / 2, 10] {
        fs::write(&path, &bytes[..keep]).unwrap();
        refuses(folder.path(), "pytorch_model.bin");
    }
}

#[test]
fn architectures_that_are_not_run() {
    refuses_config(|config| config["model_type"] = json!("llama"), "llama");
    refuses_config(
        |config| config["model_type"] = json!("glm4_moe"),
        "not supported yet",
    );
}

#[test]
fn absurd_configurations() {
    refuses_config(
        |config| config["num_attention_heads"] = json!(0),
        "num_attention_heads",
    );
    refuses_config(
        |config| config["num_key_value_heads"] = json!(3),
        "num_key_value_heads",
    );
    refuses_config(|config| config["hidden_size"] = json!(-64), "hidden_size");
    refuses_config(
        |config| config["num_hidden_layers"] = json!(1_000_000_000),
        "num_hidden_layers",
    );
    refuses_config(|config| config["vocab_size"] = json!("many"), "vocab_size");
    refuses_config(
        |config| {
            config.as_object_mut().unwrap().remove("head_dim");
            config["num_attention_heads"] = json!(7); // does not divide the hidden size
        },
        "num_attention_heads",
    );
    let copy = copy_of("tiny-glm4");
    fs::write(copy.path().join("config.json"), "{").unwrap();
    refuses(copy.path(), "config.json");
    fs::remove_file(copy.path().join("config.json")).unwrap();
    refuses(copy.path(), "config.json");
}

#[test]
fn a_tokenizer_that_does_not_fit_the_vocabulary() {
    let copy = copy_of("tiny-glm4");
    edit_json(copy.path(), "tokenizer.json", |tokenizer| {
        tokenizer["added_tokens"]
            .as_array_mut()
            .unwrap()
            .push(json!({
                "id": 1_000_000, "content": "<|beyond|>", "special": true, "normalized": false,
                "lstrip": false, "rstrip": false, "single_word": false
            }));
    });
    refuses(copy.path(), "vocab");
    fs::write(copy.path().join("tokenizer.json"), "[]").unwrap();
    refuses(copy.path(), "tokenizer.json");
}

#[test]
fn a_tokenizer_without_tokens() {
    for name in ["tiny-chatglm3", "tiny-chatglm-glm4"] {
        let copy = copy_of(name);
        fs::write(copy.path().join("tokenizer.model"), "").unwrap();
        refuses(copy.path(), "tokenizer.model: 0 token ids");
    }
}

#[test]
fn side_files_of_another_shape() {
    let copy = copy_of("tiny-glm4");
    fs::write(copy.path().join("generation_config.json"), "[]").unwrap();
    refuses(copy.path(), "expected a JSON object");
    let copy = copy_of("tiny-glm4");
    edit_json(copy.path(), "tokenizer_config.json", |config| {
        config["chat_template"] = json!(5);
    });
    refuses_to_chat(copy.path(), "chat_template");
    fs::write(copy.path().join("tokenizer_config.json"), "[]").unwrap();
    refuses_to_chat(copy.path(), "tokenizer_config.json");
}

#[test]
fn templates_that_loop_or_are_broken() {
    let copy = copy_of("demo");
    let template = copy.path().join("chat_template.jinja");
    fs::write(
        &template,
        "{% for a in range(100000) %}{% for b in range(100000) %}{{ b }}{% endfor %}{% endfor %}",
    )
    .unwrap();
    refuses_to_chat(copy.path(), "template");
    fs::write(&template, "{% for x in %}").unwrap();
    refuses_to_chat(copy.path(), "template");
    // Compiled by one call per link: without a bound the program would die of a stack overflow.
    for endless in [
        format!("{{{{ {}1 }}}}", "not ".repeat(100_000)),
        format!("{{{{ a{} }}}}", ".a".repeat(100_000)),
        format!(
            "{{% if a %}}{}{{% endif %}}",
            "{%- elif b %}".repeat(100_000)
        ),
    ] {
        fs::write(&template, endless).unwrap();
        refuses_to_chat(copy.path(), "more than");
    }
}

#[test]
fn wrong_arguments() {
    // Either there is no driver, or no such device.
    assert!(
        glm(&["generate", "--prompt", "hi", "--device", "cuda:99"])
            .refused()
            .contains("device")
    );
    assert!(
        glm(&["inspect", "--device", "cuda"])
            .refused()
            .contains("leave --device out")
    );
    assert!(
        glm(&["generate", "--prompt-file", "/no/such/file"])
            .refused()
            .contains("/no/such/file")
    );
    assert!(
        glm(&["perplexity", "--ids", "/no/such/file"])
            .refused()
            .contains("/no/such/file")
    );
    assert!(
        glm(&["tokenize", "--chat", "/no/such/file"])
            .refused()
            .contains("/no/such/file")
    );
    assert!(
        glm(&["generate", "--prompt", "hi", "--max-model-len", "4"])
            .refused()
            .contains("max-model-len")
    );
    assert!(
        glm(&["generate", "--prompt-ids", "999999"])
            .refused()
            .contains("999999")
    );
    assert!(
        glm(&["tokenize", "--ids", "999999"])
            .refused()
            .contains("999999")
    );
    assert!(
        glm(&[
            "generate",
            "--model",
            "random:glm-edge-1.5b",
            "--quantize",
            "q4_0",
            "--max-model-len",
            "999999999",
            "--prompt-ids",
            "1"
        ])
        .refused()
        .contains("max-model-len")
    );
}

/// clap says more than one line about a wrong option: what was meant, and how to go on.
#[test]
fn a_typo_gets_a_suggestion() {
    let run = glm(&["generate", "--promt", "hi"]);
    assert_eq!(run.code, Some(2));
    assert_eq!(run.stdout, "");
    assert!(run.stderr.contains("--prompt"), "{}", run.stderr);
    let run = glm(&["genrate"]);
    assert_eq!(run.code, Some(2));
    assert!(run.stderr.contains("generate"), "{}", run.stderr);
    for wrong in [
        ["--temperature", "-1"],
        ["--top-p", "0"],
        ["--kv-dtype", "q3"],
        ["--quantize", "q9"],
        ["--threads", "0"],
        ["--threads", "-1"],
        ["--top-k", "-1"],
        ["--min-p", "-0.5"],
        ["--repetition-penalty", "-1"],
        ["--max-tokens", "-1"],
        ["--max-model-len", "-1"],
        ["--seed", "-1"],
    ] {
        let run = glm(&["generate", "--prompt", "hi", wrong[0], wrong[1]]);
        assert_eq!(
            (run.code, run.stdout.as_str()),
            (Some(2), ""),
            "{wrong:?}: {}",
            run.stderr
        );
        assert!(
            run.stderr.contains(&format!("'{} <", wrong[0])),
            "names the option: {}",
            run.stderr
        );
    }
}
