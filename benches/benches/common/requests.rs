//! Requests that an engine is measured with, and when their tokens came.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use glm_runtime::bench::{Spread, percentile};
use glm_runtime::{Engine, GenerateOptions, Request, SeqEvent};
use serde_json::{Value, json};

/// The ids of prompts: below the special tokens of every vocabulary.
const IDS: u64 = 4000;

/// SplitMix64 (Steele et al. 2014, doi:10.1145/2660193.2660195): its output for one state.
pub fn mix(state: u64) -> u64 {
    let z = state.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A prompt like that of no other seed, so that nothing of it is in the prefix cache.
pub fn prompt(seed: usize, len: usize) -> Vec<u32> {
    let id = |i: usize| (mix(((seed as u64) << 32) + i as u64 + 1) % IDS) as u32;
    (0..len).map(id).collect()
}

/// A greedy answer of exactly so many tokens.
pub fn exactly(max_tokens: usize) -> GenerateOptions {
    GenerateOptions {
        max_tokens: Some(max_tokens),
        ignore_eos: true,
        ..GenerateOptions::default()
    }
}

/// What came of requests that were submitted together.
#[derive(Debug)]
pub struct Answers {
    /// The tokens of each.
    pub ids: Vec<Vec<u32>>,
    /// When each of these came.
    times: Vec<Vec<Instant>>,
    /// From submission to the last token.
    pub elapsed: Duration,
}

/// Submits all requests and makes steps to their end; `stepped` is called after each.
pub fn answer(
    engine: &mut Engine,
    requests: &[Request],
    mut stepped: impl FnMut(&Engine),
) -> Answers {
    let begin = Instant::now();
    let place: HashMap<_, _> = (0..)
        .zip(requests)
        .map(|(i, request)| (engine.submit(request.clone()).expect("it fits"), i))
        .collect();
    let mut answers = Answers {
        ids: vec![Vec::new(); requests.len()],
        times: vec![Vec::new(); requests.len()],
        elapsed: Duration::ZERO,
    };
    while engine.has_work() {
        for event in engine.step() {
            match event {
                SeqEvent::Token(token) => {
                    let i: usize = place[&token.request];
                    answers.ids[i].push(token.id);
                    answers.times[i].push(token.at);
                }
                SeqEvent::Finished(..) => {}
                SeqEvent::Failed(_, error) => panic!("{error}"),
            }
        }
        stepped(engine);
    }
    answers.elapsed = begin.elapsed();
    answers
}

impl Answers {
    /// Tokens per second of all from when the last of them has its first token: decoding alone.
    pub fn decode_tok_s(&self) -> f64 {
        let firsts = self.times.iter().filter_map(|times| times.first());
        let start = *firsts.max().expect("a token");
        let later = self.times.iter().flatten().filter(|&&at| at > start);
        let (count, end) = later.fold((0, start), |(count, end), &at| (count + 1, end.max(at)));
        f64::from(count) / (end - start).as_secs_f64()
    }
}

/// Middle, 95th percentile and largest of some times, in milliseconds; `null` of none.
pub fn milliseconds(times: &[Duration]) -> Value {
    if times.is_empty() {
        return Value::Null;
    }
    let times: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
    let spread = Spread::of(&times);
    json!({
        "median": rounded(spread.median),
        "p95": rounded(percentile(&times, 0.95)),
        "max": rounded(spread.max),
        "n": times.len(),
    })
}

/// Middle and extremes of the measurements of several rounds.
pub fn spread(samples: &[f64]) -> Value {
    let Spread { median, min, max } = Spread::of(samples);
    json!({ "median": rounded(median), "min": rounded(min), "max": rounded(max) })
}

/// The middle one.
pub fn median(samples: &[f64]) -> f64 {
    Spread::of(samples).median
}

/// To three digits behind the point.
pub fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// Prints one result on a line of its own: what was measured and how it varied, the numbers, and what it takes to repeat it.
pub fn print(name: &str, variant: &str, numbers: Value, parameters: &Value) {
    let mut line = json!({ "name": name, "variant": variant });
    for part in [&numbers, parameters] {
        let fields = part.as_object().expect("an object").clone();
        line.as_object_mut().expect("an object").extend(fields);
    }
    println!("{line}");
}
