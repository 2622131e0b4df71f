//! Engines on graphics processors that are emulated: the kernels' own sources run on the CPU, over memory that is checked after
//! every launch. With `GLM_REQUIRE_GPU` they run on a real one (docs/how-to/gpu.md).

use std::path::{Path, PathBuf};
use std::time::Duration;

use glm_kernels::{Device, EmulatedCuda, KernelError};
use glm_runtime::{
    BuildError, Engine, EngineBuilder, EngineError, GenerateOptions, KvDType, Request, SeqEvent,
    Trace,
};

mod common;
use common::device::{MEMORY, devices, options};
use common::golden::{Golden, assert_close, assert_nearly_greedy};
use common::{greedy, tiny};

/// Largest difference allowed in f32 weights and f32 keys, relative to the largest magnitude of the array. Products of prompts are made of bf16 halves on
/// tensor cores.
const TOLERANCE: f32 = 2e-2;

fn open(path: &Path, device: &Device) -> EngineBuilder {
    Engine::builder(path.to_str().unwrap())
        .offline(true)
        .max_step_time(Duration::MAX)
        .open_device(device.clone())
        .max_model_len(128)
        .kv_cache_tokens(256)
}

fn check_logits(what: &str, golden: &Golden, prompt: usize, trace: &Trace, tolerance: f32) {
    let name = format!("p{prompt}.logits");
    let want = golden.f32s(&name);
    assert_close(&format!("{what} {name}"), &trace.logits, &want, tolerance);
}

/// The same checkpoint on the CPU, whose tokens are transformers' (`tests/golden.rs`).
fn on_cpu(case: &str) -> Engine {
    let engine = Engine::builder(model(case).to_str().unwrap()).offline(true);
    let engine = engine.device("cpu".to_owned()).kv_dtype(KvDType::F32);
    engine.build_engine().unwrap()
}

/// A tiny checkpoint, or a preset with random weights.
fn model(case: &str) -> PathBuf {
    match case.starts_with("random:") {
        true => case.into(),
        false => tiny(case),
    }
}

/// As [`assert_nearly_greedy`], by the logits of `cpu`.
fn assert_greedy(what: &str, cpu: &mut Engine, prompt: &[u32], tokens: &[u32]) {
    let ids = [prompt, tokens].concat();
    let logits = cpu.trace(&ids[..ids.len() - 1]).unwrap().logits;
    assert_nearly_greedy(what, &logits, ids.len() - 1, tokens, TOLERANCE);
}

#[test]
fn checkpoints_equal_transformers() {
    for (kind, device) in devices() {
        for case in ["tiny-glm4", "tiny-glm-edge", "tiny-chatglm3"] {
            let golden = Golden::open(tiny(case).join("golden.safetensors"));
            let engine = open(&tiny(case), &device).kv_dtype(KvDType::F32);
            let (mut engine, mut cpu) = (engine.build_engine().unwrap(), on_cpu(case));
            for (p, ids) in golden.prompts() {
                let what = format!("{case} {kind}");
                check_logits(&what, &golden, p, &engine.trace(&ids).unwrap(), TOLERANCE);
                let tokens = greedy(&mut engine, &ids, 8);
                assert_greedy(&format!("{what} p{p}"), &mut cpu, &ids, &tokens);
            }
        }
    }
}

/// Lengths of prompts that crowd each other out of a small cache.
const LENGTHS: [u32; 6] = [5, 40, 17, 90, 33, 64];

#[test]
fn blocks_are_found_again_and_swapped_out_and_in() {
    let prompt = |seed: u32, len: u32| (0..len).map(move |i| (seed * 31 + i * i * 7 + i) % 300);
    let prompts: Vec<Vec<u32>> = (0..)
        .zip(LENGTHS)
        .map(|(seed, len)| prompt(seed, len).collect())
        .collect();
    let options = GenerateOptions {
        max_tokens: Some(20),
        ignore_eos: true,
        ..GenerateOptions::default()
    };
    let mut cpu = on_cpu("tiny-glm4");
    for (kind, device) in devices() {
        let engine = open(&tiny("tiny-glm4"), &device).kv_cache_tokens(160);
        let engine = engine.max_num_batched_tokens(20);
        let mut engine = engine.swap_space(1 << 20).build_engine().unwrap();
        for prompt in &prompts {
            let request = Request::new(prompt.as_slice()).with_options(options.clone());
            engine.submit(request).unwrap();
        }
        let tokens = common::run(&mut engine);
        for (request, prompt) in (0..).zip(&prompts) {
            let own = tokens.iter().filter(|(id, ..)| *id == request);
            let own: Vec<u32> = own.map(|(_, token, _)| *token).collect();
            assert_eq!(own.len(), 20, "{kind} {request}");
            assert_greedy(&format!("{kind} {request}"), &mut cpu, prompt, &own);
        }
        let stats = engine.stats();
        assert!(stats.swapped_out > 0, "{kind}: {stats:?}");
        // The last prompt again: its blocks are still there.
        let again = greedy(&mut engine, &prompts[5], 4);
        assert_greedy(kind, &mut cpu, &prompts[5], &again);
        assert!(
            engine.stats().prefix_cache_hits > stats.prefix_cache_hits,
            "{kind}"
        );
    }
}

/// Answers of many lengths, that of the second beyond position 128: (tokens of the prompt, tokens of the answer).
const ANSWERS: [(u32, usize); 6] = [(5, 6), (120, 20), (40, 14), (3, 10), (9, 26), (17, 3)];

fn answer_all(engine: &mut Engine) -> Vec<(Vec<u32>, Vec<u32>)> {
    let prompt = |seed: u32, len: u32| (0..len).map(move |i| (seed * 17 + i * i * 5 + i) % 300);
    let prompts: Vec<Vec<u32>> = (0..)
        .zip(ANSWERS)
        .map(|(seed, (len, _))| prompt(seed, len).collect())
        .collect();
    let first = prompts.iter().zip(ANSWERS).map(|(prompt, (_, tokens))| {
        let options = GenerateOptions {
            max_tokens: Some(tokens),
            ignore_eos: true,
            ..GenerateOptions::default()
        };
        let request = Request::new(prompt.as_slice()).with_options(options);
        engine.submit(request).unwrap().0
    });
    let first = first.collect::<Vec<_>>()[0];
    let tokens = common::run(engine);
    let of = |request| {
        let own = tokens.iter().filter(move |(id, ..)| *id == request);
        own.map(|(_, token, _)| *token).collect()
    };
    (first..)
        .zip(prompts)
        .map(|(request, prompt)| (prompt, of(request)))
        .collect()
}

/// Whether the environment lets steps be recorded.
fn records() -> bool {
    std::env::var("GLM_CUDA_GRAPHS").map_or(true, |value| value != "off")
}

#[test]
fn decoding_is_recorded_and_repeated_and_its_tokens_are_the_same() {
    // Heads of 16 and of 64: only the latter come to the tensor cores.
    let cases = [
        ("tiny-glm4", KvDType::BF16),
        ("tiny-glm4", KvDType::F32),
        ("random:tiny-9m", KvDType::BF16),
    ];
    for (case, kv_dtype) in cases {
        let mut cpu = on_cpu(case);
        for (kind, device) in devices() {
            let engine = open(&model(case), &device).max_model_len(256);
            let engine = engine.kv_cache_tokens(1024).kv_dtype(kv_dtype);
            let mut engine = engine.build_engine().unwrap();
            for (at, (prompt, tokens)) in answer_all(&mut engine).iter().enumerate() {
                assert_eq!(tokens.len(), ANSWERS[at].1, "{kind} {at}");
                assert_greedy(&format!("{kind} {at}"), &mut cpu, prompt, tokens);
            }
            let stats = engine.stats();
            assert_eq!(stats.graph_error, None, "{kind}");
            let steps = stats.graph_steps;
            assert!(
                if records() { steps > 6 } else { steps == 0 },
                "{kind}: {stats:?}"
            );
        }
    }
}

#[test]
fn what_cannot_be_recorded_is_computed_all_the_same() {
    let cuda = EmulatedCuda::new(1, MEMORY).filter(|_| records());
    let Some(cuda) = cuda else {
        return;
    };
    cuda.faults().refuse_captures(true);
    let device = cuda.open(options()).unwrap();
    let engine = open(&tiny("tiny-glm4"), &device).max_model_len(256);
    let mut engine = engine.kv_cache_tokens(1024).build_engine().unwrap();
    let mut cpu = on_cpu("tiny-glm4");
    for (prompt, tokens) in answer_all(&mut engine) {
        assert_greedy("refused", &mut cpu, &prompt, &tokens);
    }
    let stats = engine.stats();
    assert_eq!((cuda.faults().captures(), stats.graph_steps), (2, 0));
    let error = stats.graph_error.unwrap();
    assert!(error.contains("previous error during capture"), "{error}");
}

#[test]
fn prompts_are_computed_with_nvidias_library_and_without_it() {
    let off = std::env::var_os("GLM_CUBLASLT").is_some_and(|value| value == "off");
    let mut cpu = on_cpu("tiny-glm4");
    for fails in [false, true] {
        let cuda = EmulatedCuda::new(1, MEMORY).filter(|_| !off);
        let Some(cuda) = cuda.map(EmulatedCuda::with_cublaslt) else {
            return;
        };
        let device = cuda.open(options()).unwrap();
        let engine = open(&tiny("tiny-glm4"), &device).max_model_len(256);
        let mut engine = engine.kv_cache_tokens(512).build_engine().unwrap();
        cuda.faults().refuse_products(fails);
        let prompt: Vec<u32> = (0..150).map(|i| (i * i * 5 + i) % 300).collect();
        let tokens = greedy(&mut engine, &prompt, 4);
        assert_greedy("with the library", &mut cpu, &prompt, &tokens);
        let stats = engine.stats();
        assert_eq!(stats.cublaslt_products == 0, fails, "{stats:?}");
        let error = stats.cublaslt_error.unwrap_or_default();
        assert_eq!(error.contains("could not be launched"), fails, "{error}");
    }
}

#[test]
fn a_device_that_is_lost_while_it_repeats_a_step_fails_its_requests() {
    let cuda = EmulatedCuda::new(1, MEMORY).filter(|_| records());
    let Some(cuda) = cuda else {
        return;
    };
    let device = cuda.open(options()).unwrap();
    let mut engine = open(&tiny("tiny-glm4"), &device).build_engine().unwrap();
    let options = GenerateOptions {
        max_tokens: Some(50),
        ignore_eos: true,
        ..GenerateOptions::default()
    };
    let request = Request::new(&[1, 2, 3][..]).with_options(options);
    engine.submit(request).unwrap();
    while engine.has_work() && engine.stats().graph_steps < 2 {
        engine.step();
    }
    cuda.faults().break_after(3);
    let failed = match &engine.step()[..] {
        [SeqEvent::Failed(_, error)] => error.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(failed.contains("cuda:0 is lost"), "{failed}");
    assert!(!engine.has_work());
    let stats = engine.stats();
    assert_eq!(stats.kv_blocks_free, stats.kv_blocks_total);
}

#[test]
fn a_lost_device_fails_its_requests_and_holds_nothing() {
    let cuda = EmulatedCuda::idle(1, MEMORY);
    let device = cuda.open(options()).unwrap();
    let mut engine = open(&tiny("tiny-glm4"), &device).build_engine().unwrap();
    cuda.faults().break_after(20);
    for prompt in [&[1, 2, 3][..], &[4, 5]] {
        engine.submit(Request::new(prompt)).unwrap();
        let mut failed = Vec::new();
        while engine.has_work() {
            for event in engine.step() {
                match event {
                    SeqEvent::Failed(_, error) => failed.push(error.to_string()),
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(failed.len(), 1);
        assert!(failed[0].contains("cuda:0 is lost"), "{failed:?}");
        assert!(failed[0].contains("illegal memory access"), "{failed:?}");
        let stats = engine.stats();
        assert_eq!(stats.kv_blocks_free, stats.kv_blocks_total);
    }
    let error = engine.trace(&[1, 2]).unwrap_err();
    assert!(matches!(error, EngineError::Step(_)), "{error}");
}

#[test]
fn a_step_without_memory_fails_its_request_and_the_engine_goes_on() {
    let Some(cuda) = EmulatedCuda::new(1, MEMORY) else {
        return;
    };
    let device = cuda.open(options()).unwrap();
    let engine = open(&tiny("tiny-glm4"), &device).kv_dtype(KvDType::F32);
    let (mut engine, mut cpu) = (engine.build_engine().unwrap(), on_cpu("tiny-glm4"));
    let long: Vec<u32> = (10..60).collect();
    // Before its first step, and while it is decoded.
    for (prompt, steps) in [(&long[..], 0), (&[4, 5], 3)] {
        let options = GenerateOptions {
            max_tokens: Some(20),
            ignore_eos: true,
            ..GenerateOptions::default()
        };
        let request = Request::new(prompt).with_options(options);
        engine.submit(request).unwrap();
        for _ in 0..steps {
            engine.step();
        }
        assert!(engine.has_work());
        device.release_cached_memory();
        cuda.faults().set_out_of_memory(true);
        let mut failed = Vec::new();
        while engine.has_work() {
            for event in engine.step() {
                match event {
                    SeqEvent::Failed(_, error) => failed.push(error.to_string()),
                    SeqEvent::Token(_) => {}
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(failed.len(), 1, "{failed:?}");
        assert!(failed[0].contains("cuda:0 has no room for"), "{failed:?}");
        let stats = engine.stats();
        assert_eq!(stats.kv_blocks_free, stats.kv_blocks_total);
        assert_eq!(cuda.faults().copies(), 0);

        cuda.faults().set_out_of_memory(false);
        let tokens = greedy(&mut engine, prompt, 6);
        assert_eq!(tokens.len(), 6);
        assert_greedy("after it", &mut cpu, prompt, &tokens);
    }
    assert_eq!(engine.stats().graph_error, None);
}

#[test]
fn a_model_that_does_not_fit_is_refused_before_it_is_loaded() {
    let cuda = EmulatedCuda::idle(1, 64 << 10);
    let device = cuda.open(options()).unwrap();
    match open(&tiny("tiny-glm4"), &device).build() {
        Err(BuildError::Memory(shortage)) => assert!(shortage.available <= 64 << 10),
        other => panic!("{:?}", other.map(|_| ())),
    }
    assert_eq!(cuda.faults().launches(), 0);
}

#[test]
fn the_cache_takes_what_the_device_has_left() {
    let cuda = EmulatedCuda::idle(1, 32 << 20);
    let device = cuda.open(options()).unwrap();
    let engine = open(&tiny("tiny-glm4"), &device).kv_cache_tokens(None);
    let engine = engine.build_engine().unwrap();
    let info = engine.model_info();
    assert!(info.device.starts_with("cuda:0"), "{}", info.device);
    let cache = info.kv_budget.tokens() as u64 * info.kv_bytes_per_token;
    assert!(cache > 24 << 20 && cache < 30 << 20, "{}", info.kv_budget);
    assert!(
        info.kv_budget
            .to_string()
            .contains("9/10 of the device's memory")
    );
}

#[test]
fn what_does_not_work_on_a_device_is_refused_with_what_does() {
    let cuda = EmulatedCuda::idle(1, MEMORY);
    let device = cuda.open(options()).unwrap();
    let engine = open(&tiny("tiny-glm4"), &device).kv_dtype(KvDType::Q8_0);
    match engine.build() {
        Err(BuildError::Kernel(error @ KernelError::NotOnCuda { .. })) => {
            assert!(error.to_string().contains("use bf16"), "{error}");
        }
        other => panic!("{:?}", other.map(|_| ())),
    }
}

#[test]
fn a_device_that_is_not_there_is_an_error_and_auto_goes_on_without_one() {
    let builder = || Engine::builder(tiny("tiny-glm4").to_str().unwrap()).offline(true);
    let error = builder().device("cuda:99".to_owned()).build().map(|_| ());
    assert!(matches!(
        error,
        Err(BuildError::Kernel(KernelError::Cuda(_)))
    ));
    let error = builder().device("gpu".to_owned()).build().map(|_| ());
    assert!(matches!(error, Err(BuildError::Device(name)) if name == "gpu"));
    assert!(builder().device("auto".to_owned()).build_engine().is_ok());
}
