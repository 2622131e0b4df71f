//! The tiny checkpoints of `models/tiny-*` against what transformers computes for them in f32: hidden states of every
//! layer, logits of every position, 32 greedy tokens; as safetensors and as GGUF, on every instruction set of this machine.

use std::path::{Path, PathBuf};

use glm_runtime::quantize::{QuantizeOptions, quantize_to_gguf};
use glm_runtime::{
    Engine, EngineBuilder, EngineOptions, Isa, ModelSource, OpenOptions, Quantization, Trace,
    WeightFormat,
};

mod common;
use common::golden::{Golden, assert_close, relative_error};
use common::{greedy, tiny};

/// Largest difference allowed, relative to the largest magnitude of the array.
const TOLERANCE: f32 = 1e-4;

/// Checkpoints in Hugging Face layout with goldens beside them.
const CASES: [&str; 7] = [
    "tiny-chatglm3",
    "tiny-chatglm-glm4",
    "tiny-glm",
    "tiny-glm-edge",
    "tiny-glm4",
    "tiny-glm4-nobias",
    "tiny-glm4-yarn",
];

fn check_trace(what: &str, golden: &Golden, prompt: usize, trace: &Trace, tolerance: f32) {
    assert_close(
        &format!("{what} p{prompt}.logits"),
        &trace.logits,
        &golden.f32s(&format!("p{prompt}.logits")),
        tolerance,
    );
    if golden.has(&format!("p{prompt}.hidden.0")) {
        for (layer, hidden) in trace.hidden_states.iter().enumerate() {
            let name = format!("p{prompt}.hidden.{layer}");
            assert_close(
                &format!("{what} {name}"),
                hidden,
                &golden.f32s(&name),
                tolerance,
            );
        }
        let name = format!("p{prompt}.final_norm");
        assert_close(
            &format!("{what} {name}"),
            &trace.final_norm,
            &golden.f32s(&name),
            tolerance,
        );
    }
}

/// Everything recorded of a checkpoint against one engine.
fn check(what: &str, golden: &Golden, engine: EngineBuilder) {
    let mut engine = engine
        .build_engine()
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    let prompts = golden.prompts();
    assert!(!prompts.is_empty(), "{what}");
    for (p, ids) in prompts {
        let trace = engine.trace(&ids).unwrap();
        check_trace(what, golden, p, &trace, TOLERANCE);
        assert_eq!(
            greedy(&mut engine, &ids, 32),
            golden.ids(&format!("p{p}.greedy")),
            "{what} p{p}.greedy"
        );
    }
}

fn open(path: &Path) -> EngineBuilder {
    Engine::builder(path.to_str().unwrap()).offline(true)
}

#[test]
fn every_checkpoint_equals_transformers_on_every_isa() {
    for case in CASES {
        let golden = Golden::open(tiny(case).join("golden.safetensors"));
        for isa in Isa::available() {
            check(
                &format!("{case} {}", isa.name()),
                &golden,
                open(&tiny(case)).isa(isa),
            );
        }
    }
}

/// Every checkpoint in the folders that `GLM_GOLDEN_DIRS` names, separated by colons: other seeds, other shapes.
#[test]
fn checkpoints_of_other_folders_equal_transformers() {
    let Some(folders) = std::env::var_os("GLM_GOLDEN_DIRS") else {
        eprintln!("skipped: GLM_GOLDEN_DIRS names no folders of golden checkpoints");
        return;
    };
    for folder in std::env::split_paths(&folders) {
        let entries = std::fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let cases: Vec<PathBuf> = entries
            .filter(|path| {
                path.join("golden.safetensors").exists() && path.join("config.json").exists()
            })
            .collect();
        assert!(
            !cases.is_empty(),
            "{} holds no golden checkpoint",
            folder.display()
        );
        for case in cases {
            let golden = Golden::open(case.join("golden.safetensors"));
            check(&case.display().to_string(), &golden, open(&case));
        }
    }
}

#[test]
fn the_same_holds_for_gguf() {
    for case in CASES {
        let golden = Golden::open(tiny(case).join("golden.safetensors"));
        let whole = tiny(case).join("model-bf16.gguf");
        let file = if whole.exists() {
            whole
        } else {
            tiny(case).join("model-00001-of-00002.gguf")
        };
        check(&format!("{case} gguf bf16"), &golden, open(&file));
    }
}

#[test]
fn the_same_holds_for_gguf_in_f32() {
    let folder = tempfile::tempdir().unwrap();
    for case in CASES {
        let golden = Golden::open(tiny(case).join("golden.safetensors"));
        let source =
            ModelSource::open(tiny(case).to_str().unwrap(), &OpenOptions::default(), 0).unwrap();
        let output = folder.path().join(format!("{case}.gguf"));
        quantize_to_gguf(&source, &output, &QuantizeOptions::new(WeightFormat::F32)).unwrap();
        check(&format!("{case} gguf f32"), &golden, open(&output));
    }
}

#[test]
fn the_same_holds_for_pytorch_files_and_shards() {
    for (case, variant) in [("tiny-glm-edge", "pytorch"), ("tiny-glm4", "sharded")] {
        let golden = Golden::open(tiny(case).join("golden.safetensors"));
        let mut engine = open(&tiny(case).join(variant)).build_engine().unwrap();
        for (p, ids) in golden.prompts() {
            check_trace(variant, &golden, p, &engine.trace(&ids).unwrap(), TOLERANCE);
        }
    }
}

#[test]
fn a_prompt_crosses_a_block_boundary_and_its_answer_another() {
    for case in CASES {
        let golden = Golden::open(tiny(case).join("golden.safetensors"));
        let longest = golden
            .prompts()
            .iter()
            .map(|(_, ids)| ids.len())
            .max()
            .unwrap();
        assert!(
            longest >= 32,
            "{case}: blocks hold 16 tokens, the longest prompt {longest}"
        );
    }
}

/// Weights in blocks are exact; activations are rounded to 8 bits for them, which costs about two percent in a model that is
/// nothing but noise.
#[test]
fn block_formats_from_gguf_are_close_to_their_dequantised_weights() {
    for (file, golden) in [
        (
            "tiny-glm4/model-q8_0.gguf",
            "tiny-glm4/golden-q8_0.safetensors",
        ),
        (
            "tiny-glm4-kquants/model-mixed.gguf",
            "tiny-glm4-kquants/golden-mixed.safetensors",
        ),
    ] {
        let golden = Golden::open(tiny(golden));
        for isa in Isa::available() {
            let mut engine = open(&tiny(file)).isa(isa).build_engine().unwrap();
            for (p, ids) in golden.prompts() {
                let got = engine.trace(&ids).unwrap().logits;
                let error = relative_error(&got, &golden.f32s(&format!("p{p}.logits")));
                assert!(error < 0.04, "{file} {} p{p}: {error}", isa.name());
            }
        }
    }
}

#[test]
fn quantising_while_loading_stays_close_and_says_what_it_could_not_do() {
    let golden = Golden::open(tiny("tiny-glm4").join("golden.safetensors"));
    let (p, ids) = golden.prompts().remove(0);
    let want = golden.f32s(&format!("p{p}.logits"));
    let errors = [WeightFormat::Q8_0, WeightFormat::Q4_0].map(|format| {
        let mut engine = open(&tiny("tiny-glm4"))
            .quantize(Quantization::from(format))
            .build_engine()
            .unwrap();
        let formats = &engine.model_info().formats;
        assert!(
            formats.iter().any(|(name, _)| name == format.name()),
            "{formats:?}"
        );
        relative_error(&engine.trace(&ids).unwrap().logits, &want)
    });
    assert!(
        errors[0] < 0.06 && errors[1] < 0.5 && errors[0] < errors[1] / 4.0,
        "{errors:?}"
    );

    let engine = open(&tiny("tiny-glm4"))
        .quantize(Quantization::Q4KM)
        .build_engine()
        .unwrap();
    let notes = &engine.model_info().load_notes;
    assert!(
        notes
            .iter()
            .any(|note| note.contains("q5_0") || note.contains("f16")),
        "{notes:?}"
    );
}

#[test]
fn scores_are_the_softmax_of_the_logits() {
    let golden = Golden::open(tiny("tiny-glm").join("golden.safetensors"));
    let (p, ids) = golden.prompts().pop().unwrap();
    let logits = golden.f32s(&format!("p{p}.logits"));
    let row_len = logits.len() / ids.len();
    let nll = |(row, &next): (&[f32], &u32)| {
        let sum: f64 = row.iter().map(|&l| f64::from(l).exp()).sum();
        (sum.ln() - f64::from(row[next as usize])) as f32
    };
    let want: Vec<f32> = logits.chunks(row_len).zip(&ids[1..]).map(nll).collect();
    for max_num_batched_tokens in [5, 16, 512] {
        let options = EngineOptions {
            max_num_batched_tokens: Some(max_num_batched_tokens),
            max_num_seqs: Some(1),
            ..EngineOptions::default()
        };
        let mut engine = open(&tiny("tiny-glm"))
            .options(options)
            .build_engine()
            .unwrap();
        assert_close("nll", &engine.score(&ids).unwrap(), &want, TOLERANCE);
    }
}
