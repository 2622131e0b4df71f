//! Speculation on an edit: what it gains for a given number of edits, at a model's true costs.
//!
//! ```text
//! cargo bench -p glm-benches --bench speculation -- [NAME=VALUE…]
//! ```
//!
//! | name | default | |
//! |---|---|---|
//! | `model` | `random:glm-edge-1.5b` | MODEL, quantised to Q8_0 |
//! | `streams` | `1,2,4,8` | answers at a time, each its own text |
//! | `edits` | `4,8,16,64` | tokens from one edit to the next |
//! | `tokens` | 64 | of an answer |
//! | `rounds` | 3 | in which all variants take turns |
//!
//! Random weights do not copy from their prompts, so the copying is arranged: an answer is taken as the model samples it with a
//! seed (greedy random models repeat themselves, which would flatter), and asked for again with the same seed and, as the text that it
//! will resemble, itself with every so many tokens replaced. Lookup, costs, lengths and verification are the engine's own; only how
//! often a real text is quoted is made up, and named in the variant.
//!
//! `never_right` shows whether guessing ends by itself where it does not pay: every third token is another one, so two in a row are found
//! again and again, and what followed them is wrong. The ratio should then stay at 1, and so it should where so many streams decode
//! together that a guess costs what a token costs. `guesses_first_half` and `guesses_second_half` count them in the halves of the runs.
//! Guesses that are wrong make the engine careful with the next requests, too; so this variant has an engine of its own.

use glm_runtime::{
    Engine, GenerateOptions, Quantization, Request, SamplingParams, Speculation, WeightFormat,
};
use serde_json::{Value, json};

mod common;
use common::is_measuring;
use common::options::Options;
use common::requests::{answer, exactly, median, print, prompt, rounded, spread};

const PROMPT_TOKENS: usize = 256;

/// What is measured.
struct Plan {
    model: String,
    streams: Vec<usize>,
    edits: Vec<usize>,
    tokens: usize,
    rounds: usize,
}

impl Plan {
    fn new() -> Self {
        let options = Options::read(&["model", "streams", "edits", "tokens", "rounds"]);
        let (model, streams, tokens, rounds) = if is_measuring() {
            ("random:glm-edge-1.5b", vec![1, 2, 4, 8], 64, 3)
        } else {
            ("demo", vec![1, 2], 16, 1)
        };
        Self {
            model: options.get("model").unwrap_or_else(|| model.to_owned()),
            streams: options.list("streams").unwrap_or(streams),
            edits: options.list("edits").unwrap_or_else(|| vec![4, 8, 16, 64]),
            tokens: options.get("tokens").unwrap_or(tokens),
            rounds: options.get("rounds").unwrap_or(rounds),
        }
    }

    fn engine(&self) -> Engine {
        let most = self.streams.iter().max().expect("a number of streams");
        let len = PROMPT_TOKENS + self.tokens;
        Engine::builder(&self.model)
            .quantize(Quantization::Uniform(WeightFormat::Q8_0))
            .max_model_len(len)
            // All prompts in one step, so that no answer is ahead of the others.
            .max_num_batched_tokens((most * PROMPT_TOKENS).max(512))
            .kv_cache_tokens(2 * most * (len + 16))
            .speculation(Speculation::prompt_lookup())
            .offline(true)
            .build_engine()
            .unwrap_or_else(|error| panic!("{}: {error}", self.model))
    }

    fn request(&self, nth: usize, prediction: Option<Vec<u32>>) -> Request {
        let sampling = SamplingParams {
            temperature: 1.0,
            top_k: 50,
            seed: Some(nth as u64),
            ..SamplingParams::default()
        };
        Request::new(prompt(nth + 1, PROMPT_TOKENS)).with_options(GenerateOptions {
            sampling,
            speculation: prediction.is_some(),
            prediction: prediction.unwrap_or_default(),
            ..exactly(self.tokens)
        })
    }

    /// The answers as requests without guesses.
    fn plain(&self, streams: usize) -> Vec<Request> {
        (0..streams).map(|i| self.request(i, None)).collect()
    }

    /// The same, with the answers given as predictions of which every `distance`-th token is another one.
    fn edits(&self, answers: &[Vec<u32>], distance: usize, vocab_size: usize) -> Vec<Request> {
        let edited = |text: &Vec<u32>| edited(text, distance, vocab_size);
        let predictions = answers.iter().map(edited).enumerate();
        let request = |(i, text)| self.request(i, Some(text));
        predictions.map(request).collect()
    }
}

/// A text with every `distance`-th token replaced.
fn edited(text: &[u32], distance: usize, vocab_size: usize) -> Vec<u32> {
    let replaced = |(i, &token): (usize, &u32)| match (i + 1) % distance {
        0 => (token + 1) % vocab_size as u32,
        _ => token,
    };
    text.iter().enumerate().map(replaced).collect()
}

/// Requests that are measured, and what came of them over all rounds.
struct Variant {
    name: String,
    requests: Vec<Request>,
    tok_s: Vec<f64>,
    /// Guesses in the first and in the second half of the steps.
    guesses: [u64; 2],
    right: u64,
    steps: u64,
}

impl Variant {
    fn new(name: &str, requests: Vec<Request>) -> Self {
        Self {
            name: name.to_owned(),
            requests,
            tok_s: Vec::new(),
            guesses: [0; 2],
            right: 0,
            steps: 0,
        }
    }

    fn measure(&mut self, engine: &mut Engine, expected: &[Vec<u32>]) {
        let before = engine.stats();
        let mut guesses = vec![before.drafted_tokens];
        let answers = answer(engine, &self.requests, |engine| {
            guesses.push(engine.stats().drafted_tokens);
        });
        assert_eq!(answers.ids, expected, "guesses change nothing");
        let (middle, last) = (guesses[guesses.len() / 2], guesses[guesses.len() - 1]);
        self.tok_s.push(answers.decode_tok_s());
        self.guesses[0] += middle - before.drafted_tokens;
        self.guesses[1] += last - middle;
        let after = engine.stats();
        self.right += after.accepted_tokens - before.accepted_tokens;
        self.steps += after.steps - before.steps;
    }

    fn numbers(&self, without: &Self) -> Value {
        json!({
            "tok_s": spread(&self.tok_s),
            "times_as_fast": rounded(median(&self.tok_s) / median(&without.tok_s)),
            "guesses_first_half": self.guesses[0],
            "guesses_second_half": self.guesses[1],
            "guesses_right": self.right,
            "steps": self.steps,
        })
    }
}

fn main() {
    let plan = Plan::new();
    let (mut engine, mut careful) = (plan.engine(), plan.engine());
    let info = engine.model_info().clone();
    for &streams in &plan.streams {
        let answers = answer(&mut engine, &plan.plain(streams), |_| {}).ids;
        let edits = |distance| plan.edits(&answers, distance, info.vocab_size);
        let mut plain = Variant::new("no_guesses", plan.plain(streams));
        let mut never_right = Variant::new("never_right", edits(3));
        let edited = |&distance: &usize| {
            Variant::new(&format!("edit_every_{distance}_tokens"), edits(distance))
        };
        let mut edited: Vec<_> = plan.edits.iter().map(edited).collect();
        for _ in 0..plan.rounds {
            plain.measure(&mut engine, &answers);
            never_right.measure(&mut careful, &answers);
            for variant in &mut edited {
                variant.measure(&mut engine, &answers);
            }
        }
        let parameters = json!({
            "streams": streams,
            "prompt_tokens": PROMPT_TOKENS,
            "answer_tokens": plan.tokens,
            "rounds": plan.rounds,
            "model": plan.model,
            "quantize": "q8_0",
            "threads": info.threads,
            "device": info.device,
        });
        for variant in [&plain, &never_right].into_iter().chain(&edited) {
            print(
                "speculation",
                &variant.name,
                variant.numbers(&plain),
                &parameters,
            );
        }
    }
}
