//! `chat` in a pipe.

use std::fs;

use serde_json::json;

use crate::common::{arg, glm, glm_with_stdin};
use crate::ids;

#[test]
fn chat_answers_each_line_of_a_pipe() {
    let args = [
        "chat",
        "--max-tokens",
        "4",
        "--temperature",
        "0",
        "--system",
        "Be brief.",
        "--thinking",
        "off",
    ];
    let two = glm_with_stdin(&args, "Hello\n\nAnd again?\n").ok();
    let one = glm_with_stdin(&args, "Hello\n").ok();
    assert!(one.ends_with('\n'));
    assert!(
        two.starts_with(&one) && two.len() > one.len(),
        "{two:?} does not go on from {one:?}"
    );
    // The second turn knows the first: alone it is answered from another prompt.
    let messages = json!([{ "role": "system", "content": "Be brief." }, { "role": "user", "content": "Hello" }]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("chat.json");
    fs::write(&file, messages.to_string()).unwrap();
    let prompt = glm(&["tokenize", "--chat", arg(&file), "--json"]).json();
    let answer = glm(&[
        "generate",
        "--prompt-ids",
        &ids(&prompt["token_ids"]),
        "--max-tokens",
        "4",
        "--temperature",
        "0",
    ])
    .ok();
    assert_eq!(answer.trim(), one.trim());
}

#[test]
fn thinking_can_be_shown_hidden_and_switched_off() {
    for how in ["show", "hide", "off"] {
        glm_with_stdin(&["chat", "--thinking", how, "--max-tokens", "2"], "Hello\n").ok();
    }
}
