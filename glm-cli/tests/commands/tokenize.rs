//! `tokenize`, there and back.

use std::fs;

use serde_json::json;

use crate::common::{arg, glm, glm_with_stdin};
use crate::ids;

#[test]
fn tokenize_goes_there_and_back() {
    let text = "Hello, 世界! <|user|>";
    let encoded = glm(&["tokenize", text]).ok();
    assert_eq!(glm(&["tokenize", "--text", text]).ok(), encoded);
    assert_eq!(glm_with_stdin(&["tokenize"], text).ok(), encoded);
    assert_eq!(
        glm(&["tokenize", "--ids", encoded.trim()]).ok(),
        format!("{text}\n")
    );
    let report = glm(&["tokenize", text, "--json"]).json();
    assert_eq!(ids(&report["token_ids"]), encoded.trim());
    assert_eq!(
        report["count"],
        report["token_ids"].as_array().unwrap().len()
    );
    assert_eq!(
        report["pieces"].as_array().unwrap().last().unwrap(),
        "<|user|>"
    );
    let back = glm(&["tokenize", "--ids", encoded.trim(), "--json"]).json();
    assert_eq!(back["text"], text);
}

#[test]
fn tokenize_renders_a_conversation_with_tools() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("chat.json");
    let tool = json!({ "type": "function", "function": { "name": "get_weather", "description": "Weather of a city",
        "parameters": { "type": "object", "properties": { "city": { "type": "string" } } } } });
    let messages = json!([{ "role": "user", "content": "Weather in Lyon?" }]);
    fs::write(
        &file,
        json!({ "messages": messages, "tools": [tool] }).to_string(),
    )
    .unwrap();
    let report = glm(&["tokenize", "--chat", arg(&file), "--json"]).json();
    let text = report["text"].as_str().unwrap();
    assert!(
        text.contains("get_weather") && text.contains("Weather in Lyon?"),
        "{text}"
    );
    assert_eq!(
        glm(&["tokenize", "--ids", &ids(&report["token_ids"])])
            .ok()
            .trim_end(),
        text.trim_end()
    );
    fs::write(&file, r#"{"messages": 3}"#).unwrap();
    assert!(
        glm(&["tokenize", "--chat", arg(&file)])
            .refused()
            .contains("messages")
    );
}
