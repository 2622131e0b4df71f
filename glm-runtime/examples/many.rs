//! Submits many requests at once; the engine computes them together: `cargo run --release --example many [MODEL]`.

use glm_runtime::{Engine, GenerateOptions, SamplingParams};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::builder(std::env::args().nth(1).unwrap_or("demo".into())).build()?;
    let prompts = [
        "The sea is",
        "A good name for a cat is",
        "今天天气",
        "1, 2, 3,",
    ];
    let answer = |seed, prompt: &str| {
        let sampling = SamplingParams {
            temperature: 0.8,
            top_p: 0.9,
            seed: Some(seed),
            ..SamplingParams::default()
        };
        engine.generate(
            prompt,
            GenerateOptions {
                sampling,
                max_tokens: Some(16),
                ..GenerateOptions::default()
            },
        )
    };
    let streams = (0..)
        .zip(prompts)
        .map(|(seed, prompt)| answer(seed, prompt))
        .collect::<Result<Vec<_>, _>>()?;
    for (prompt, stream) in prompts.iter().zip(streams) {
        let completion = stream.wait()?;
        println!(
            "{prompt}|{}  [{:?}]",
            completion.text, completion.finished.reason
        );
    }
    let stats = engine.stats();
    println!("{} tokens in {} steps", stats.generated_tokens, stats.steps);
    Ok(())
}
