//! Speculation on an edit: what it gains for a given number of edits, at a model's true costs.
//!
//! Random weights do not copy from their prompts, so the copying is arranged: an answer is taken as the model samples it with a
//! seed (greedy random models repeat themselves, which would flatter), and asked for again with the same seed and, as the text that it
//! will resemble, itself with every so many tokens replaced. Lookup, costs, lengths and verification are the engine's own; only how
//! often a real text is quoted is made up, and named in the benchmark.

use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{
    BenchmarkGroup, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};
use glm_runtime::{
    Engine, GenerateOptions, Quantization, Request, SamplingParams, SeqEvent, Speculation,
    WeightFormat,
};

mod common;
use common::is_measuring;

const PROMPT_TOKENS: usize = 256;
const ANSWER_TOKENS: usize = 128;
const BATCHES: [usize; 4] = [1, 4, 8, 16];
/// Tokens from one edit to the next.
const EDITS: [usize; 4] = [4, 8, 16, 64];

/// Answers to a batch of random prompts, sampled.
struct Texts {
    engine: Engine,
    vocab_size: u32,
}

impl Texts {
    fn new() -> Self {
        // Only tried out, a small one shows that it runs.
        let model = if is_measuring() {
            "random:glm-edge-1.5b"
        } else {
            "random:tiny-9m"
        };
        let engine = Engine::builder(model)
            .quantize(Quantization::Uniform(WeightFormat::Q8_0))
            .max_model_len(PROMPT_TOKENS + ANSWER_TOKENS)
            .kv_cache_tokens(BATCHES[3] * (PROMPT_TOKENS + ANSWER_TOKENS + 16))
            .speculation(Speculation::prompt_lookup())
            .build_engine()
            .expect("a preset");
        let vocab_size = engine.model_info().vocab_size as u32;
        Self { engine, vocab_size }
    }

    fn request(&self, nth: usize, prediction: Option<Vec<u32>>) -> Request {
        let token = |i: usize| (i * i * 31 + nth * 977) as u32 % self.vocab_size;
        let prompt: Vec<u32> = (0..PROMPT_TOKENS).map(token).collect();
        let options = GenerateOptions {
            max_tokens: Some(ANSWER_TOKENS),
            ignore_eos: true,
            sampling: SamplingParams {
                temperature: 1.0,
                top_k: 50,
                seed: Some(nth as u64),
                ..SamplingParams::default()
            },
            speculation: prediction.is_some(),
            prediction: prediction.unwrap_or_default(),
            ..GenerateOptions::default()
        };
        Request::new(prompt).with_options(options)
    }

    /// The answers, and the time from the first token on.
    fn answer(&mut self, requests: &[Request]) -> (Vec<Vec<u32>>, Duration) {
        let submit = |request: &Request| self.engine.submit(request.clone()).expect("it fits").0;
        let ids: Vec<u64> = requests.iter().map(submit).collect();
        let mut answers = vec![Vec::new(); requests.len()];
        let mut started = None;
        while self.engine.has_work() {
            for event in self.engine.step() {
                if let SeqEvent::Token(token) = event {
                    answers[(token.request.0 - ids[0]) as usize].push(token.id);
                }
            }
            // Decoding alone: from when the last of the batch has answered once.
            if started.is_none() && answers.iter().all(|answer| !answer.is_empty()) {
                started = Some(Instant::now());
            }
        }
        (answers, started.map_or(Duration::ZERO, |at| at.elapsed()))
    }
}

/// A text with every `distance`-th token replaced.
fn edited(text: &[u32], distance: usize, vocab_size: u32) -> Vec<u32> {
    let replaced = |(i, &token): (usize, &u32)| match (i + 1) % distance {
        0 => (token + 1) % vocab_size,
        _ => token,
    };
    text.iter().enumerate().map(replaced).collect()
}

/// Times one batch and prints what came of guessing.
fn measure(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    texts: &mut Texts,
    requests: &[Request],
    answers: &[Vec<u32>],
) {
    let before = texts.engine.stats();
    group.bench_function(name, |b| {
        b.iter_custom(|iterations| {
            let run = |_| {
                let (again, elapsed) = texts.answer(requests);
                assert_eq!(again, answers, "speculation changes nothing");
                elapsed
            };
            (0..iterations).map(run).sum()
        });
    });
    let after = texts.engine.stats();
    let guessed = after.drafted_tokens - before.drafted_tokens;
    let right = after.accepted_tokens - before.accepted_tokens;
    let steps = after.steps - before.steps;
    println!(
        "{:24}{guessed} tokens guessed, {right} of them right, in {steps} steps",
        ""
    );
}

fn edits(c: &mut Criterion) {
    let mut texts = Texts::new();
    for batch in BATCHES {
        let mut group = c.benchmark_group(format!("speculation/{batch}_streams"));
        group.sampling_mode(SamplingMode::Flat).sample_size(10);
        group.throughput(Throughput::Elements((batch * ANSWER_TOKENS) as u64));
        let plain: Vec<Request> = (0..batch).map(|i| texts.request(i, None)).collect();
        let (answers, _) = texts.answer(&plain);
        measure(&mut group, "plain", &mut texts, &plain, &answers);
        for distance in EDITS {
            let prediction = |answer: &Vec<u32>| edited(answer, distance, texts.vocab_size);
            let predictions = answers.iter().map(prediction);
            let requests = predictions
                .enumerate()
                .map(|(i, p)| texts.request(i, Some(p)));
            let requests: Vec<Request> = requests.collect();
            let name = format!("edit_every_{distance}_tokens");
            measure(&mut group, &name, &mut texts, &requests, &answers);
        }
        group.finish();
    }
}

criterion_group!(benches, edits);
criterion_main!(benches);
