//! How much of the engine's speed a batch reaches.
//!
//! | variant | |
//! |---|---|
//! | `file` | `glm_server::batch`, which is `glm-cli batch`: a file of JSON lines to another |
//! | `memory` | `glm_runtime::batch`: the same requests from an iterator |
//! | `direct` | all of them submitted to the engine at once |
//! | `peak` | what the same tokens take at best: all prompts in full steps, then all answers with no place of the engine empty |
//!
//! The peak is put together from two measurements, prompts with answers of one token, and as many answers as run at a time. The others can
//! only come near: at the end places are empty. They can pass it where a prompt is read in a step that decodes anyway, because weights are
//! read once for both. The goal of a batch is 90 % of it; of `direct`, `file` and `memory` should lose next to nothing.

use std::fs;
use std::time::{Duration, Instant};

use glm_runtime::batch::{Job, answers};
use glm_runtime::{EngineHandle, Request};
use glm_server::batch::{Batch, BatchOptions};
use serde_json::json;

use crate::common::requests::{exactly, median, mix, print, prompt, rounded, spread};
use crate::{Setup, builder, folder};

/// A request of a batch, in sizes.
#[derive(Clone, Copy)]
struct Shape {
    seed: usize,
    prompt: usize,
    answer: usize,
}

impl Shape {
    /// Lengths between half of the mean and one and a half of it.
    fn new(nth: usize, prompt: usize, answer: usize) -> Self {
        let around = |mean: usize, salt: usize| {
            let by = mix((2 * nth + salt) as u64) as usize % (mean + 1);
            (mean / 2 + by).max(1)
        };
        Self {
            seed: 1 + nth,
            prompt: around(prompt, 0),
            answer: around(answer, 1),
        }
    }

    fn request(self) -> Request {
        Request::new(prompt(self.seed, self.prompt)).with_options(exactly(self.answer))
    }

    fn line(self) -> String {
        let body = json!({
            "prompt": prompt(self.seed, self.prompt),
            "max_tokens": self.answer,
            "temperature": 0,
            "ignore_eos": true,
        });
        let line = json!({
            "custom_id": self.seed.to_string(),
            "method": "POST",
            "url": "/v1/completions",
            "body": body,
        });
        line.to_string()
    }
}

fn file(engine: &EngineHandle, shapes: &[Shape]) -> Duration {
    let folder = folder();
    let (input, output) = (folder.path().join("in"), folder.path().join("out"));
    let lines: Vec<_> = shapes.iter().map(|shape| shape.line()).collect();
    fs::write(&input, lines.join("\n")).expect("room on the disk");
    let begin = Instant::now();
    let batch = Batch::open(&input, &output).expect("two files");
    let run = batch.start(engine, BatchOptions::default());
    let end = run.finish(|_| {}).expect("room on the disk");
    let elapsed = begin.elapsed();
    let tokens: usize = shapes.iter().map(|shape| shape.answer).sum();
    let found = (end.errors, end.completion_tokens);
    assert_eq!(found, (0, tokens as u64), "errors, and tokens generated");
    elapsed
}

fn memory(engine: &EngineHandle, shapes: &[Shape]) -> Duration {
    let begin = Instant::now();
    let jobs = shapes
        .iter()
        .map(|shape| Job::new(shape.seed, shape.request()));
    for answered in answers(engine, jobs) {
        answered.answers.expect("an answer");
    }
    begin.elapsed()
}

fn direct(engine: &EngineHandle, shapes: &[Shape]) -> Duration {
    let begin = Instant::now();
    let submit = |shape: &Shape| engine.submit(shape.request()).expect("it fits");
    let streams: Vec<_> = shapes.iter().map(submit).collect();
    for stream in streams {
        stream.wait().expect("an answer");
    }
    begin.elapsed()
}

/// What the tokens of all take at best, with so many answers at a time.
fn peak(engine: &EngineHandle, shapes: &[Shape], streams: usize) -> Duration {
    let prompts: Vec<_> = shapes
        .iter()
        .map(|shape| Shape {
            answer: 1,
            ..*shape
        })
        .collect();
    let prefill = direct(engine, &prompts);
    let mean = |size: fn(&Shape) -> usize| {
        let all: usize = shapes.iter().map(size).sum();
        all.div_ceil(shapes.len())
    };
    let (prompt, answer) = (mean(|shape| shape.prompt), mean(|shape| shape.answer));
    let alike = |answer| -> Vec<_> {
        let shape = |i| Shape {
            seed: 1 + i,
            prompt,
            answer,
        };
        (0..streams).map(shape).collect()
    };
    // All answer as long, so none ends before the others.
    let decode = direct(engine, &alike(answer + 1)).saturating_sub(direct(engine, &alike(1)));
    let behind_the_first: usize = shapes.iter().map(|shape| shape.answer - 1).sum();
    prefill + decode.mul_f64(behind_the_first as f64 / (streams * answer) as f64)
}

pub fn run(setup: &Setup) {
    let model = setup.model();
    let (requests, streams) = (setup.size("requests", 48, 6), setup.size("streams", 8, 2));
    let (prompt, answer) = (setup.size("prompt", 64, 24), setup.size("tokens", 48, 6));
    let rounds = setup.size("rounds", 1, 1);
    let shapes: Vec<_> = (0..requests)
        .map(|i| Shape::new(i, prompt, answer))
        .collect();

    let longest = 3 * (prompt + answer) / 2 + 2;
    let engine = builder(&model)
        .max_num_seqs(streams)
        // As `glm-cli batch` does: nobody reads along.
        .max_step_time(Duration::MAX)
        // The same requests come again and again.
        .prefix_cache(false)
        .max_model_len(longest)
        .kv_cache_tokens(streams * (longest + 16))
        .build()
        .unwrap_or_else(|error| panic!("{model}: {error}"));
    // The first steps of an engine take longer: its memory is new.
    direct(&engine, &shapes[..requests.min(2 * streams)]);

    type Variant<'a> = (
        &'static str,
        &'a dyn Fn(&EngineHandle, &[Shape]) -> Duration,
    );
    let peak = |engine: &EngineHandle, shapes: &[Shape]| peak(engine, shapes, streams);
    let variants: [Variant<'_>; 4] = [
        ("file", &file),
        ("memory", &memory),
        ("direct", &direct),
        ("peak", &peak),
    ];
    let mut seconds = variants.map(|_| Vec::new());
    for round in 0..rounds {
        // Each is the first in its turn: who comes later meets a machine that is warmer, or busier.
        for i in (0..variants.len()).map(|i| (i + round) % variants.len()) {
            seconds[i].push(variants[i].1(&engine, &shapes).as_secs_f64());
        }
    }
    let tokens: usize = shapes.iter().map(|shape| shape.answer).sum();
    let own = json!({
        "requests": requests,
        "streams": streams,
        "prompt_tokens": shapes.iter().map(|shape| shape.prompt).sum::<usize>(),
        "answer_tokens": tokens,
        "prompt": prompt,
        "tokens": answer,
        "rounds": rounds,
    });
    let parameters = setup.parameters(&model, engine.model_info(), &own);
    let [.., direct, peak] = seconds.each_ref().map(|seconds| median(seconds));
    for ((name, _), samples) in variants.iter().zip(&seconds) {
        let numbers = json!({
            "seconds": spread(samples),
            "tok_s": rounded(tokens as f64 / median(samples)),
            "share_of_direct": rounded(direct / median(samples)),
            "share_of_peak": rounded(peak / median(samples)),
        });
        print("batch", name, numbers, &parameters);
    }
}
