//! A request's tokens and log-probabilities do not depend on its companions, on how its prompt is cut into chunks, or on
//! preemption: bit for bit.

use glm_runtime::{Engine, EngineOptions, GenerateOptions, Request, SamplingParams};

mod common;
use common::{run, tiny};

type Answer = Vec<(u32, Option<u32>)>;

/// Prompts of very different lengths, greedy and sampled, each with its own seed.
fn requests() -> Vec<Request> {
    let prompt = |seed: u32, len: u32| {
        (0..len)
            .map(|i| (seed * 31 + i * i * 7 + i) % 300)
            .collect::<Vec<u32>>()
    };
    let lengths = [1, 15, 16, 17, 40, 90];
    (0..)
        .zip(lengths)
        .map(|(seed, len)| {
            let sampling = SamplingParams {
                temperature: if seed % 2 == 0 { 0.0 } else { 1.2 },
                top_p: 0.95,
                repetition_penalty: 1.1,
                seed: Some(u64::from(seed)),
                logprobs: Some(0),
                ..SamplingParams::default()
            };
            let options = GenerateOptions {
                sampling,
                max_tokens: Some(24),
                ignore_eos: true,
                ..GenerateOptions::default()
            };
            Request::new(prompt(seed, len)).with_options(options)
        })
        .collect()
}

fn engine(
    model: &str,
    max_num_seqs: usize,
    max_num_batched_tokens: usize,
    kv_cache_tokens: usize,
) -> Engine {
    let options = EngineOptions {
        max_model_len: Some(128),
        max_num_seqs: Some(max_num_seqs),
        max_num_batched_tokens: Some(max_num_batched_tokens),
        kv_cache_tokens: Some(kv_cache_tokens),
        offline: true,
        ..EngineOptions::default()
    };
    Engine::builder(tiny(model).to_str().unwrap())
        .options(options)
        .build_engine()
        .unwrap()
}

/// The answers to all requests, submitted together.
fn answers(engine: &mut Engine) -> Vec<Answer> {
    let ids: Vec<_> = requests()
        .into_iter()
        .map(|request| engine.submit(request).unwrap().0)
        .collect();
    let tokens = run(engine);
    let answer = |id: &u64| {
        tokens
            .iter()
            .filter(|t| t.0 == *id)
            .map(|&(_, token, bits)| (token, bits))
            .collect()
    };
    ids.iter().map(answer).collect()
}

fn one_by_one(model: &str) -> Vec<Answer> {
    let mut engine = engine(model, 1, 128, 128);
    let alone = |request| {
        engine.submit(request).unwrap();
        run(&mut engine)
            .into_iter()
            .map(|(_, token, bits)| (token, bits))
            .collect()
    };
    requests().into_iter().map(alone).collect()
}

#[test]
fn a_batch_of_many_equals_batches_of_one() {
    for model in ["tiny-glm", "tiny-glm4", "tiny-glm4/model-q8_0.gguf"] {
        let alone = one_by_one(model);
        assert!(alone.iter().all(|answer| answer.len() == 24));
        assert_eq!(answers(&mut engine(model, 8, 256, 1024)), alone, "{model}");
    }
}

#[test]
fn a_prompt_in_chunks_equals_a_whole_one() {
    for model in ["tiny-glm", "tiny-glm4/model-q8_0.gguf"] {
        let whole = one_by_one(model);
        for max_num_batched_tokens in [1, 7, 16, 33] {
            let mut engine = engine(model, 8, max_num_batched_tokens, 1024);
            assert_eq!(
                answers(&mut engine),
                whole,
                "{model}, {max_num_batched_tokens} tokens in a step"
            );
        }
    }
}

#[test]
fn a_preempted_request_equals_an_undisturbed_one() {
    let undisturbed = one_by_one("tiny-glm");
    let mut crowded = engine("tiny-glm", 8, 64, 128);
    assert_eq!(answers(&mut crowded), undisturbed);
    assert!(
        crowded.stats().preemptions > 0,
        "the cache was large enough for all: {:?}",
        crowded.stats()
    );
}
