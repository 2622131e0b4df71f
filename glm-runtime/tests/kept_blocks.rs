//! Blocks that are kept outside of the KV cache, in host memory and in a file, come back to the bit: answers stay the same.

use std::collections::HashMap;
use std::path::Path;
use std::sync::OnceLock;

use glm_runtime::{
    BuildError, Engine, EngineBuilder, GenerateOptions, KvDType, PrefixCacheError, Request,
    SamplingParams, SeqEvent,
};
use proptest::prelude::*;

mod common;
use common::{Tokens, run, run_to_end, tiny};

/// Lengths of prompts, one for each seed.
const LENGTHS: [u32; 6] = [5, 40, 17, 90, 33, 64];

/// Layers of tiny-glm4, its KV heads, their size, keys and values, bytes of an f16, tokens of a block.
const BLOCK_BYTES: u64 = 3 * 2 * 16 * 2 * 2 * 16;

const TYPES: [KvDType; 4] = [KvDType::F32, KvDType::F16, KvDType::BF16, KvDType::Q8_0];

fn builder(model: &str, dtype: KvDType) -> EngineBuilder {
    Engine::builder(tiny(model).to_str().unwrap())
        .max_model_len(128)
        .max_num_batched_tokens(20)
        .kv_dtype(dtype)
}

fn request(seed: u32, len: u32) -> Request {
    let sampling = SamplingParams {
        temperature: if seed.is_multiple_of(2) { 0.0 } else { 1.2 },
        seed: Some(u64::from(seed)),
        logprobs: Some(0),
        ..SamplingParams::default()
    };
    let options = GenerateOptions {
        sampling,
        max_tokens: Some(30),
        ignore_eos: true,
        ..GenerateOptions::default()
    };
    let prompt: Vec<u32> = (0..len)
        .map(|i| (seed * 31 + i * i * 7 + i) % 300)
        .collect();
    Request::new(prompt).with_options(options)
}

/// The answers to prompts of very different lengths, submitted together.
fn answers(engine: &mut Engine) -> Tokens {
    for (seed, len) in (0..).zip(LENGTHS) {
        engine.submit(request(seed, len)).unwrap();
    }
    let mut tokens = run(engine);
    // By request; the order of each one's own tokens stays.
    tokens.sort_by_key(|token| token.0);
    tokens
}

#[test]
fn a_swapped_request_equals_an_undisturbed_one() {
    for dtype in TYPES {
        let roomy = builder("tiny-glm4", dtype).kv_cache_tokens(1024);
        let mut roomy = roomy.build_engine().unwrap();
        let undisturbed = answers(&mut roomy);
        let crowded = || builder("tiny-glm4", dtype).kv_cache_tokens(160);
        for prefix_cache in [false, true] {
            let mut engine = crowded()
                .prefix_cache(prefix_cache)
                .swap_space(1 << 20)
                .build_engine()
                .unwrap();
            assert_eq!(answers(&mut engine), undisturbed, "{dtype}");
            let stats = engine.stats();
            assert!(
                stats.swapped_out > 0 && stats.swapped_tokens > 0,
                "{stats:?}"
            );
            assert_eq!(stats.swap_blocks_free, stats.swap_blocks_total);
            if !prefix_cache {
                // Nothing is computed twice: of each that comes back one token is computed as if it were of a prompt.
                let prompts: u32 = LENGTHS.iter().sum();
                assert!(
                    stats.prefill_tokens <= u64::from(prompts) + stats.preemptions,
                    "{stats:?}"
                );
            }
        }
        // Room for two blocks: what does not fit is computed again.
        let two_blocks = 2 * 16 * roomy.model_info().kv_bytes_per_token;
        let mut tight = crowded().swap_space(two_blocks).build_engine().unwrap();
        assert_eq!(answers(&mut tight), undisturbed, "{dtype}");
    }
}

type Answer = Vec<(u32, Option<u32>)>;

/// What each prompt of [`LENGTHS`] is answered when nothing else runs.
fn undisturbed() -> &'static [Answer] {
    static ANSWERS: OnceLock<Vec<Answer>> = OnceLock::new();
    ANSWERS.get_or_init(|| {
        let mut engine = builder("tiny-glm4", KvDType::F16).build_engine().unwrap();
        let mut alone = |(seed, &len): (u32, &u32)| {
            engine.submit(request(seed, len)).unwrap();
            let tokens = run(&mut engine);
            tokens.into_iter().map(|(_, id, bits)| (id, bits)).collect()
        };
        (0..).zip(&LENGTHS).map(&mut alone).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whoever_is_swapped_cancelled_or_preferred_the_answers_stay(
        arrivals in prop::collection::vec((0..LENGTHS.len(), -1i32..=1, 0usize..9, prop::bool::weighted(0.1)), 1..9),
        swap_blocks in 0u64..12,
        prefix_cache in any::<bool>(),
    ) {
        // The longest context, and one block more.
        let crowded = builder("tiny-glm4", KvDType::F16).kv_cache_tokens(144);
        let crowded = crowded.max_num_seqs(4).prefix_cache(prefix_cache);
        let mut engine = crowded.swap_space(swap_blocks * BLOCK_BYTES).build_engine().unwrap();
        let mut asked = HashMap::new();
        let mut answers = HashMap::<u64, Answer>::new();
        let mut ended = Vec::new();
        let mut hear = |event: SeqEvent| match event {
            SeqEvent::Token(token) => {
                let answer = answers.entry(token.request.0).or_default();
                answer.push((token.id, token.logprob.map(f32::to_bits)));
            }
            SeqEvent::Finished(id, _) => ended.push(id.0),
            SeqEvent::Failed(id, error) => panic!("request {id}: {error}"),
        };
        for (seed, priority, steps, cancelled) in arrivals {
            let mut request = request(seed as u32, LENGTHS[seed]);
            request.options.priority = priority;
            let id = engine.submit(request).unwrap();
            asked.insert(id.0, seed);
            for _ in 0..steps {
                engine.step().into_iter().for_each(&mut hear);
            }
            if cancelled {
                engine.cancel(id).into_iter().for_each(&mut hear);
            }
        }
        while engine.has_work() {
            engine.step().into_iter().for_each(&mut hear);
        }
        for (id, answer) in &answers {
            prop_assert_eq!(&answer[..], &undisturbed()[asked[id]][..answer.len()]);
        }
        let mut ids: Vec<u64> = asked.into_keys().collect();
        ids.sort_unstable();
        ended.sort_unstable();
        prop_assert_eq!(ended, ids);
        let stats = engine.stats();
        prop_assert_eq!(stats.kv_blocks_free, stats.kv_blocks_total);
        prop_assert_eq!(stats.swap_blocks_free, stats.swap_blocks_total);
        prop_assert_eq!(stats.swap_blocks_total, swap_blocks as usize);
    }
}

#[test]
fn a_swap_space_of_no_use_is_refused() {
    let refused = builder("tiny-glm4", KvDType::F32)
        .swap_space(100)
        .build_engine();
    assert!(
        matches!(
            refused,
            Err(BuildError::Option {
                option: "swap_space",
                ..
            })
        ),
        "{refused:?}"
    );
    let none = builder("tiny-glm4", KvDType::F32)
        .swap_space(0)
        .build_engine();
    assert_eq!(none.unwrap().stats().swap_blocks_total, 0);
    let absurd = builder("tiny-glm4", KvDType::F32)
        .swap_space(u64::MAX)
        .build_engine();
    assert!(matches!(absurd, Err(BuildError::Memory(_))), "{absurd:?}");
}

/// The answer to one request, and how many tokens of its prompt were known.
fn ask(engine: &mut Engine) -> (Tokens, usize) {
    engine.submit(request(3, 70)).unwrap();
    let (mut tokens, finished) = run_to_end(engine);
    tokens.iter_mut().for_each(|token| token.0 = 0);
    (tokens, finished[0].usage.cached_tokens)
}

fn notes(engine: &Engine) -> String {
    engine.model_info().load_notes.join("\n")
}

#[test]
fn a_restarted_engine_goes_on_with_what_the_last_one_computed() {
    let folder = tempfile::tempdir().unwrap();
    for dtype in TYPES {
        for model in ["tiny-glm4", "tiny-glm", "tiny-glm4/model-q8_0.gguf"] {
            let path = folder
                .path()
                .join(format!("{dtype}-{}", model.replace('/', "-")));
            let build = || builder(model, dtype).prefix_cache_file(path.clone());
            let mut first = build().build_engine().unwrap();
            let (cold, cached) = ask(&mut first);
            assert_eq!((cached, first.stats().prefix_cache_restored), (0, 0));
            let saved = first.save_prefix_cache(&path).unwrap();
            assert_eq!((saved.blocks, saved.tokens), (6, 96), "70 + 30 - 1 tokens");
            let mut second = build().build_engine().unwrap();
            assert_eq!(second.stats().prefix_cache_restored, 96);
            assert_eq!(ask(&mut second), (cold, 64), "{model}, {dtype}");
            assert_eq!(notes(&second), "");
        }
    }
}

#[test]
fn the_file_is_there_when_the_engine_has_drained_or_ended() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache");
    let build = || builder("tiny-glm4", KvDType::F16).prefix_cache_file(path.clone());
    let engine = build().build().unwrap();
    assert!(engine.submit(request(0, 40)).unwrap().wait().is_ok());
    assert!(!path.exists());
    engine.drain();
    let first = std::fs::metadata(&path).unwrap().len();
    assert_eq!(engine.stats().prefix_cache_error, None);
    // Between two steps of a running engine, and elsewhere.
    let engine = build().build().unwrap();
    let running = engine.submit(request(1, 60)).unwrap();
    let copy = engine
        .save_prefix_cache(folder.path().join("copy"))
        .unwrap();
    assert!(copy.bytes >= first);
    assert!(running.wait().is_ok());
    // A folder in place of the file cannot be replaced; the engine says so and drains all the same.
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    engine.drain();
    let error = engine.stats().prefix_cache_error;
    assert!(error.is_some_and(|error| error.contains("is not a prefix cache")));
}

#[test]
fn what_was_computed_otherwise_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache");
    let with = |model, dtype| {
        let engine = builder(model, dtype).prefix_cache_file(path.clone());
        engine.build_engine()
    };
    let mut engine = with("tiny-glm4", KvDType::F16).unwrap();
    ask(&mut engine);
    engine.save_prefix_cache(&path).unwrap();
    let others = [
        ("tiny-glm4-nobias", KvDType::F16, "configuration"),
        ("tiny-glm4/model-q8_0.gguf", KvDType::F16, "other"),
        ("tiny-glm4", KvDType::BF16, "kv_dtype"),
    ];
    for (model, dtype, what) in others {
        let mut engine = with(model, dtype).unwrap();
        let note = notes(&engine);
        assert!(
            note.contains("was written with other") && note.contains(what),
            "{note}"
        );
        assert_eq!(ask(&mut engine).1, 0, "{model}");
    }
    // The same configuration and other weights: only their sums tell.
    let seeded = |seed| {
        let engine = Engine::builder("random:tiny-9m")
            .seed(seed)
            .kv_dtype(KvDType::F16);
        engine
            .prefix_cache_file(path.clone())
            .build_engine()
            .unwrap()
    };
    seeded(1).save_prefix_cache(&path).unwrap();
    assert_eq!(notes(&seeded(1)), "");
    assert!(notes(&seeded(2)).contains("weights"));
}

#[test]
fn what_was_computed_under_an_adapter_is_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache");
    let build = || {
        let engine = builder("tiny-glm4", KvDType::F32).prefix_cache_file(path.clone());
        engine.adapter("mlp", tiny("tiny-glm4/adapters/mlp"))
    };
    let mut engine = build().build_engine().unwrap();
    let mut adapted = request(3, 70);
    adapted.options.adapter = Some("mlp".to_owned());
    engine.submit(adapted.clone()).unwrap();
    let answer = run(&mut engine);
    assert_eq!(engine.save_prefix_cache(&path).unwrap().blocks, 0);
    let plain = ask(&mut engine);
    assert_eq!(engine.save_prefix_cache(&path).unwrap().blocks, 6);
    let mut engine = build().build_engine().unwrap();
    assert_eq!(ask(&mut engine), (plain.0, 64));
    engine.submit(adapted).unwrap();
    let (tokens, finished) = run_to_end(&mut engine);
    assert_eq!(finished[0].usage.cached_tokens, 0);
    let ids = |tokens: &Tokens| tokens.iter().map(|t| (t.1, t.2)).collect::<Vec<_>>();
    assert_eq!(ids(&tokens), ids(&answer));
}

#[test]
fn a_file_that_must_not_be_replaced_is_refused_before_anything_is_answered() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("letter.txt");
    std::fs::write(&path, "Dear Sir or Madam").unwrap();
    let build = |path: &Path| {
        let engine = builder("tiny-glm4", KvDType::F32).prefix_cache_file(path.to_owned());
        engine.build_engine()
    };
    assert!(matches!(
        build(&path),
        Err(BuildError::PrefixCache(PrefixCacheError::NotOurs(_)))
    ));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "Dear Sir or Madam");
    let off = builder("tiny-glm4", KvDType::F32).prefix_cache(false);
    let off = off.prefix_cache_file(path).build_engine();
    assert!(matches!(off, Err(BuildError::Option { .. })));
}
