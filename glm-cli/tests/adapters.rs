//! `--adapter`: who answers, and what is refused.

mod common;

use std::fs;

use common::{Run, arg, glm, glm_with_stdin, model};
use serde_json::{Value, json};

/// `command` with `tiny-glm4`, greedy, a few tokens.
fn run(command: &str, args: &[&str]) -> Run {
    let checkpoint = model("tiny-glm4");
    let rest = [
        "--model",
        arg(&checkpoint),
        "--temperature",
        "0",
        "--max-tokens",
        "12",
    ];
    glm(&[&[command][..], args, &rest].concat())
}

fn adapter(name: &str) -> String {
    arg(&model("tiny-glm4/adapters").join(name)).to_owned()
}

#[test]
fn generate_answers_with_the_adapter() {
    let prompt = ["--prompt-ids", "5,6,7,8", "--ignore-eos", "--json"];
    let ids =
        |args: &[&str]| run("generate", &[&prompt[..], args].concat()).json()["token_ids"].clone();
    let plain = ids(&[]);
    let named = ids(&["--adapter", &format!("any={}", adapter("patterns"))]);
    let bare = ids(&["--adapter", &adapter("patterns")]);
    assert_eq!(named, bare);
    assert_ne!(named, plain);
    assert_ne!(ids(&["--adapter", &adapter("mlp")]), named);
}

#[test]
fn perplexity_is_that_of_the_adapter() {
    let folder = tempfile::tempdir().unwrap();
    let ids = folder.path().join("ids.json");
    fs::write(&ids, "[5, 6, 7, 8, 9, 10]").unwrap();
    let (checkpoint, patterns) = (model("tiny-glm4"), adapter("patterns"));
    let perplexity = |args: &[&str]| {
        let rest = ["--model", arg(&checkpoint), "--ids", arg(&ids), "--json"];
        glm(&[&["perplexity"][..], args, &rest].concat()).json()["perplexity"].clone()
    };
    let adapted = perplexity(&["--adapter", &patterns]);
    assert_ne!(adapted, perplexity(&[]));
    let logits = folder.path().join("logits");
    let both = perplexity(&["--adapter", &patterns, "--logits", arg(&logits)]);
    assert_eq!(both, adapted);
    assert!(fs::metadata(&logits).unwrap().len() > 0);
}

#[test]
fn chat_begins_with_the_first_adapter() {
    let checkpoint = model("tiny-glm4");
    let chat = |args: &[&str]| {
        let rest = [
            "--model",
            arg(&checkpoint),
            "--temperature",
            "0",
            "--max-tokens",
            "12",
        ];
        glm_with_stdin(&[&["chat"][..], args, &rest].concat(), "Hello\n").ok()
    };
    let (patterns, mlp) = (adapter("patterns"), adapter("mlp"));
    let first = chat(&["--adapter", &patterns, "--adapter", &mlp]);
    assert_eq!(first, chat(&["--adapter", &patterns]));
    assert_ne!(first, chat(&["--adapter", &mlp]));
    assert_ne!(first, chat(&[]));
}

#[test]
fn the_model_of_a_line_chooses_its_adapter() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (
        folder.path().join("in.jsonl"),
        folder.path().join("out.jsonl"),
    );
    let checkpoint = model("tiny-glm4");
    let line = |custom_id: &str, fields: Value| {
        let mut body =
            json!({"prompt": [5, 6, 7, 8], "max_tokens": 12, "temperature": 0, "ignore_eos": true});
        body.as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        json!({"custom_id": custom_id, "method": "POST", "url": "/v1/completions", "body": body})
            .to_string()
    };
    let lines = [
        line("law", json!({"model": "law"})),
        line("explicit", json!({"adapter": "law"})),
        line("plain", json!({"model": arg(&checkpoint)})),
        line("wrong", json!({"adapter": "lww"})),
        line("nobody", json!({"model": "gpt"})),
    ];
    fs::write(&input, lines.join("\n")).unwrap();
    let law = format!("law={}", adapter("patterns"));
    let args = [
        "batch",
        "--input",
        arg(&input),
        "--output",
        arg(&output),
        "--model",
        arg(&checkpoint),
    ];
    glm(&[&args[..], &["--adapter", &law]].concat()).ok();
    let text = fs::read_to_string(&output).unwrap();
    let results: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let body = |custom_id: &str| {
        let result = results
            .iter()
            .find(|result| result["custom_id"] == custom_id);
        result.unwrap()["response"]["body"].clone()
    };
    let answer = |custom_id: &str| body(custom_id)["choices"][0]["text"].clone();
    assert_eq!(answer("law"), answer("explicit"));
    assert_ne!(answer("law"), answer("plain"));
    assert_eq!(body("law")["model"], "law");
    assert_ne!(body("plain")["model"], "law");
    let error = &body("wrong")["error"];
    assert_eq!(error["param"], "adapter");
    assert_eq!(error["message"], "no adapter `lww`; loaded: law");
    assert_eq!(body("nobody")["error"]["code"], "model_not_found");
}

#[test]
fn an_adapter_that_cannot_be_used_is_a_wrong_argument() {
    let refused =
        |adapter: &str| run("generate", &["--prompt", "a", "--adapter", adapter]).refused();
    assert!(refused("/no/such").contains("/no/such is not a LoRA adapter"));
    let other = model("tiny-chatglm3");
    assert!(refused(arg(&other)).contains("it is a checkpoint"));
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("adapter_config.json");
    fs::write(
        &config,
        r#"{"peft_type": "LORA", "r": 8, "lora_alpha": 8, "use_dora": true}"#,
    )
    .unwrap();
    let line = refused(arg(folder.path()));
    assert!(
        line.contains("use_dora") && line.contains("merge_and_unload"),
        "{line}"
    );
    let twice = run(
        "chat",
        &[
            "--adapter",
            &adapter("mlp"),
            "--adapter",
            &format!("mlp={}", adapter("patterns")),
        ],
    );
    assert!(twice.refused().contains("already"));
}
