//! A request's tokens and log-probabilities do not depend on its companions, on how its prompt is cut into chunks, on
//! preemption, or on what the prefix cache holds: bit for bit.

use glm_runtime::{Engine, EngineOptions, GenerateOptions, Request, SamplingParams};

mod common;
use common::{run, run_to_end, tiny};

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

/// A conversation of three turns: each prompt is everything said so far and something new. Returns the answers, and how many
/// prompt tokens were in the cache.
fn conversation(engine: &mut Engine, salt: Option<&str>) -> (Vec<Answer>, Vec<usize>) {
    let mut prompt: Vec<u32> = (0..37).map(|i| i * 5 % 300).collect();
    let (mut answers, mut cached) = (Vec::new(), Vec::new());
    for turn in 0..3 {
        let options = GenerateOptions {
            max_tokens: Some(12),
            ignore_eos: true,
            cache_salt: salt.map(str::to_owned),
            sampling: SamplingParams {
                logprobs: Some(0),
                ..SamplingParams::default()
            },
            ..GenerateOptions::default()
        };
        let request = Request::new(prompt.clone()).with_options(options);
        engine.submit(request).unwrap();
        let (tokens, finished) = run_to_end(engine);
        let answer: Answer = tokens.iter().map(|t| (t.1, t.2)).collect();
        prompt.extend(answer.iter().map(|token| token.0));
        prompt.extend([turn, 7, 8, 9]);
        answers.push(answer);
        cached.push(finished[0].usage.cached_tokens);
    }
    (answers, cached)
}

#[test]
fn an_answer_that_begins_in_the_cache_equals_a_cold_one() {
    let build = |model, prefix_cache| {
        Engine::builder(tiny(model).to_str().unwrap())
            .max_model_len(128)
            .max_num_batched_tokens(20)
            .prefix_cache(prefix_cache)
            .build_engine()
            .unwrap()
    };
    for model in ["tiny-glm", "tiny-glm4", "tiny-glm4/model-q8_0.gguf"] {
        let cold = conversation(&mut build(model, false), None);
        assert_eq!(cold.1, [0, 0, 0], "{model}");
        let mut engine = build(model, true);
        let warm = conversation(&mut engine, None);
        // Whole blocks of what was computed in the turn before.
        assert_eq!(warm.1, [0, 48, 64], "{model}");
        assert_eq!(warm.0, cold.0, "{model}");
        assert_eq!(engine.stats().prefix_cache_hits, 48 + 64);
        // Once more, all but the last blocks of each prompt; and for a tenant of their own nothing is known.
        assert_eq!(
            conversation(&mut engine, None),
            (cold.0.clone(), vec![32, 48, 64])
        );
        assert_eq!(conversation(&mut engine, Some("tenant")), warm, "{model}");
    }
}

#[test]
fn a_request_can_keep_out_of_the_cache() {
    let mut engine = engine("tiny-glm", 8, 64, 256);
    let mut request = Request::new(vec![9; 50]);
    request.options.max_tokens = Some(2);
    let mut cached = |engine: &mut Engine, prefix_cache| {
        request.options.prefix_cache = prefix_cache;
        engine.submit(request.clone()).unwrap();
        run_to_end(engine).1[0].usage.cached_tokens
    };
    assert_eq!(cached(&mut engine, false), 0);
    assert_eq!(cached(&mut engine, true), 0, "it left its blocks behind");
    assert_eq!(cached(&mut engine, true), 48);
    assert_eq!(cached(&mut engine, false), 0, "it looked");
    assert_eq!(engine.stats().kv_blocks_cached, 3);
}
