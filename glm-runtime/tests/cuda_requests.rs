//! What requests can ask for, on a graphics processor (see `cuda.rs`): sampling, grammars, adapters, guesses, and steps that are under way
//! before the tokens of the last one are known.

use std::time::Duration;

use glm_kernels::Device;
use glm_runtime::{
    DraftLength, Engine, EngineBuilder, FinishReason, GenerateOptions, Grammar, KvDType, Request,
    SamplingParams, SeqEvent, SeqToken, Speculation,
};
use serde_json::json;

mod common;
use common::device::devices;
use common::golden::{Golden, assert_close, assert_nearly_greedy};
use common::tiny;

/// As in `cuda.rs`.
const TOLERANCE: f32 = 2e-2;

/// All but 1: what keeps the device from drawing, and leaves every token that is likely at all.
const ALMOST_ALL: f32 = 1.0 - f32::EPSILON / 2.0;

/// Steps hold what the scheduler puts into them whatever they take: how a step is cut decides how products are rounded.
fn open(model: &str, device: &Device) -> EngineBuilder {
    Engine::builder(tiny(model).to_str().unwrap())
        .offline(true)
        .max_step_time(Duration::MAX)
        .open_device(device.clone())
        .max_model_len(128)
        .kv_cache_tokens(1024)
}

/// The tokens of each request, submitted together.
fn answers(engine: &mut Engine, requests: Vec<Request>) -> Vec<Vec<SeqToken>> {
    let submit = |request| engine.submit(request).unwrap();
    let ids: Vec<_> = requests.into_iter().map(submit).collect();
    let mut answers = vec![Vec::new(); ids.len()];
    while engine.has_work() {
        for event in engine.step() {
            match event {
                SeqEvent::Token(token) => {
                    let at = ids.iter().position(|id| *id == token.request);
                    answers[at.unwrap()].push(token);
                }
                SeqEvent::Finished(..) => {}
                SeqEvent::Failed(id, error) => panic!("request {id}: {error}"),
            }
        }
    }
    let stats = engine.stats();
    assert_eq!(stats.kv_blocks_free, stats.kv_blocks_total);
    answers
}

fn token_ids(answer: &[SeqToken]) -> Vec<u32> {
    answer.iter().map(|token| token.id).collect()
}

/// Greedy and drawn, with everything that changes logits or is reported about them.
fn demanding(seed: u32, typical_p: f32) -> Request {
    let prompt: Vec<u32> = (0..5 + seed * 7).map(|i| (i % 7 + seed) % 300).collect();
    let sampling = SamplingParams {
        temperature: if seed.is_multiple_of(2) { 0.0 } else { 0.9 },
        top_k: if seed.is_multiple_of(3) { 0 } else { 40 },
        top_p: if seed.is_multiple_of(5) { 1.0 } else { 0.95 },
        typical_p,
        repetition_penalty: if seed.is_multiple_of(3) { 1.0 } else { 1.02 },
        frequency_penalty: if seed % 3 == 2 { 0.05 } else { 0.0 },
        logit_bias: [(seed % 7, 2.0), (41, 1.5)].into(),
        seed: Some(u64::from(seed)),
        logprobs: (seed % 4 > 1).then_some(seed as usize),
        ..SamplingParams::default()
    };
    let options = GenerateOptions {
        sampling,
        max_tokens: Some(12 + seed as usize),
        min_tokens: 6,
        stop_token_ids: if seed % 4 == 3 {
            (0..30).collect()
        } else {
            vec![]
        },
        ..GenerateOptions::default()
    };
    Request::new(prompt).with_options(options)
}

#[test]
fn the_device_draws_what_the_host_would() {
    for (kind, device) in devices() {
        let [on_device, on_host] = [1.0, ALMOST_ALL].map(|typical_p| {
            let mut engine = open("tiny-glm4", &device).build_engine().unwrap();
            let requests = (0..8).map(|seed| demanding(seed, typical_p)).collect();
            let answers = answers(&mut engine, requests);
            (answers, engine.stats())
        });
        assert_eq!(on_host.1.steps_ahead, 0, "{kind}");
        for (at, (device, host)) in on_device.0.iter().zip(&on_host.0).enumerate() {
            assert_eq!(token_ids(device), token_ids(host), "{kind} {at}");
            for (device, host) in device.iter().zip(host) {
                // Where a step is asked for ahead, others are beside a sequence, and products are rounded otherwise.
                let close =
                    |a: f32, b: f32| assert!((a - b).abs() < TOLERANCE, "{kind} {at}: {a} {b}");
                assert_eq!(device.finish_reason, host.finish_reason);
                assert_eq!(device.logprob.is_some(), host.logprob.is_some());
                close(device.logprob.unwrap_or(0.0), host.logprob.unwrap_or(0.0));
                assert_eq!(device.top_logprobs.len(), host.top_logprobs.len());
                for (device, host) in device.top_logprobs.iter().zip(&host.top_logprobs) {
                    assert_eq!(device.id, host.id, "{kind} {at}");
                    close(device.logprob, host.logprob);
                }
            }
        }
    }
}

/// Whether the environment lets steps be asked for ahead.
fn runs_ahead() -> bool {
    std::env::var("GLM_RUN_AHEAD").map_or(true, |value| value != "off")
}

#[test]
fn steps_are_asked_for_ahead_and_say_the_same() {
    let plain = |seed: u32, looks_back: bool| {
        let mut request = demanding(seed, 1.0);
        let sampling = &mut request.options.sampling;
        sampling.repetition_penalty = 1.0;
        // What looks back is drawn step by step; this is too little to change a token.
        sampling.frequency_penalty = if looks_back { 1e-7 } else { 0.0 };
        request
    };
    for (kind, device) in devices() {
        let [ahead, by_steps] = [false, true].map(|looks_back| {
            let mut engine = open("tiny-glm4", &device).build_engine().unwrap();
            let requests = (0..6).map(|seed| plain(seed, looks_back)).collect();
            let answers = answers(&mut engine, requests);
            let ids: Vec<_> = answers.iter().map(|answer| token_ids(answer)).collect();
            (ids, engine.stats())
        });
        assert_eq!(ahead.0, by_steps.0, "{kind}");
        assert_eq!(by_steps.1.steps_ahead, 0, "{kind}");
        let steps = ahead.1.steps_ahead;
        let right = if runs_ahead() { steps > 8 } else { steps == 0 };
        assert!(right, "{kind}: {steps} steps");
    }
}

#[test]
fn whoever_leaves_or_comes_while_a_step_is_under_way_disturbs_nobody() {
    let request = |first: u32, max_tokens| {
        let options = GenerateOptions {
            max_tokens: Some(max_tokens),
            ignore_eos: true,
            ..GenerateOptions::default()
        };
        Request::new(vec![first, 7, 9]).with_options(options)
    };
    for (kind, device) in devices() {
        let mut engine = open("tiny-glm4", &device).build_engine().unwrap();
        let alone = answers(&mut engine, vec![request(5, 40)]).remove(0);
        let stays = engine.submit(request(5, 40)).unwrap();
        let leaves = engine.submit(request(6, 40)).unwrap();
        let mut ids = Vec::new();
        for step in 0.. {
            let events = engine.step().into_iter();
            ids.extend(events.filter_map(|event| match event {
                SeqEvent::Token(token) if token.request == stays => Some(token.id),
                SeqEvent::Failed(_, error) => panic!("{kind}: {error}"),
                _ => None,
            }));
            if step == 5 {
                assert!(engine.cancel(leaves).is_some(), "{kind}");
            }
            if step == 9 {
                engine.submit(request(8, 3)).unwrap();
            }
            if !engine.has_work() {
                break;
            }
        }
        assert_eq!(ids, token_ids(&alone), "{kind}");
        let stats = engine.stats();
        assert_eq!((stats.finished, stats.cancelled), (4, 1), "{kind}");
        assert_eq!(stats.kv_blocks_free, stats.kv_blocks_total, "{kind}");
    }
}

#[test]
fn grammars_are_kept_to() {
    let schema = json!({
        "type": "object",
        "properties": { "age": { "type": "integer", "minimum": 0, "maximum": 150 }, "tag": { "enum": ["a", "b"] } },
        "required": ["age", "tag"],
        "additionalProperties": false
    });
    let validator = jsonschema::validator_for(&schema).unwrap();
    for (kind, device) in devices() {
        // Blanks and digits may be many.
        let engine = open("tiny-glm4", &device).max_model_len(512);
        let engine = engine.kv_cache_tokens(4096).build().unwrap();
        let ask = |seed| {
            let options = GenerateOptions {
                grammar: Some(Grammar::JsonSchema(schema.clone())),
                max_tokens: Some(400),
                sampling: SamplingParams {
                    temperature: 3.0,
                    seed: Some(seed),
                    ..SamplingParams::default()
                },
                ..GenerateOptions::default()
            };
            engine.generate(vec![5, 6, 7], options).unwrap()
        };
        // Together, and beside somebody who may say anything.
        let free = GenerateOptions {
            max_tokens: Some(20),
            ..GenerateOptions::default()
        };
        let free = engine.generate(vec![1, 2], free).unwrap();
        let streams: Vec<_> = (0..3).map(ask).collect();
        for stream in streams {
            let answer = stream.wait().unwrap();
            assert_eq!(answer.finished.reason, FinishReason::Stop, "{kind}");
            let value = serde_json::from_str(&answer.text).unwrap();
            assert!(validator.is_valid(&value), "{kind}: {value}");
        }
        free.wait().unwrap();
    }
}

#[test]
fn adapters_equal_peft() {
    for (kind, device) in devices() {
        for name in ["patterns", "mlp"] {
            let path = tiny("tiny-glm4/adapters").join(name);
            let golden = Golden::open(path.join("golden.safetensors"));
            let engine = open("tiny-glm4", &device).kv_dtype(KvDType::F32);
            let engine = engine.adapter(name, path);
            let mut engine = engine.build_engine().unwrap();
            let ids = golden.ids("p0.input_ids");
            let trace = engine.trace_with_adapter(&ids, name).unwrap();
            let what = format!("{kind} {name}");
            assert_close(&what, &trace.logits, &golden.f32s("p0.logits"), TOLERANCE);
            // Decoding, beside a request without.
            let request = |adapter: Option<&str>| {
                let options = GenerateOptions {
                    max_tokens: Some(6),
                    adapter: adapter.map(str::to_owned),
                    ignore_eos: true,
                    ..GenerateOptions::default()
                };
                Request::new(ids.as_slice()).with_options(options)
            };
            let answers = answers(&mut engine, vec![request(Some(name)), request(None)]);
            let said = token_ids(&answers[0]);
            let all = [&ids[..], &said[..said.len() - 1]].concat();
            let cpu = Engine::builder(tiny("tiny-glm4").to_str().unwrap()).device("cpu".to_owned());
            let path = tiny("tiny-glm4/adapters").join(name);
            let mut cpu = cpu.adapter(name, path).build_engine().unwrap();
            let trace = cpu.trace_with_adapter(&all, name).unwrap();
            assert_nearly_greedy(&what, &trace.logits, all.len(), &said, TOLERANCE);
            assert_ne!(said, token_ids(&answers[1]), "{what}");
        }
    }
}

#[test]
fn guesses_change_nothing() {
    let speculation = Speculation::PromptLookup {
        min_ngram: 1,
        max_ngram: 3,
        length: DraftLength::Fixed(4),
    };
    // Prompts that quote themselves, and answers that soon do.
    let prompts =
        [3, 5, 7].map(|period| (0..40).map(|i| i % period + period).collect::<Vec<u32>>());
    for (kind, device) in devices() {
        let engine = open("tiny-glm4", &device).kv_dtype(KvDType::F32);
        let mut engine = engine
            .speculation(speculation.clone())
            .build_engine()
            .unwrap();
        let request = |prompt: &Vec<u32>| {
            let options = GenerateOptions {
                sampling: SamplingParams::greedy(),
                max_tokens: Some(40),
                ignore_eos: true,
                ..GenerateOptions::default()
            };
            Request::new(prompt.as_slice()).with_options(options)
        };
        let answers = answers(&mut engine, prompts.iter().map(request).collect());
        let accepted = engine.stats().accepted_tokens;
        assert!(accepted > 0, "{kind}: nothing was guessed right");
        let cpu = Engine::builder(tiny("tiny-glm4").to_str().unwrap()).device("cpu".to_owned());
        let mut cpu = cpu.kv_dtype(KvDType::F32).build_engine().unwrap();
        for (prompt, answer) in prompts.iter().zip(&answers) {
            let said = token_ids(answer);
            let all = [&prompt[..], &said[..said.len() - 1]].concat();
            let logits = cpu.trace(&all).unwrap().logits;
            // Tokens that are guessed are computed beside others, and rounded otherwise.
            assert_nearly_greedy(kind, &logits, all.len(), &said, TOLERANCE);
        }
    }
}
