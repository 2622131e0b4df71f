//! Shared by the integration tests.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod device;
pub mod golden;

use std::path::PathBuf;

use glm_runtime::{Engine, Finished, GenerateOptions, Request, SeqEvent};

/// A path in the folder of tiny checkpoints.
pub fn tiny(path: &str) -> PathBuf {
    // At run time first: test programs may be carried to another machine.
    let crate_root = std::env::var_os("CARGO_MANIFEST_DIR");
    let crate_root = crate_root.map_or(env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    crate_root.join("../models").join(path)
}

/// Greedy continuation by exactly `len` tokens.
pub fn greedy(engine: &mut Engine, prompt: &[u32], len: usize) -> Vec<u32> {
    let options = GenerateOptions {
        max_tokens: Some(len),
        ignore_eos: true,
        ..GenerateOptions::default()
    };
    engine
        .submit(Request::new(prompt).with_options(options))
        .unwrap();
    run(engine).into_iter().map(|(_, id, _)| id).collect()
}

/// Every token as (request, id, log-probability bits).
pub type Tokens = Vec<(u64, u32, Option<u32>)>;

/// Steps until the engine is idle.
pub fn run(engine: &mut Engine) -> Tokens {
    run_to_end(engine).0
}

/// As [`run`], with how each request ended.
pub fn run_to_end(engine: &mut Engine) -> (Tokens, Vec<Finished>) {
    let (mut tokens, mut ended) = (Vec::new(), Vec::new());
    while engine.has_work() {
        for event in engine.step() {
            match event {
                SeqEvent::Token(token) => {
                    tokens.push((token.request.0, token.id, token.logprob.map(f32::to_bits)))
                }
                SeqEvent::Finished(_, finished) => ended.push(finished),
                SeqEvent::Failed(id, error) => panic!("request {id}: {error}"),
            }
        }
    }
    let stats = engine.stats();
    assert_eq!(
        stats.kv_blocks_free, stats.kv_blocks_total,
        "an idle engine holds no block"
    );
    (tokens, ended)
}
