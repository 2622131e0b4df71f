//! Speculation changes how long an answer takes and nothing else: tokens, log-probabilities, counts and ends are the same to the bit,
//! whatever guesses and however wrong it is.

use std::collections::HashMap;

use glm_runtime::{
    BuildError, Completion, DraftLength, Engine, EngineBuilder, EngineOptions, FinishReason,
    GenerateOptions, Grammar, Prompt, Request, SamplingParams, Speculation,
};
use serde_json::json;

mod common;
use common::{Tokens, run, run_to_end, tiny};

/// Prompts that quote themselves, greedy and sampled, with everything that a sampler remembers from one token to the next.
fn requests() -> Vec<Request> {
    let request = |(seed, len): (u32, u32)| {
        let prompt: Vec<u32> = (0..len).map(|i| (i % 7 + seed) % 300).collect();
        let sampling = SamplingParams {
            temperature: if seed % 2 == 0 { 0.0 } else { 0.9 },
            top_k: if seed % 2 == 0 { 0 } else { 4 },
            repetition_penalty: if seed % 3 == 0 { 1.0 } else { 1.02 },
            frequency_penalty: if seed % 3 == 2 { 0.05 } else { 0.0 },
            logit_bias: [(seed % 7, 2.0), (41, 1.5)].into(),
            seed: Some(u64::from(seed)),
            logprobs: Some(0),
            ..SamplingParams::default()
        };
        let options = GenerateOptions {
            sampling,
            max_tokens: Some(40),
            min_tokens: 6,
            stop_token_ids: if seed % 4 == 3 {
                (0..30).collect()
            } else {
                vec![]
            },
            ignore_eos: true,
            ..GenerateOptions::default()
        };
        Request::new(prompt).with_options(options)
    };
    (0..)
        .zip([1, 15, 16, 17, 40, 70, 9, 33])
        .map(request)
        .collect()
}

fn lookup(len: usize) -> Speculation {
    Speculation::PromptLookup {
        min_ngram: 1,
        max_ngram: 3,
        length: DraftLength::Fixed(len),
    }
}

fn draft_model(model: &str, len: usize) -> Speculation {
    let path = tiny(model);
    Speculation::draft_model(path.to_str().unwrap()).with_length(DraftLength::Fixed(len))
}

fn builder(model: &str, speculation: Speculation) -> EngineBuilder {
    let options = EngineOptions {
        max_model_len: Some(128),
        kv_cache_tokens: Some(1024),
        offline: true,
        speculation,
        ..EngineOptions::default()
    };
    Engine::builder(tiny(model).to_str().unwrap()).options(options)
}

/// The tokens of each request, submitted together.
fn answers(engine: &mut Engine) -> Vec<Tokens> {
    let submit = |request| engine.submit(request).unwrap().0;
    let ids: Vec<u64> = requests().into_iter().map(submit).collect();
    let first = ids[0];
    let tokens = run(engine)
        .into_iter()
        .map(|(id, token, bits)| (id - first, token, bits));
    let tokens: Tokens = tokens.collect();
    let of = |id: u64| {
        tokens
            .iter()
            .filter(|t| t.0 == id - first)
            .copied()
            .collect()
    };
    ids.into_iter().map(of).collect()
}

fn plain(model: &str) -> Vec<Tokens> {
    answers(&mut builder(model, Speculation::Off).build_engine().unwrap())
}

#[test]
fn prompt_lookup_changes_nothing_whatever_the_batch_and_the_chunks() {
    for model in ["tiny-glm", "tiny-glm4/model-q8_0.gguf"] {
        let expected = plain(model);
        for (max_num_seqs, max_num_batched_tokens, len) in
            [(1, 128, 3), (8, 256, 5), (8, 9, 3), (3, 7, 2), (8, 33, 8)]
        {
            let mut engine = builder(model, lookup(len))
                .max_num_seqs(max_num_seqs)
                .max_num_batched_tokens(max_num_batched_tokens)
                .build_engine()
                .unwrap();
            assert_eq!(answers(&mut engine), expected, "{model}");
            let stats = engine.stats();
            assert!(stats.accepted_tokens > 0, "{stats:?}");
            assert!(stats.accepted_tokens < stats.drafted_tokens, "{stats:?}");
            assert_eq!(
                stats.generated_tokens as usize,
                expected.iter().map(Vec::len).sum::<usize>()
            );
        }
    }
}

#[test]
fn prompt_lookup_changes_nothing_where_requests_are_preempted() {
    let expected = plain("tiny-glm");
    let mut crowded = builder("tiny-glm", lookup(6))
        .kv_cache_tokens(128)
        .build_engine()
        .unwrap();
    assert_eq!(answers(&mut crowded), expected);
    let stats = crowded.stats();
    assert!(
        stats.preemptions > 0 && stats.accepted_tokens > 0,
        "{stats:?}"
    );
}

#[test]
fn adaptive_lengths_change_nothing() {
    let adaptive = lookup(1).with_length(DraftLength::Adaptive { max: 8 });
    let mut engine = builder("tiny-glm4", adaptive).build_engine().unwrap();
    let expected = plain("tiny-glm4");
    for _ in 0..3 {
        assert_eq!(answers(&mut engine), expected);
    }
}

#[test]
fn a_model_that_guesses_for_itself_is_always_right() {
    let mut engine = builder("tiny-glm", draft_model("tiny-glm", 4))
        .build_engine()
        .unwrap();
    let answered = answers(&mut engine);
    assert_eq!(answered, plain("tiny-glm"));
    let stats = engine.stats();
    // What stops an answer was drawn by the sampler of the draft model, too; only bias to its end is left.
    assert_eq!(stats.accepted_tokens, stats.drafted_tokens, "{stats:?}");
    assert!(
        stats.accepted_tokens * 2 > stats.generated_tokens,
        "{stats:?}"
    );
}

#[test]
fn a_draft_model_that_knows_nothing_changes_nothing() {
    let expected = plain("tiny-glm4");
    for (max_num_batched_tokens, kv_cache_tokens) in [(256, 1024), (9, 1024), (64, 128)] {
        // The same vocabulary and other weights.
        let mut engine = builder("tiny-glm4", draft_model("tiny-glm4-nobias", 3))
            .max_num_batched_tokens(max_num_batched_tokens)
            .kv_cache_tokens(kv_cache_tokens)
            .build_engine()
            .unwrap();
        for _ in 0..2 {
            assert_eq!(answers(&mut engine), expected);
        }
        let stats = engine.stats();
        assert!(stats.drafted_tokens > 0, "{stats:?}");
        assert!(
            stats.accepted_tokens * 2 < stats.drafted_tokens,
            "{stats:?}"
        );
        assert_eq!(stats.drafter_failures, 0);
    }
}

/// A copy of a checkpoint in which two tokens have changed places.
fn with_swapped_tokens(model: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(tiny(model).join(file), copy.path().join(file)).unwrap();
    }
    let text = std::fs::read_to_string(tiny(model).join("tokenizer.json")).unwrap();
    let mut tokenizer: serde_json::Value = serde_json::from_str(&text).unwrap();
    for id in tokenizer["model"]["vocab"]
        .as_object_mut()
        .unwrap()
        .values_mut()
    {
        *id = match id.as_u64() {
            Some(40) => json!(41),
            Some(41) => json!(40),
            _ => continue,
        };
    }
    std::fs::write(copy.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    copy
}

#[test]
fn a_draft_model_of_another_vocabulary_is_refused() {
    let build = |draft: &str| builder("tiny-glm4", draft_model(draft, 3)).build_engine();
    let refused = |draft: &str| build(draft).err().unwrap();
    let swapped = with_swapped_tokens("tiny-glm4-nobias");
    let swapped = swapped.path().to_str().unwrap();
    for (draft, difference) in [
        ("tiny-chatglm3", "512 tokens, not 400"),
        (swapped, "token 40 is"),
    ] {
        let error = refused(draft);
        assert!(
            matches!(error, BuildError::DraftVocabulary { .. }),
            "{error}"
        );
        assert!(error.to_string().contains(difference), "{error}");
    }
    assert!(
        build("tiny-chatglm-glm4").is_ok(),
        "the same tokens in another file format"
    );
    assert!(matches!(refused("no-such-model"), BuildError::Load(_)));
    for wrong in [
        lookup(0),
        lookup(65),
        lookup(1).with_length(DraftLength::Adaptive { max: 0 }),
        Speculation::PromptLookup {
            min_ngram: 3,
            max_ngram: 2,
            length: DraftLength::default(),
        },
    ] {
        let error = builder("tiny-glm4", wrong).build_engine().err().unwrap();
        assert!(matches!(error, BuildError::Option { .. }), "{error}");
    }
}

/// What a client sees, without times.
fn seen(completion: Completion) -> (String, Vec<u32>, FinishReason, usize) {
    let ids = completion.token_ids();
    let finished = &completion.finished;
    (
        completion.text,
        ids,
        finished.reason,
        finished.usage.completion_tokens,
    )
}

#[test]
fn forms_and_stop_strings_are_the_same() {
    let schema = json!({
        "type": "array",
        "items": { "enum": ["north", "south", "south-west"] },
        "minItems": 6, "maxItems": 12
    });
    let grammar = |seed: u64| match seed % 3 {
        0 => Some(Grammar::JsonSchema(schema.clone())),
        1 => Some(Grammar::Regex("((ab){2}c ){5,9}".to_owned())),
        _ => None,
    };
    let options = |seed: u64| GenerateOptions {
        grammar: grammar(seed),
        max_tokens: Some(60),
        stop: match seed % 4 {
            3 => vec!["e".into(), "c a".into()],
            _ => vec![],
        },
        sampling: SamplingParams {
            temperature: (seed % 2) as f32 * 0.8,
            top_k: 3,
            seed: Some(seed),
            ..SamplingParams::default()
        },
        ..GenerateOptions::default()
    };
    let ask = |speculation: Speculation| {
        let engine = builder("tiny-glm4", speculation).build().unwrap();
        let prompt = "south, north, south-west, abab, south, north, ababc ababc ";
        let submit = |seed| {
            engine
                .generate(Prompt::from(prompt), options(seed))
                .unwrap()
        };
        let streams: Vec<_> = (0..12).map(submit).collect();
        let answers = streams
            .into_iter()
            .map(|stream| seen(stream.wait().unwrap()));
        let answers: Vec<_> = answers.collect();
        engine.drain();
        (answers, engine.stats().accepted_tokens)
    };
    let (expected, none) = ask(Speculation::Off);
    assert_eq!(none, 0);
    let reasons: Vec<_> = expected.iter().map(|answer| answer.2).collect();
    assert!(reasons.contains(&FinishReason::Stop), "{reasons:?}");
    for speculation in [lookup(7), draft_model("tiny-glm4", 4)] {
        let (answers, accepted) = ask(speculation.clone());
        assert_eq!(answers, expected, "{speculation:?}");
        assert!(accepted > 0, "{speculation:?}");
    }
}

#[test]
fn guesses_that_a_grammar_refuses_are_not_computed() {
    // At every place one token is allowed, so every guess that is computed is right; behind the last one all are refused.
    let grammar = || Grammar::Lark(format!("start: {}", "<tool_call> ".repeat(20)));
    for speculation in [lookup(6), draft_model("tiny-glm4-nobias", 6)] {
        let engine = builder("tiny-glm4", speculation.clone()).build().unwrap();
        let tag = engine.tokenizer().unwrap().token_to_id("<tool_call>");
        let tag = tag.unwrap();
        let options = GenerateOptions {
            grammar: Some(grammar()),
            sampling: SamplingParams {
                logit_bias: [(tag, 100.0)].into(),
                ..SamplingParams::greedy()
            },
            ..GenerateOptions::default()
        };
        let answer = engine.generate(vec![5, 6, 7], options).unwrap();
        let answer = answer.wait().unwrap();
        assert_eq!(answer.finished.reason, FinishReason::Stop);
        assert_eq!(answer.token_ids()[..20], [tag; 20]);
        engine.drain();
        let stats = engine.stats();
        assert!(stats.accepted_tokens >= 12, "{speculation:?}: {stats:?}");
        assert_eq!(
            stats.accepted_tokens, stats.drafted_tokens,
            "{speculation:?}"
        );
    }
}

#[test]
fn only_checked_tokens_are_shared_and_a_request_can_opt_out() {
    let prompt: Vec<u32> = (0..37).map(|i| i % 5).collect();
    let turns = |speculation: Speculation| {
        let mut engine = builder("tiny-glm", speculation).build_engine().unwrap();
        let mut prompt = prompt.clone();
        let turn = |engine: &mut Engine, prompt: &[u32], speculation| {
            let mut request = Request::new(prompt);
            request.options.max_tokens = Some(25);
            request.options.ignore_eos = true;
            request.options.speculation = speculation;
            engine.submit(request).unwrap();
            run_to_end(engine)
        };
        let mut cached = Vec::new();
        for _ in 0..3 {
            let (tokens, finished) = turn(&mut engine, &prompt, true);
            prompt.extend(tokens.iter().map(|token| token.1));
            cached.push(finished[0].usage.cached_tokens);
        }
        let guessed = engine.stats().drafted_tokens;
        turn(&mut engine, &prompt, false);
        assert_eq!(engine.stats().drafted_tokens, guessed, "it opted out");
        (prompt, cached, guessed > 0)
    };
    let (expected, cached, _) = turns(Speculation::Off);
    for speculation in [lookup(5), draft_model("tiny-glm", 5)] {
        assert_eq!(turns(speculation), (expected.clone(), cached.clone(), true));
    }
}

#[test]
fn predictions_that_come_true_spare_steps_and_are_counted() {
    const LEN: usize = 40;
    // The answer to a prompt, the prediction that it is asked for with, what is counted, and steps.
    let ask = |speculation: Speculation, prediction: &[u32]| {
        let mut engine = builder("tiny-glm", speculation).build_engine().unwrap();
        let mut request = Request::new([1, 2, 3]);
        request.options.max_tokens = Some(LEN);
        request.options.ignore_eos = true;
        request.options.sampling.temperature = 1.0;
        request.options.sampling.seed = Some(7);
        request.options.prediction = prediction.to_vec();
        engine.submit(request).unwrap();
        let (tokens, finished) = run_to_end(&mut engine);
        let answer: Vec<u32> = tokens.iter().map(|token| token.1).collect();
        (answer, finished[0].usage, engine.stats().steps as usize)
    };
    let (expected, usage, steps) = ask(Speculation::Off, &[1, 2]);
    assert_eq!((usage.accepted_prediction_tokens, steps), (0, LEN));
    let edited: Vec<u32> = (0..)
        .zip(&expected)
        .map(|(at, &token)| if at % 8 == 7 { 5 } else { token })
        .collect();
    for (prediction, most_steps) in [(&expected, LEN / 3), (&edited, LEN / 2)] {
        let (answer, usage, steps) = ask(lookup(4), prediction);
        assert_eq!(answer, expected);
        assert!(steps <= most_steps, "{steps}");
        let accepted = usage.accepted_prediction_tokens;
        assert!(steps + accepted >= LEN && accepted < LEN, "{usage:?}");
    }
    assert!(ask(lookup(4), &edited).1.rejected_prediction_tokens > 0);
    // What the prompt says itself is nobody's prediction.
    assert_eq!(ask(lookup(4), &[]).1.accepted_prediction_tokens, 0);
    assert_eq!(ask(lookup(4), &[]).1.rejected_prediction_tokens, 0);
}

/// How often each answer of four tokens comes, over many seeds.
fn frequencies(speculation: Speculation, seeds: std::ops::Range<u64>) -> HashMap<Vec<u32>, f64> {
    let mut engine = builder("tiny-glm", speculation)
        .kv_cache_tokens(8192)
        .build_engine()
        .unwrap();
    let mut counts = HashMap::new();
    for first in seeds.clone().step_by(64) {
        let submit = |seed| {
            let mut request = Request::new([5, 6, 7, 5, 6, 7, 5]);
            request.options.max_tokens = Some(4);
            request.options.ignore_eos = true;
            request.options.sampling = SamplingParams {
                temperature: 1.0,
                // Three tokens that are about as likely as each other, and the guesses are among them.
                logit_bias: [(5, 50.0), (6, 50.0), (7, 50.0)].into(),
                seed: Some(seed),
                ..SamplingParams::default()
            };
            engine.submit(request).unwrap().0
        };
        let ids: Vec<u64> = (first..(first + 64).min(seeds.end)).map(submit).collect();
        let tokens = run(&mut engine);
        for id in ids {
            let answer = tokens.iter().filter(|t| t.0 == id).map(|t| t.1).collect();
            *counts.entry(answer).or_default() += 1.0;
        }
    }
    counts
}

#[test]
fn sampled_answers_come_as_often_as_they_should() {
    let expected = frequencies(Speculation::Off, 0..3000);
    let found = frequencies(lookup(3), 100_000..103_000);
    // Two samples of the same size: chi-square over the answers that either has (Press et al., Numerical Recipes, 14.3).
    let answers: std::collections::HashSet<_> = expected.keys().chain(found.keys()).collect();
    let count = |counts: &HashMap<_, f64>, answer| counts.get(answer).copied().unwrap_or(0.0);
    let term = |answer| {
        let (a, b) = (count(&expected, answer), count(&found, answer));
        (a - b) * (a - b) / (a + b)
    };
    let chi_square: f64 = answers.iter().map(|&answer| term(answer)).sum();
    // Mean k - 1 and variance 2 (k - 1): four standard deviations, for seeds that never change.
    let freedom = answers.len() as f64 - 1.0;
    assert!(answers.len() > 20, "{answers:?}");
    assert!(
        chi_square < freedom + 4.0 * (2.0 * freedom).sqrt(),
        "{chi_square} of {freedom}"
    );
}
