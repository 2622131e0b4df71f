//! The cost of LoRA adapters: streams that decode together, some of them each under an adapter.
//!
//! An adapter of rank r reads r (in + out) values of each layer's matrices in a step that uses it, and takes two operations per value for each
//! of its streams: at rank 16 on all projections of GLM-Edge-1.5B 16 million values, 32 MB in bf16 beside the 1.6 GB of the model in
//! Q8_0, or 2 % per adapter, if nothing but reading counted.

use std::fs;
use std::path::Path;

use glm_benches::random;
use glm_runtime::{GenerateOptions, ModelSource, OpenOptions, Request, TensorSpec};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, serialize_to_file};
use serde_json::{Value, json};

use crate::common::requests::{answer, exactly, median, print, prompt, rounded, spread};
use crate::{Setup, builder, folder};

const RANK: usize = 16;
/// How many adapters the streams have among them.
const ADAPTERS: [usize; 4] = [0, 1, 2, 4];

fn name(nth: usize) -> String {
    format!("adapter-{nth}")
}

/// Writes an adapter on all projections of all layers, as PEFT does.
fn write(specs: &[TensorSpec], seed: u64, folder: &Path) {
    let modules = specs.iter().filter_map(|spec| {
        let module = spec.name.strip_suffix(".weight")?;
        module.ends_with("_proj").then_some((module, spec))
    });
    let half = |module: &str, half: char, [rows, columns]: [usize; 2]| {
        let name = format!("base_model.model.{module}.lora_{half}.weight");
        let scale = 1.0 / (columns as f32).sqrt();
        // The upper half of an f32 is a bf16.
        let bf16 = |value: f32| ((value * scale).to_bits() >> 16) as u16;
        let values = random(rows * columns, seed).into_iter().map(bf16);
        let bytes: Vec<u8> = values.flat_map(u16::to_le_bytes).collect();
        (name, vec![rows, columns], bytes)
    };
    let tensors: Vec<_> = modules
        .flat_map(|(module, spec)| {
            let a = half(module, 'A', [RANK, spec.columns()]);
            let b = half(module, 'B', [spec.rows(), RANK]);
            [a, b]
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::BF16, shape.clone(), bytes).expect("whole rows");
        (name, view)
    });
    fs::create_dir(folder).expect("a new folder");
    let file = folder.join("adapter_model.safetensors");
    serialize_to_file(views, None, &file).expect("room on the disk");
    let config = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": RANK,
        "target_modules": "all-linear",
    });
    fs::write(folder.join("adapter_config.json"), config.to_string()).expect("room on the disk");
}

pub fn run(setup: &Setup) {
    let model = setup.model();
    let streams = setup.size("streams", 8, 4);
    // All prompts fit into one step, so that no answer is ahead of the others.
    let (len, tokens) = (setup.size("prompt", 16, 16), setup.size("tokens", 64, 8));
    let source = ModelSource::open(&model, &OpenOptions::default(), 0);
    let source = source.unwrap_or_else(|error| panic!("{model}: {error}"));

    let folder = folder();
    let most = ADAPTERS[ADAPTERS.len() - 1];
    let mut builder = builder(&model)
        .max_model_len(len + tokens)
        .kv_cache_tokens(streams * (len + tokens + 16));
    for nth in 0..most {
        let path = folder.path().join(name(nth));
        write(source.tensors(), 1 + nth as u64, &path);
        builder = builder.adapter(name(nth), path);
    }
    let engine = builder.build_engine();
    let mut engine = engine.unwrap_or_else(|error| panic!("{model}: {error}"));

    let request = |seed: usize, nth: usize, adapters: usize| {
        Request::new(prompt(seed, len)).with_options(GenerateOptions {
            adapter: (adapters > 0).then(|| name(nth % adapters)),
            ..exactly(tokens)
        })
    };
    // The first steps of an engine take longer.
    answer(&mut engine, &[request(0, 0, most)], |_| {});
    let mut tok_s = ADAPTERS.map(|_| Vec::new());
    for round in 0..setup.rounds() {
        for (adapters, tok_s) in ADAPTERS.into_iter().zip(&mut tok_s) {
            let request = |i| request(1 + round * streams + i, i, adapters);
            let requests: Vec<_> = (0..streams).map(request).collect();
            let answers = answer(&mut engine, &requests, |_| {});
            tok_s.push(answers.decode_tok_s());
        }
    }
    let own = json!({
        "streams": streams,
        "rank": RANK,
        "adapter_bytes": engine.stats().adapter_bytes / most as u64,
        "weight_bytes_per_step": engine.model_info().weight_bytes_per_step,
        "prompt_tokens": len,
        "answer_tokens": tokens,
        "rounds": setup.rounds(),
    });
    let parameters = setup.parameters(&model, engine.model_info(), &own);
    for (adapters, samples) in ADAPTERS.into_iter().zip(&tok_s) {
        let numbers: Value = json!({
            "tok_s": spread(samples),
            "share_of_none": rounded(median(samples) / median(&tok_s[0])),
        });
        print(
            "adapters",
            &format!("{adapters}_adapters"),
            numbers,
            &parameters,
        );
    }
}
