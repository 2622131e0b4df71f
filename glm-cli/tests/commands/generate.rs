//! `generate`: prompts, options and what is printed.

use std::fs;

use serde_json::{Value, json};

use crate::common::{arg, glm, glm_with_stdin};
use crate::ids;

#[test]
fn generate_prints_the_answer_and_says_what_the_demo_is() {
    let run = glm(&[
        "generate",
        "--prompt",
        "Hello",
        "--max-tokens",
        "8",
        "--temperature",
        "0",
    ]);
    assert!(
        run.stderr.starts_with("note: ") && run.stderr.contains("toy"),
        "{}",
        run.stderr
    );
    assert!(run.ok().ends_with('\n'));
}

#[test]
fn generate_json_tells_everything_about_the_answer() {
    let args = [
        "generate",
        "--prompt",
        "Hello",
        "--max-tokens",
        "8",
        "--temperature",
        "0",
        "--ignore-eos",
        "--json",
    ];
    let plain = glm(&args).json();
    assert_eq!(plain["token_ids"].as_array().unwrap().len(), 8);
    assert_eq!(plain["finish_reason"], "length");
    assert_eq!(plain["usage"]["completion_tokens"], 8);
    let prompt_tokens = plain["prompt_token_ids"].as_array().unwrap().len();
    assert_eq!(plain["usage"]["prompt_tokens"], prompt_tokens);
    assert_eq!(plain["usage"]["total_tokens"], prompt_tokens + 8);
    assert!(plain["timings"]["ttft_ms"].as_f64().unwrap() > 0.0);
    assert!(plain.get("logprobs").is_none());

    let detailed = glm(&[&args[..], &["--logprobs", "3"]].concat()).json();
    assert_eq!(detailed["token_ids"], plain["token_ids"]);
    let logprobs = detailed["logprobs"].as_array().unwrap();
    assert_eq!(logprobs.len(), 8);
    for (entry, id) in logprobs.iter().zip(plain["token_ids"].as_array().unwrap()) {
        assert_eq!(&entry["id"], id);
        let top = entry["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 3);
        assert_eq!(&top[0]["id"], id, "greedy takes the likeliest");
        assert_eq!(top[0]["logprob"], entry["logprob"]);
        assert!(entry["logprob"].as_f64().unwrap() <= 0.0);
    }
}

#[test]
fn a_prompt_comes_from_an_option_a_file_or_stdin() {
    let rest = ["--max-tokens", "6", "--temperature", "0", "--json"];
    let from = |source: &[&str]| glm(&[&["generate"], source, &rest].concat()).json();
    let option = from(&["--prompt", "Hello there"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prompt.txt");
    fs::write(&file, "Hello there\n").unwrap();
    let file = from(&["--prompt-file", arg(&file)]);
    let stdin = glm_with_stdin(&[&["generate"], &rest[..]].concat(), "Hello there\n").json();
    for other in [file, stdin] {
        assert_eq!(other["prompt_token_ids"], option["prompt_token_ids"]);
        assert_eq!(other["text"], option["text"]);
    }
}

#[test]
fn prompt_ids_are_used_exactly_as_given() {
    let rest = ["--max-tokens", "6", "--temperature", "0", "--json"];
    let text = glm(&[&["generate", "--prompt", "Hello"], &rest[..]].concat()).json();
    let round = glm(&[
        &["generate", "--prompt-ids", &ids(&text["prompt_token_ids"])],
        &rest[..],
    ]
    .concat())
    .json();
    assert_eq!(round["prompt_token_ids"], text["prompt_token_ids"]);
    assert_eq!(round["token_ids"], text["token_ids"]);
    let three = glm(&[&["generate", "--prompt-ids", "1,2,3"], &rest[..]].concat()).json();
    assert_eq!(three["prompt_token_ids"], json!([1, 2, 3]));
}

#[test]
fn a_raw_prompt_gets_the_prefix_once_and_no_template() {
    let rest = ["--raw", "--max-tokens", "1", "--temperature", "0", "--json"];
    let prompt = |text: &str| {
        glm(&[&["generate", "--prompt", text], &rest[..]].concat()).json()["prompt_token_ids"]
            .clone()
    };
    let inspection = glm(&["inspect", "--json"]).json();
    let prefix = inspection["tokenizer"]["prefix"].as_array().unwrap();
    let prefix_text = inspection["tokenizer"]["prefix_text"].as_str().unwrap();
    let plain = glm(&["tokenize", "Hello", "--json"]).json()["token_ids"].clone();
    let expected = Value::Array(
        prefix
            .iter()
            .chain(plain.as_array().unwrap())
            .cloned()
            .collect(),
    );
    assert_eq!(prompt("Hello"), expected);
    assert_eq!(prompt(&format!("{prefix_text}Hello")), expected);
    // To the letter, the last line end included.
    let stdin = glm_with_stdin(&[&["generate"], &rest[..]].concat(), "Hello\n").json();
    assert_ne!(stdin["prompt_token_ids"], expected);
}

#[test]
fn a_stop_text_ends_the_answer_before_it() {
    let args = [
        "generate",
        "--prompt",
        "Hello",
        "--max-tokens",
        "32",
        "--temperature",
        "0",
        "--ignore-eos",
        "--json",
    ];
    let whole = glm(&args).json()["text"].as_str().unwrap().to_owned();
    let middle = whole
        .char_indices()
        .nth(whole.chars().count() / 2)
        .unwrap()
        .0;
    let stop: String = whole[middle..].chars().take(2).collect();
    let stopped = glm(&[&args[..], &["--stop", &stop]].concat()).json();
    assert_eq!(stopped["finish_reason"], "stop");
    assert_eq!(
        stopped["text"].as_str().unwrap(),
        &whole[..whole.find(&stop).unwrap()]
    );
}

#[test]
fn the_same_seed_samples_the_same_answer() {
    let run = |seed: &str| {
        let args = [
            "generate",
            "--prompt",
            "Tell me a story.",
            "--max-tokens",
            "16",
            "--temperature",
            "3",
            "--top-k",
            "50",
            "--top-p",
            "0.99",
            "--min-p",
            "0.001",
            "--repetition-penalty",
            "1.1",
            "--ignore-eos",
            "--json",
            "--seed",
            seed,
        ];
        glm(&args).json()["token_ids"].clone()
    };
    assert_eq!(run("7"), run("7"));
    assert_ne!(run("7"), run("8"));
}
