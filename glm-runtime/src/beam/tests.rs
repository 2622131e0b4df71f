//! Searches against transformers', and what must hold of all of them.

use std::path::PathBuf;

use serde::Deserialize;

use super::*;
use crate::{Engine, EngineError, EngineHandle, GenerateOptions, Grammar, Request, SamplingParams};

/// What `models/tools/make_beams.py` writes.
#[derive(Deserialize)]
struct Golden {
    max_tokens: usize,
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    prompt: usize,
    ends: Vec<u32>,
    width: usize,
    length_penalty: f64,
    early_stopping: serde_json::Value,
    beams: Vec<GoldenBeam>,
}

#[derive(Deserialize)]
struct GoldenBeam {
    tokens: Vec<u32>,
    score: Option<f64>,
}

fn tiny(path: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "models", path]
        .iter()
        .collect()
}

fn engine(model: &str, prefix_cache: bool) -> EngineHandle {
    Engine::builder(tiny(model).to_str().unwrap())
        .offline(true)
        .prefix_cache(prefix_cache)
        .build()
        .unwrap()
}

fn prompts(model: &str) -> Vec<Vec<u32>> {
    let bytes = std::fs::read(tiny(model).join("golden.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let ids = |p| {
        let data = tensors.tensor(&format!("p{p}.input_ids")).unwrap().data();
        let ids = data.chunks_exact(4);
        ids.map(|id| u32::from_le_bytes(id.try_into().unwrap()))
            .collect()
    };
    (0..2).map(ids).collect()
}

fn options(row: &Row, max_tokens: usize) -> (BeamOptions, GenerateOptions) {
    let early_stopping = match &row.early_stopping {
        serde_json::Value::Bool(true) => EarlyStopping::Full,
        serde_json::Value::Bool(false) => EarlyStopping::Unlikely,
        _ => EarlyStopping::Never,
    };
    let beams = BeamOptions {
        width: row.width,
        length_penalty: row.length_penalty,
        early_stopping,
    };
    let generate = GenerateOptions {
        max_tokens: Some(max_tokens),
        stop_token_ids: row.ends.clone(),
        ignore_eos: true,
        ..GenerateOptions::default()
    };
    (beams, generate)
}

fn assert_idle(engine: &EngineHandle) {
    engine.drain();
    let stats = engine.stats();
    assert_eq!(stats.kv_blocks_free, stats.kv_blocks_total);
}

#[test]
fn searches_find_what_transformers_finds_with_and_without_prefix_cache() {
    for model in ["tiny-glm", "tiny-glm4-nobias"] {
        let json = std::fs::read_to_string(tiny(model).join("golden-beams.json")).unwrap();
        let golden: Golden = serde_json::from_str(&json).unwrap();
        let prompts = prompts(model);
        let engines = [engine(model, true), engine(model, false)];
        for (i, row) in golden.rows.iter().enumerate() {
            let (beams, generate) = options(row, golden.max_tokens);
            let search = |engine: &EngineHandle| {
                let prompt = prompts[row.prompt].clone();
                engine.beam_search(prompt, beams, generate.clone()).unwrap()
            };
            let found = search(&engines[0]);
            assert_eq!(found, search(&engines[1]), "{model} row {i}");
            assert_eq!(found.len(), row.beams.len(), "{model} row {i}");
            for (found, golden) in found.iter().zip(&row.beams) {
                assert_eq!(found.token_ids, golden.tokens, "{model} row {i}");
                let score = golden.score.unwrap_or(found.score);
                assert!(
                    (found.score - score).abs() <= 1e-4 * score.abs().max(1.0),
                    "{model} row {i}: {score}"
                );
            }
        }
        engines.iter().for_each(assert_idle);
    }
}

#[test]
fn one_beam_is_greedy() {
    let engine = engine("tiny-glm4", true);
    let generate = GenerateOptions {
        max_tokens: Some(20),
        min_tokens: 5,
        ..GenerateOptions::default()
    };
    let beams = BeamOptions {
        width: 1,
        ..BeamOptions::default()
    };
    for text in ["Hello", "你好，世界", "one two three"] {
        let greedy = engine.generate(text, generate.clone()).unwrap();
        let greedy = greedy.wait().unwrap();
        let found = engine.beam_search(text, beams, generate.clone()).unwrap();
        assert_eq!(found[0].token_ids, greedy.token_ids());
        assert_eq!(found[0].text, greedy.text);
        assert_eq!(found[0].finish_reason, greedy.finished.reason);
    }
    assert_idle(&engine);
}

#[test]
fn streams_carry_the_best_answers() {
    let engine = engine("tiny-glm4", true);
    let beams = BeamOptions {
        width: 3,
        ..BeamOptions::default()
    };
    let generate = GenerateOptions {
        max_tokens: Some(6),
        ..GenerateOptions::default()
    };
    let found = engine
        .beam_search("Hello", beams, generate.clone())
        .unwrap();
    let prompt = engine.encode("Hello").unwrap();
    let request = Request::new(prompt.clone()).with_options(GenerateOptions {
        beams: Some(beams),
        sampling: SamplingParams {
            logprobs: Some(2),
            ..SamplingParams::greedy()
        },
        ..generate
    });
    let streams = engine.submit_n(request.clone(), 2).unwrap();
    for (stream, beam) in streams.into_iter().zip(&found) {
        let answer = stream.wait().unwrap();
        assert_eq!(answer.token_ids(), beam.token_ids);
        assert_eq!(answer.text, beam.text);
        assert_eq!(answer.finished.usage.prompt_tokens, prompt.len());
        let logprobs = answer.tokens.iter().map(|token| token.logprob.unwrap());
        assert!((logprobs.map(f64::from).sum::<f64>() - beam.logprob).abs() < 1e-4);
        assert!(
            answer
                .tokens
                .iter()
                .all(|token| token.top_logprobs.len() == 2)
        );
    }
    drop(engine.submit(request).unwrap());
    assert_idle(&engine);
}

#[test]
fn what_a_search_cannot_honour_is_refused() {
    let engine = engine("tiny-glm4", true);
    let search = |beams, generate| match engine.beam_search(vec![1, 2], beams, generate) {
        Err(EngineError::Beam(error)) => error,
        other => panic!("{other:?}"),
    };
    let default = BeamOptions::default();
    let generate = GenerateOptions::default();
    let wide = BeamOptions {
        width: 99,
        ..default
    };
    assert!(matches!(
        search(wide, generate.clone()),
        BeamError::Width { found: 99, .. }
    ));
    let penalty = BeamOptions {
        length_penalty: f64::NAN,
        ..default
    };
    assert!(matches!(
        search(penalty, generate.clone()),
        BeamError::LengthPenalty(_)
    ));
    let guided = GenerateOptions {
        grammar: Some(Grammar::JsonObject),
        ..generate.clone()
    };
    assert_eq!(search(default, guided), BeamError::Combined("grammar"));
    let mut hot = generate.clone();
    hot.sampling.temperature = 1.0;
    assert_eq!(search(default, hot), BeamError::Combined("temperature"));
    let request = Request::new([1, 2]).with_options(GenerateOptions {
        beams: Some(default),
        ..generate
    });
    let refused = engine.submit_n(request, 5);
    assert!(matches!(
        refused,
        Err(EngineError::Beam(BeamError::Answers { found: 5, width: 4 }))
    ));
}
