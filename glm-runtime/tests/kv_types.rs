//! Keys and values are read back from the cache in the type they are stored in, whatever way a text goes through it.

use glm_runtime::{Engine, KvDType};

mod common;
use common::tiny;

fn engine(dtype: KvDType, max_num_batched_tokens: usize) -> Engine {
    Engine::builder(tiny("tiny-glm4").to_str().unwrap())
        .max_model_len(128)
        .max_num_batched_tokens(max_num_batched_tokens)
        .kv_dtype(dtype)
        .build_engine()
        .unwrap()
}

fn ids(len: u32) -> Vec<u32> {
    (0..len).map(|i| (i * i * 7 + 3 * i + 11) % 300).collect()
}

#[test]
fn a_single_token_sees_its_own_value_as_it_is_stored() {
    let logits = |dtype| engine(dtype, 128).trace(&ids(1)).unwrap().logits;
    let exact = logits(KvDType::F32);
    for (dtype, tolerance) in [
        (KvDType::F16, 1e-2),
        (KvDType::BF16, 1e-1),
        (KvDType::Q8_0, 1e-1),
    ] {
        let rounded = logits(dtype);
        let differences = exact.iter().zip(&rounded).map(|(a, b)| (a - b).abs());
        let largest = differences.fold(0.0, f32::max);
        // A single token attends to itself alone: a value that was not rounded would give the very same logits.
        assert!(largest > 0.0, "{dtype}: the cache was passed by");
        assert!(largest < tolerance, "{dtype}: {largest}");
    }
}

#[test]
fn scores_are_the_same_however_a_text_is_cut() {
    for dtype in [KvDType::F32, KvDType::F16, KvDType::BF16, KvDType::Q8_0] {
        let whole = engine(dtype, 128).score(&ids(90)).unwrap();
        for step in [1, 7, 16, 33] {
            assert_eq!(
                engine(dtype, step).score(&ids(90)).unwrap(),
                whole,
                "{dtype}, {step}"
            );
        }
    }
}
