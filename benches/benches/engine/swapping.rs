//! What it costs that the KV cache is too small: requests that lose their blocks are computed again, or copied to host memory and back.
//!
//! `roomy` has blocks for all answers; `recompute` and `swap` only for the prompts and a quarter of each answer. What a lost token costs is
//! two operations per weight where it is computed again, and twice the bytes of its keys and values where it is copied, out and back: 3
//! billion operations against 115 kB for GLM-Edge-1.5B, milliseconds against microseconds. Both lose besides that fewer answers
//! are computed in a step. All three give the same answers, which is checked.

use glm_runtime::{Engine, EngineStats, KvDType, Request};
use serde_json::{Value, json};

use crate::common::requests::{answer, exactly, median, print, prompt, rounded, spread};
use crate::{Setup, builder};

/// Requests that are all there at once.
struct Load {
    model: String,
    streams: usize,
    prompt: usize,
    tokens: usize,
}

impl Load {
    fn requests(&self, round: usize) -> Vec<Request> {
        let request = |i| {
            let prompt = prompt(1 + round * self.streams + i, self.prompt);
            Request::new(prompt).with_options(exactly(self.tokens))
        };
        (0..self.streams).map(request).collect()
    }

    /// An engine whose KV cache has blocks for so many tokens of each answer.
    fn engine(&self, answer: usize, swap_space: u64) -> Engine {
        builder(&self.model)
            .kv_dtype(KvDType::F16)
            .max_model_len(self.prompt + self.tokens)
            .max_num_seqs(self.streams)
            .kv_cache_tokens(self.streams * (self.prompt + answer))
            .swap_space(swap_space)
            .build_engine()
            .unwrap_or_else(|error| panic!("{}: {error}", self.model))
    }
}

/// An engine, and what came of it over all rounds.
struct Variant {
    name: &'static str,
    engine: Engine,
    seconds: Vec<f64>,
    before: EngineStats,
}

impl Variant {
    fn new(name: &'static str, mut engine: Engine, warm_up: &Request) -> Self {
        // The first steps of an engine take longer.
        answer(&mut engine, std::slice::from_ref(warm_up), |_| {});
        Self {
            name,
            before: engine.stats(),
            engine,
            seconds: Vec::new(),
        }
    }

    fn numbers(&self, load: &Load, roomy: &Self) -> Value {
        let (stats, before) = (self.engine.stats(), &self.before);
        let rounds = self.seconds.len() as u64;
        let prompts = rounds * (load.streams * load.prompt) as u64;
        let tokens = (load.streams * load.tokens) as f64;
        let computed = stats.prefill_tokens - before.prefill_tokens;
        json!({
            "seconds": spread(&self.seconds),
            "tok_s": rounded(tokens / median(&self.seconds)),
            "times_roomy": rounded(median(&self.seconds) / median(&roomy.seconds)),
            "preemptions": stats.preemptions - before.preemptions,
            "swapped_out": stats.swapped_out - before.swapped_out,
            "swapped_tokens": stats.swapped_tokens - before.swapped_tokens,
            "recomputed_tokens": computed.saturating_sub(prompts),
            "found_in_prefix_cache": stats.prefix_cache_hits - before.prefix_cache_hits,
            "kv_cache_tokens": self.engine.model_info().kv_capacity_tokens,
        })
    }
}

pub fn run(setup: &Setup) {
    let load = Load {
        model: setup.model(),
        streams: setup.size("streams", 16, 4),
        prompt: setup.size("prompt", 128, 48),
        tokens: setup.size("tokens", 64, 32),
    };
    let warm_up = Request::new(prompt(0, 16)).with_options(exactly(2));
    let variant = |name, engine| Variant::new(name, engine, &warm_up);
    let roomy = variant("roomy", load.engine(load.tokens + 16, 0));
    let tokens = (load.streams * (load.prompt + load.tokens + 16)) as u64;
    let everything = tokens * roomy.engine.model_info().kv_bytes_per_token;
    let recompute = variant("recompute", load.engine(load.tokens / 4, 0));
    let swap = variant("swap", load.engine(load.tokens / 4, everything));

    let mut variants = [roomy, recompute, swap];
    for round in 0..setup.rounds() {
        let requests = load.requests(round);
        let mut expected = None;
        for variant in &mut variants {
            let answers = answer(&mut variant.engine, &requests, |_| {});
            variant.seconds.push(answers.elapsed.as_secs_f64());
            let expected = expected.get_or_insert_with(|| answers.ids.clone());
            assert_eq!(*expected, answers.ids, "{} changes answers", variant.name);
        }
    }
    let own = json!({
        "streams": load.streams,
        "prompt_tokens": load.prompt,
        "answer_tokens": load.tokens,
        "rounds": setup.rounds(),
    });
    let [roomy, ..] = &variants;
    let parameters = setup.parameters(&load.model, roomy.engine.model_info(), &own);
    for variant in &variants {
        print(
            "swapping",
            variant.name,
            variant.numbers(&load, roomy),
            &parameters,
        );
    }
}
