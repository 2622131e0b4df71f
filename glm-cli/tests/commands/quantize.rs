//! `quantize`: what it writes answers like what it read.

use std::fs;

use crate::common::{self, arg, glm, model};

#[test]
fn quantize_writes_a_model_that_answers_like_the_one_quantised_while_loading() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("demo.gguf");
    let quantize = ["quantize", "--format", "q8_0", "--output", arg(&output)];
    let report = glm(&[&quantize[..], &["--json"]].concat()).json();
    assert_eq!(report["format"], "q8_0");
    assert!(report["bytes"].as_u64().unwrap() < fs::metadata(&output).unwrap().len());
    let rest = [
        "generate",
        "--prompt",
        "Hello",
        "--max-tokens",
        "16",
        "--temperature",
        "0",
        "--ignore-eos",
        "--json",
    ];
    let written = glm(&[&rest[..], &["--model", arg(&output)]].concat()).json();
    let loaded = glm(&[&rest[..], &["--quantize", "q8_0"]].concat()).json();
    assert_eq!(
        written["prompt_token_ids"], loaded["prompt_token_ids"],
        "tokenizer and template survive"
    );
    assert_eq!(written["token_ids"], loaded["token_ids"]);

    let line = glm(&quantize).refused();
    assert!(
        line.contains("exists already") && line.contains("--force"),
        "{line}"
    );
    glm(&[&quantize[..], &["--force"]].concat()).ok();
    assert_eq!(
        common::listing(folder.path()).len(),
        1,
        "no temporary file is left"
    );
}

#[test]
fn quantize_reads_every_kind_of_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    for name in [
        "tiny-glm",
        "tiny-glm4/sharded",
        "tiny-chatglm3",
        "tiny-chatglm-glm4",
        "tiny-glm4/model-bf16.gguf",
    ] {
        let output = folder.path().join("out.gguf");
        let path = model(name);
        glm(&[
            "quantize",
            "--model",
            arg(&path),
            "--format",
            "bf16",
            "--output",
            arg(&output),
            "--force",
        ])
        .ok();
        let before = glm(&["inspect", "--json", "--model", arg(&path)]).json();
        let after = glm(&["inspect", "--json", "--model", arg(&output)]).json();
        assert_eq!(after["parameters"], before["parameters"], "{name}");
        assert_eq!(
            after["config"]["hidden_size"], before["config"]["hidden_size"],
            "{name}"
        );
        assert_eq!(
            after["tokenizer"]["prefix"], before["tokenizer"]["prefix"],
            "{name}"
        );
    }
}

/// Renaming the finished file to a device or a pipe would put a file in its place.
#[cfg(unix)]
#[test]
fn quantize_replaces_nothing_but_files() {
    use std::os::unix::fs::FileTypeExt;

    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    common::make_pipe(&pipe);
    for force in [&["--force"][..], &[]] {
        let output = ["quantize", "--format", "q8_0", "--output", arg(&pipe)];
        let line = glm(&[&output, force].concat()).refused();
        assert!(line.contains("not a regular file"), "{line}");
        assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
    }
}

#[test]
fn quantising_twice_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.gguf");
    let source = model("tiny-glm4/model-q8_0.gguf");
    let line = glm(&[
        "quantize",
        "--model",
        arg(&source),
        "--format",
        "q4_0",
        "--output",
        arg(&output),
    ])
    .refused();
    assert!(line.contains("quantised already"), "{line}");
    assert_eq!(common::listing(folder.path()), []);
    glm(&[
        "quantize",
        "--model",
        arg(&source),
        "--format",
        "f16",
        "--output",
        arg(&output),
    ])
    .ok();
}
