//! Drives the engine without a thread, one step at a time, in token ids: `cargo run --release --example step [MODEL]`.
//! With `random:glm-edge-1.5b` it needs no checkpoint.

use glm_runtime::{Engine, GenerateOptions, Request, SeqEvent};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = std::env::args().nth(1).unwrap_or("demo".into());
    let mut engine = Engine::builder(model).max_model_len(256).build_engine()?;
    let options = GenerateOptions {
        max_tokens: Some(8),
        ..GenerateOptions::default()
    };
    for prompt in [vec![1, 2, 3], vec![7; 20]] {
        engine.submit(Request::new(prompt).with_options(options.clone()))?;
    }
    while engine.has_work() {
        for event in engine.step() {
            match event {
                SeqEvent::Token(token) => println!("request {}: token {}", token.request, token.id),
                SeqEvent::Finished(id, finished) => {
                    println!("request {id}: {:?}, {:?}", finished.reason, finished.usage)
                }
                SeqEvent::Failed(id, error) => println!("request {id}: {error}"),
            }
        }
    }
    Ok(())
}
