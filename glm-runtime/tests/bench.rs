//! Measuring: what must hold for a number to mean anything.

use std::time::Duration;

use glm_kernels::EmulatedCuda;
use glm_runtime::bench::{self, BenchError, BenchOptions, Machine, Session};
use glm_runtime::{Engine, EngineBuilder};

mod common;
use common::device::{MEMORY, options};
use common::tiny;

/// A batch whose prompts are read in steps that have room for 16 tokens, of which up to 11 decode.
fn many_in_small_steps() -> BenchOptions {
    BenchOptions {
        prompt_tokens: vec![1],
        gen_tokens: 8,
        batch: vec![12],
        depth: vec![60],
        repeat: 2,
        max_num_batched_tokens: Some(16),
        seed: 0,
        profile: false,
    }
}

/// An engine that is as large as the options say.
fn builder(options: &BenchOptions) -> EngineBuilder {
    let max_model_len = options.max_model_len(1024);
    Engine::builder(tiny("tiny-glm4").to_str().unwrap())
        .offline(true)
        .device("cpu".to_owned())
        .max_model_len(max_model_len)
        .kv_cache_tokens(options.kv_cache_tokens(max_model_len))
        .max_num_seqs(options.max_num_seqs())
        .max_num_batched_tokens(options.max_num_batched_tokens)
        .max_step_time(Duration::MAX)
}

#[test]
fn a_batch_is_together_from_the_first_to_the_last_step_that_counts() {
    let options = many_in_small_steps();
    let engine = builder(&options).build().unwrap();
    let report = bench::run(&engine, Machine::default(), &options, |_| {}).unwrap();
    let decode = &report.decode[0];
    assert_eq!((decode.batch, decode.gen_tokens, decode.repeat), (12, 8, 2));
    assert_eq!(engine.stats().preemptions, 0);
}

#[test]
fn a_batch_that_does_not_stay_together_is_an_error() {
    let options = many_in_small_steps();
    // Beside an answer a prompt is read a token at a time: the first answers are over before the last begin.
    let engine = builder(&options).max_num_prefill_tokens(1).build().unwrap();
    let mut session = Session::new(&engine, Machine::default(), 0).unwrap();
    match session.decode(12, 60, 8, 1) {
        Err(
            error @ BenchError::Ended {
                batch: 12,
                depth: 60,
            },
        ) => {
            assert!(error.to_string().contains("some ended"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    // One alone cannot be left behind.
    assert_eq!(session.decode(1, 60, 8, 1).unwrap().batch, 1);
}

#[test]
fn a_step_has_as_much_room_for_prompts_however_many_decode() {
    let tokens = |builder: EngineBuilder| {
        let engine = builder.build_engine().unwrap();
        engine.model_info().max_num_batched_tokens
    };
    let on_cpu = || {
        let model = Engine::builder(tiny("tiny-glm4").to_str().unwrap());
        model.offline(true).device("cpu".to_owned())
    };
    assert_eq!(tokens(on_cpu()), 512);
    assert_eq!(tokens(on_cpu().max_num_seqs(3)), 512);
    assert_eq!(tokens(on_cpu().max_num_seqs(600)), 512 + 600 - 64);
    assert_eq!(tokens(on_cpu().max_num_batched_tokens(7)), 7);
    // Kernels that do nothing are enough.
    let device = EmulatedCuda::idle(1, MEMORY).open(options()).unwrap();
    let on_cuda = || on_cpu().open_device(device.clone()).kv_cache_tokens(1024);
    assert_eq!(tokens(on_cuda()), 2048);
    assert_eq!(tokens(on_cuda().max_num_seqs(256)), 2048 + 256 - 64);
}
