//! How long people wait for their first token, and for the next ones, while the engine has other work.
//!
//! ```text
//! cargo bench -p glm-benches --bench latency                    # random:glm-edge-1.5b in Q8_0, a long prompt of 8,000 tokens
//! cargo bench -p glm-benches --bench latency -- MODEL TOKENS    # another model (as it is), a long prompt of so many tokens
//! ```
//!
//! Prints one JSON object; times are in milliseconds.

use std::time::{Duration, Instant};

use glm_runtime::{
    Engine, EngineHandle, Event, GenerateOptions, Quantization, Request, RequestStream,
    WeightFormat,
};
use serde_json::{Value, json};

const SHORT_PROMPT: usize = 64;
const SHORT_ANSWER: usize = 16;
const SYSTEM_PROMPT: usize = 2048;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // Cargo says `--bench` when it is meant; the gate only sees whether this runs.
    let measures = args.iter().any(|arg| arg == "--bench");
    let mut given = args.iter().filter(|arg| !arg.starts_with("--"));
    let (preset, tokens) = if measures {
        ("random:glm-edge-1.5b", 8_000)
    } else {
        ("random:tiny-9m", 256)
    };
    let model = given.next().map_or(preset, String::as_str);
    let long = given
        .next()
        .map_or(tokens, |n| n.parse().expect("a number"));
    let system = if measures { SYSTEM_PROMPT } else { 64 };

    let format = model.starts_with("random:").then_some(WeightFormat::Q8_0);
    let engine = Engine::builder(model)
        .quantize(format.map(Quantization::Uniform))
        .max_model_len(long + SHORT_PROMPT)
        .kv_cache_tokens(long + system + 64 * SHORT_PROMPT)
        .offline(true)
        .build()
        .unwrap_or_else(|error| panic!("{model}: {error}"));
    let _warm = first_token(&engine, prompt(0, SHORT_PROMPT));

    let report = json!({
        "model": model,
        "threads": engine.model_info().threads,
        "device": engine.model_info().device,
        "prefix_cache": prefix_cache(&engine, system),
        "beside_a_long_prompt": beside_a_long_prompt(&engine, long),
    });
    println!("{report:#}");
}

/// A prompt like no other.
fn prompt(seed: usize, len: usize) -> Vec<u32> {
    let id = |i: usize| 100 + ((seed * 7919 + i * 104_729) % 1000) as u32;
    (0..len).map(id).collect()
}

fn submit(engine: &EngineHandle, prompt: Vec<u32>, max_tokens: usize) -> RequestStream {
    let options = GenerateOptions {
        max_tokens: Some(max_tokens),
        ignore_eos: true,
        ..GenerateOptions::default()
    };
    let request = Request::new(prompt).with_options(options);
    engine.submit(request).expect("fits")
}

/// When each token came.
fn token_times(stream: RequestStream) -> Vec<Instant> {
    let mut times = Vec::new();
    for event in stream {
        match event {
            Event::Token(token) => times.push(token.at),
            Event::Finished(_) => {}
            Event::Failed(error) => panic!("{error}"),
        }
    }
    times
}

fn first_token(engine: &EngineHandle, prompt: Vec<u32>) -> Duration {
    let begin = Instant::now();
    token_times(submit(engine, prompt, 1))[0] - begin
}

fn milliseconds(mut times: Vec<Duration>) -> Value {
    times.sort();
    let ms = |time: Duration| (time.as_secs_f64() * 1e5).round() / 100.0;
    let at = |share: f64| ms(times[((times.len() - 1) as f64 * share).round() as usize]);
    json!({ "median": at(0.5), "p95": at(0.95), "max": at(1.0), "n": times.len() })
}

/// The first token behind a long system prompt: the first time, and for those that come after.
fn prefix_cache(engine: &EngineHandle, system: usize) -> Value {
    let (mut cold, mut warm) = (Vec::new(), Vec::new());
    for round in 0..3 {
        let question = |own: usize| [prompt(100 + round, system), prompt(own, 32)].concat();
        cold.push(first_token(engine, question(0)));
        warm.extend((1..4).map(|own| first_token(engine, question(own))));
    }
    json!({
        "system_prompt_tokens": system,
        "first_token_cold": milliseconds(cold),
        "first_token_cached": milliseconds(warm),
    })
}

/// One short request after the other, alone and then while a long prompt is read; and an answer that is under way meanwhile.
fn beside_a_long_prompt(engine: &EngineHandle, long: usize) -> Value {
    let short = |seed| {
        let begin = Instant::now();
        let times = token_times(submit(engine, prompt(seed, SHORT_PROMPT), SHORT_ANSWER));
        let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
        (times[0] - begin, gaps.collect::<Vec<_>>())
    };
    let summary = |asked: Vec<(Duration, Vec<Duration>)>| {
        let (first, gaps): (Vec<_>, Vec<_>) = asked.into_iter().unzip();
        (milliseconds(first), milliseconds(gaps.concat()))
    };
    let (alone_first, alone_gap) = summary((1000..1005).map(short).collect());

    let begin = Instant::now();
    let long_prompt = submit(engine, prompt(1, long), 1);
    let reader = std::thread::spawn(move || token_times(long_prompt)[0]);
    let mut beside: Vec<_> = (2000..)
        .map(short)
        .take_while(|_| !reader.is_finished())
        .collect();
    // On a small model the prompt is read at once.
    if beside.is_empty() {
        beside.push(short(2000));
    }
    let (beside_first, beside_gap) = summary(beside);
    let seconds = (reader.join().expect("no panic") - begin).as_secs_f64();
    json!({
        "long_prompt_tokens": long,
        "long_prompt_seconds": (seconds * 10.0).round() / 10.0,
        "short_prompt_tokens": SHORT_PROMPT,
        "first_token_alone": alone_first,
        "first_token_beside": beside_first,
        "between_tokens_alone": alone_gap,
        "between_tokens_beside": beside_gap,
    })
}
