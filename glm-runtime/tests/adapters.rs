//! LoRA adapters: what they compute equals PEFT, whatever else is in the step; and their coming and going while an engine runs.

use glm_runtime::{
    AdapterError, Engine, EngineBuilder, EngineError, ErrorKind, GenerateOptions, Isa, Request,
    SamplingParams, Speculation,
};

mod common;
use common::golden::{Golden, assert_close, relative_error};
use common::{run, run_to_end, tiny};

/// Largest difference allowed, relative to the largest magnitude of the array.
const TOLERANCE: f32 = 1e-4;

/// `(checkpoint, adapter)`: see `models/tools/make_adapters.py` for what only each of them covers.
const CASES: [(&str, &str); 8] = [
    ("tiny-glm", "all"),
    ("tiny-glm", "fused"),
    ("tiny-glm4", "patterns"),
    ("tiny-glm4", "mlp"),
    ("tiny-glm4", "ends"),
    ("tiny-glm4", "one-layer"),
    ("tiny-chatglm3", "fused"),
    ("tiny-chatglm3", "apart"),
];

/// The adapters of `tiny-glm4`, and none.
const CHOICES: [Option<&str>; 5] = [
    Some("patterns"),
    None,
    Some("mlp"),
    Some("ends"),
    Some("one-layer"),
];

fn open(model: &str) -> EngineBuilder {
    Engine::builder(tiny(model).to_str().unwrap()).offline(true)
}

/// An engine for `tiny-glm4` in some form, with all its adapters.
fn adapted(model: &str) -> EngineBuilder {
    let names = CHOICES.into_iter().flatten();
    names.fold(open(model).max_model_len(128), |builder, name| {
        builder.adapter(name, tiny("tiny-glm4/adapters").join(name))
    })
}

fn request(prompt: &[u32], adapter: Option<&str>) -> Request {
    let sampling = SamplingParams {
        logprobs: Some(0),
        ..SamplingParams::default()
    };
    let options = GenerateOptions {
        sampling,
        max_tokens: Some(16),
        ignore_eos: true,
        adapter: adapter.map(str::to_owned),
        ..GenerateOptions::default()
    };
    Request::new(prompt).with_options(options)
}

fn check(model: &str, (case, name): (&str, &str), engine: EngineBuilder) {
    let path = tiny(case).join("adapters").join(name);
    let what = format!("{model} {name}");
    let golden = Golden::open(path.join("golden.safetensors"));
    let mut engine = engine.adapter(name, path).build_engine().unwrap();
    let ids = golden.ids("p0.input_ids");
    let trace = engine.trace_with_adapter(&ids, name).unwrap();
    let want = golden.f32s("p0.logits");
    assert_close(&what, &trace.logits, &want, TOLERANCE);
    engine.submit(request(&ids, Some(name))).unwrap();
    let answer: Vec<u32> = run(&mut engine).into_iter().map(|token| token.1).collect();
    assert_eq!(answer, golden.ids("p0.greedy"), "{what}");
    // The model itself stays what it is, and the adapter does change it.
    let own = Golden::open(tiny(case).join("golden.safetensors"));
    let plain = engine.trace(&ids).unwrap().logits;
    assert_close(&what, &plain, &own.f32s("p0.logits"), TOLERANCE);
    assert!(relative_error(&plain, &want) > 0.1, "{what}");
}

#[test]
fn every_adapter_equals_peft_on_every_isa() {
    for case in CASES {
        for isa in Isa::available() {
            let what = format!("{} {}", case.0, isa.name());
            check(&what, case, open(case.0).isa(isa));
        }
    }
}

#[test]
fn the_same_holds_over_gguf() {
    for case in CASES {
        let file = match case.0 {
            "tiny-glm" => "tiny-glm/model-00001-of-00002.gguf".to_owned(),
            name => format!("{name}/model-bf16.gguf"),
        };
        check(&file, case, open(&file));
    }
}

#[test]
fn an_adapter_over_quantised_weights_stays_close() {
    let folder = tiny("tiny-glm4/adapters/patterns");
    let golden = Golden::open(folder.join("golden.safetensors"));
    let mut engine = adapted("tiny-glm4/model-q8_0.gguf").build_engine().unwrap();
    let ids = golden.ids("p0.input_ids");
    let got = engine.trace_with_adapter(&ids, "patterns").unwrap().logits;
    let error = relative_error(&got, &golden.f32s("p0.logits"));
    assert!(error < 0.06, "{error}");
}

type Answer = Vec<(u32, Option<u32>)>;

/// Prompts of very different lengths, under all adapters and none.
fn requests() -> Vec<Request> {
    let prompt = |seed: u32, len: u32| -> Vec<u32> {
        (0..len)
            .map(|i| (seed * 31 + i * i * 7 + i) % 300)
            .collect()
    };
    let lengths = [1, 15, 16, 17, 40, 90, 3, 33];
    (0..)
        .zip(lengths)
        .zip(CHOICES.into_iter().cycle())
        .map(|((seed, len), adapter)| request(&prompt(seed, len), adapter))
        .collect()
}

/// The answers to all requests, submitted together.
fn together(engine: &mut Engine) -> Vec<Answer> {
    let ids: Vec<_> = requests()
        .into_iter()
        .map(|request| engine.submit(request).unwrap().0)
        .collect();
    let tokens = run(engine);
    let answer = |id: &u64| {
        let own = tokens.iter().filter(|token| token.0 == *id);
        own.map(|&(_, token, bits)| (token, bits)).collect()
    };
    ids.iter().map(answer).collect()
}

#[test]
fn companions_of_other_adapters_chunks_and_preemption_change_nothing() {
    for model in ["tiny-glm4", "tiny-glm4/model-q8_0.gguf"] {
        let mut single = adapted(model).max_num_seqs(1).build_engine().unwrap();
        let alone: Vec<Answer> = requests()
            .into_iter()
            .map(|request| {
                single.submit(request).unwrap();
                let tokens = run(&mut single);
                tokens.into_iter().map(|(_, id, bits)| (id, bits)).collect()
            })
            .collect();
        assert!(alone.iter().all(|answer| answer.len() == 16));
        for step in [7, 16, 256] {
            let builder = adapted(model).max_num_batched_tokens(step).max_num_seqs(7);
            let mut engine = builder.build_engine().unwrap();
            assert_eq!(
                together(&mut engine),
                alone,
                "{model}, {step} tokens in a step"
            );
        }
        let guessing = adapted(model).speculation(Speculation::prompt_lookup());
        let mut engine = guessing.build_engine().unwrap();
        assert_eq!(together(&mut engine), alone, "{model}, speculation");
        let mut crowded = adapted(model).kv_cache_tokens(128).build_engine().unwrap();
        assert_eq!(together(&mut crowded), alone, "{model}, crowded");
        assert!(crowded.stats().preemptions > 0);
    }
}

#[test]
fn requests_without_an_adapter_do_not_notice_that_there_are_any() {
    let answers = |engine: &mut Engine| -> Vec<Answer> {
        let plain = requests().into_iter().map(|mut request| {
            request.options.adapter = None;
            request
        });
        plain
            .map(|request| {
                engine.submit(request).unwrap();
                run(engine).into_iter().map(|t| (t.1, t.2)).collect()
            })
            .collect()
    };
    let mut with = adapted("tiny-glm4").build_engine().unwrap();
    let mut without = open("tiny-glm4").max_model_len(128).build_engine().unwrap();
    assert_eq!(answers(&mut with), answers(&mut without));
}

#[test]
fn the_prefix_cache_shares_nothing_between_adapters() {
    let mut engine = adapted("tiny-glm4").build_engine().unwrap();
    let prompt: Vec<u32> = (0..50).collect();
    let cached = |engine: &mut Engine, adapter| {
        engine.submit(request(&prompt, adapter)).unwrap();
        let (tokens, finished) = run_to_end(engine);
        let tokens: Answer = tokens.into_iter().map(|t| (t.1, t.2)).collect();
        (finished[0].usage.cached_tokens, tokens)
    };
    for adapter in CHOICES {
        let (cold, first) = cached(&mut engine, adapter);
        let (warm, second) = cached(&mut engine, adapter);
        assert_eq!((cold, warm), (0, 48), "{adapter:?}");
        assert_eq!(first, second, "{adapter:?}");
    }
    // Another adapter under a name that was used before.
    engine.unload_adapter("mlp").unwrap();
    let other = tiny("tiny-glm4/adapters/patterns");
    engine.load_adapter("mlp", other).unwrap();
    assert_eq!(cached(&mut engine, Some("mlp")).0, 0);
    assert_eq!(cached(&mut engine, Some("patterns")).0, 48);
}

#[test]
fn an_adapter_that_is_unloaded_ends_what_it_began() {
    let mut engine = adapted("tiny-glm4").build_engine().unwrap();
    let prompt: Vec<u32> = (0..20).collect();
    engine.submit(request(&prompt, Some("mlp"))).unwrap();
    let undisturbed = run(&mut engine);
    let before = engine.stats();
    assert_eq!(before.adapters, 4);

    engine.submit(request(&prompt, Some("mlp"))).unwrap();
    engine.step();
    let left = engine.unload_adapter("mlp").unwrap();
    assert_eq!((left.requests, left.unloading), (1, true));
    let stats = engine.stats();
    assert_eq!(
        (stats.adapters, stats.adapter_bytes),
        (3, before.adapter_bytes)
    );
    let names: Vec<_> = engine
        .adapters()
        .into_iter()
        .map(|info| (info.name, info.unloading))
        .collect();
    let expected = [
        ("ends", false),
        ("one-layer", false),
        ("patterns", false),
        ("mlp", true),
    ];
    assert_eq!(
        names,
        expected.map(|(name, unloading)| (name.to_owned(), unloading))
    );
    let refused = engine.submit(request(&prompt, Some("mlp"))).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidRequest);
    assert_eq!(
        refused.to_string(),
        "no adapter `mlp`; loaded: ends, one-layer, patterns"
    );

    // The first token came with the step above.
    let rest: Vec<_> = run(&mut engine).into_iter().map(|t| (t.1, t.2)).collect();
    let want: Vec<_> = undisturbed.into_iter().map(|t| (t.1, t.2)).collect();
    assert_eq!(rest, want[1..]);
    assert_eq!(
        engine.stats().adapter_bytes,
        before.adapter_bytes - left.bytes
    );
    assert_eq!(engine.adapters().len(), 3);
    assert!(engine.unload_adapter("mlp").is_err());
    assert!(engine.score_with_adapter(&prompt, "mlp").is_err());
}

#[test]
fn a_handle_loads_adapters_while_requests_run() {
    let engine = open("tiny-glm4").max_model_len(128).build().unwrap();
    let path = tiny("tiny-glm4/adapters/patterns");
    let unknown = engine.submit(request(&[1], Some("law"))).unwrap_err();
    assert!(matches!(unknown, EngineError::Adapter(_)));
    assert_eq!(unknown.to_string(), "no adapter `law`; none is loaded");
    let running = engine.submit(request(&[1; 30], None)).unwrap();
    let info = engine.load_adapter("law", &path).unwrap();
    assert_eq!(
        (info.name.as_str(), info.rank, info.requests),
        ("law", 6, 0)
    );
    assert_eq!(info.modules, 15);
    assert!(info.bytes > 0 && engine.has_adapter("law"));
    let taken = engine.load_adapter("law", &path).unwrap_err();
    assert!(matches!(taken, AdapterError::NameTaken { .. }), "{taken}");
    let nameless = engine.load_adapter("", &path).unwrap_err();
    assert!(matches!(nameless, AdapterError::EmptyName));
    let missing = engine.load_adapter("x", "/no/such").unwrap_err();
    assert!(missing.to_string().contains("/no/such"), "{missing}");

    let golden = Golden::open(path.join("golden.safetensors"));
    let ids = golden.ids("p0.input_ids");
    let stream = engine.submit(request(&ids, Some("law"))).unwrap();
    assert_eq!(stream.wait().unwrap().token_ids(), golden.ids("p0.greedy"));
    assert_eq!(running.wait().unwrap().tokens.len(), 16);
    let plain = engine.score(&ids).unwrap();
    let scored = engine.score_with_adapter(&ids, "law").unwrap();
    assert_ne!(scored, plain);
    let logprobs = engine.prompt_logprobs_with_adapter(&ids, 0, "law").unwrap();
    let logprobs: Vec<f32> = logprobs.iter().map(|token| -token.logprob).collect();
    assert_close("logprobs", &logprobs, &scored, 1e-6);
    engine.unload_adapter("law").unwrap();
    assert!(engine.adapters().is_empty());
}

#[test]
fn an_adapter_that_does_not_fit_is_refused_before_the_weights_are_read() {
    let other = tiny("tiny-chatglm3/adapters/fused");
    let error = open("tiny-glm-edge").adapter("a", other).build_engine();
    let message = error.unwrap_err().to_string();
    assert!(message.contains("adapter_model.safetensors"), "{message}");
    let path = tiny("tiny-glm/adapters/all");
    let twice = open("tiny-glm").adapter("a", &path).adapter("a", &path);
    let message = twice.build_engine().unwrap_err().to_string();
    assert!(
        message.contains("there is an adapter `a` already"),
        "{message}"
    );
}
