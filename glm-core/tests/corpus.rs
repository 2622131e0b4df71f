//! Replays what fuzzing found, and its seeds: no parser may panic on any of them.

use std::path::Path;

use glm_core::chat::{ChatFormat, ChatRequest, Message};
use glm_core::gguf::{Reader, vocabulary};
use glm_core::tokenizer::Tokenizer;
use glm_core::{GenerationConfig, ModelConfig, fuzzing};

/// Calls `check` with every case of a target.
fn replay(target: &str, check: impl Fn(Vec<u8>)) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/corpus")
        .join(target);
    let mut cases = 0;
    for entry in std::fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display()); // shown when the case fails
        check(std::fs::read(path).unwrap());
        cases += 1;
    }
    assert!(cases > 0, "no case in {}", directory.display());
}

#[test]
fn gguf() {
    replay("gguf", |bytes| {
        let Ok(reader) = Reader::from_bytes("case.gguf", bytes) else {
            return;
        };
        reader
            .tensors()
            .iter()
            .for_each(|t| assert_eq!(reader.data(t).len() as u64, t.bytes));
        let _ = ModelConfig::from_gguf(&reader);
        if let Ok(Some(vocabulary)) = vocabulary(&reader) {
            let _ = Tokenizer::from_gguf(vocabulary, reader.path());
        }
    });
}

#[test]
fn safetensors_and_index() {
    replay("safetensors_index", |bytes| {
        if let Ok(text) = std::str::from_utf8(&bytes) {
            let _ = fuzzing::index(text);
        }
        let _ = fuzzing::safetensors_header(bytes);
    });
}

#[test]
fn config() {
    replay("config", |bytes| {
        let Ok(text) = String::from_utf8(bytes) else {
            return;
        };
        let file = Path::new("config.json");
        let _ = GenerationConfig::from_json(&text, file);
        if let Ok(config) = ModelConfig::from_json(&text, file) {
            assert_eq!(
                ModelConfig::from_json(&config.to_json().to_string(), file).unwrap(),
                config
            );
        }
    });
}

#[test]
fn template() {
    replay("template", |bytes| {
        let Ok(source) = String::from_utf8(bytes) else {
            return;
        };
        if let Ok(format) = ChatFormat::from_template(&source, Path::new("chat_template.jinja")) {
            let messages = vec![Message::text("system", "S"), Message::text("user", "你好")];
            let _ = format.render(&ChatRequest::new(messages));
        }
    });
}

#[test]
fn pytorch() {
    replay("pytorch", |bytes| {
        let _ = fuzzing::pickle(&bytes);
        let _ = fuzzing::pytorch_header(bytes);
    });
}

#[test]
fn answer() {
    replay("answer", |bytes| {
        if let Ok(input) = String::from_utf8(bytes) {
            fuzzing::check_answer(&input);
        }
    });
}
