//! Asks for an answer that satisfies a JSON schema: `cargo run --release --example structured [MODEL]`.

use glm_runtime::{ChatOptions, Engine, GenerateOptions, Grammar, Message};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::builder(std::env::args().nth(1).unwrap_or("demo".into())).build()?;
    let city = serde_json::json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "maxLength": 30 },
            "people": { "type": "integer", "minimum": 0, "maximum": 50_000_000 }
        },
        "required": ["name", "people"],
        "additionalProperties": false
    });
    let generate = GenerateOptions {
        grammar: Some(Grammar::JsonSchema(city)),
        max_tokens: Some(200),
        ..GenerateOptions::default()
    };
    let options = ChatOptions {
        generate,
        ..ChatOptions::default()
    };
    let answer = engine
        .chat([Message::user("Which city lies on seven hills?")], options)?
        .wait()?;
    println!("{} ({:?})", answer.text, answer.finished.reason);
    Ok(())
}
