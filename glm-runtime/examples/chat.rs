//! Loads a model and streams a chat answer: `cargo run --release --example chat [MODEL [QUESTION]]`.

use std::io::Write;

use glm_runtime::{ChatOptions, Engine, GenerateOptions, Message};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let engine = Engine::builder(args.next().unwrap_or("demo".into())).build()?;
    let question = Message::user(args.next().unwrap_or("What is a token?".into()));
    let generate = GenerateOptions {
        max_tokens: Some(200),
        ..GenerateOptions::default()
    };
    for text in engine
        .chat(
            [question],
            ChatOptions {
                generate,
                ..ChatOptions::default()
            },
        )?
        .texts()
    {
        print!("{}", text?);
        std::io::stdout().flush()?;
    }
    println!();
    Ok(())
}
