//! The kernels on an emulated device, against the definition.

use super::super::tests::{Case, Spec, dims, spec, widest_device};
use super::*;
use crate::Graphs;
use crate::testing::{assert_close, emulated_cuda, on_real_device};

/// What sums in f32 leave where factors are split in two, or what rounding them to 11 or 8 bits does. The two parts of a factor have 17
/// bits where those are bf16 (7.6e-6), and tensor cores cut their sums off where the emulated ones round them.
fn tolerance(dtype: KvDType, splits: bool) -> f32 {
    match (dtype, splits) {
        (KvDType::F16 | KvDType::Fp8, false) => 8e-4,
        (KvDType::BF16, false) => 6e-3,
        _ if on_real_device() => 3e-5,
        _ => 1e-5,
    }
}

/// Runs a case on the emulated device; the same keys and values on the CPU say what is right.
fn check(dtype: KvDType, dims: AttnDims, block_size: usize, specs: &[Spec], splits: bool) {
    let Some(device) = emulated_cuda() else {
        return;
    };
    let cuda = Case::new(&device, dtype, dims, block_size, specs, 3);
    let want = Case::new(&widest_device(2), dtype, dims, block_size, specs, 3).expected();
    let context = format!("{dtype} {dims:?} {block_size} {specs:?}");
    assert_close(&cuda.run(), &want, tolerance(dtype, splits), &context);
}

#[test]
fn few_queries_over_shared_contexts() {
    for (dtype, dims, block_size, specs) in [
        (
            KvDType::BF16,
            dims(4, 2, 64),
            16,
            &[spec(1, 1, 1), spec(2, 1, 17), spec(3, 1, 600)][..],
        ),
        (
            KvDType::F16,
            dims(32, 2, 128),
            64,
            &[spec(1, 1, 300), spec(2, 1, 129)],
        ),
        (KvDType::Fp8, dims(4, 2, 128), 16, &[spec(1, 1, 500)]),
        (KvDType::Fp8, dims(4, 1, 64), 32, &[spec(1, 1, 70)]),
        (KvDType::BF16, dims(16, 1, 128), 16, &[spec(3, 8, 150)]), // a draft
        // More heads than rows.
        (
            KvDType::F16,
            dims(20, 1, 64),
            64,
            &[spec(1, 2, 140), spec(2, 1, 64)],
        ),
    ] {
        check(dtype, dims, block_size, specs, true);
    }
}

#[test]
fn many_queries() {
    for (dtype, dims, block_size, specs) in [
        (
            KvDType::BF16,
            dims(4, 2, 64),
            16,
            &[spec(1, 70, 70), spec(2, 40, 100)][..],
        ),
        (
            KvDType::F16,
            dims(16, 1, 128),
            32,
            &[spec(1, 17, 60), spec(2, 9, 9)],
        ),
        (KvDType::Fp8, dims(3, 1, 128), 16, &[spec(1, 64, 64)]),
        (KvDType::Fp8, dims(2, 2, 64), 16, &[spec(1, 129, 140)]),
        (KvDType::BF16, dims(3, 1, 128), 64, &[spec(1, 50, 97)]),
    ] {
        check(dtype, dims, block_size, specs, false);
    }
}

#[test]
fn both_kinds_in_a_step() {
    let mut specs: Vec<Spec> = (0..40).map(|i| spec(i, 1, 1 + 5 * i as usize)).collect();
    specs[7].queries = 20;
    specs[33].queries = 70;
    check(KvDType::F16, dims(4, 1, 64), 32, &specs, false);
}

#[test]
fn other_types_and_sizes_have_a_kernel_too() {
    for dtype in [KvDType::F32, KvDType::BF16, KvDType::F16, KvDType::Fp8] {
        for (dims, block_size) in [
            (dims(4, 2, 16), 16),
            (dims(6, 2, 24), 7),
            (dims(3, 1, 136), 48),
        ] {
            let specs = [spec(1, 1, 1), spec(2, 3, 40), spec(3, 9, 9), spec(4, 1, 70)];
            check(dtype, dims, block_size, &specs, true);
        }
    }
}

#[test]
fn a_recorded_step_follows_its_contexts_as_they_grow() {
    let Some(device) = emulated_cuda() else {
        return;
    };
    let (dims, specs) = (dims(4, 2, 64), [spec(1, 1, 600), spec(2, 1, 300)]);
    let case = Case::new(&device, KvDType::BF16, dims, 16, &specs, 3);
    let (q, mut graphs) = (case.queries(), Graphs::new(&device));
    // The last is cut otherwise by itself.
    for lens in [[520, 7], [521, 8], [530, 130], [600, 300], [40, 1]] {
        let [alone, repeated] = case.run_twice(&q, &lens, &mut graphs);
        let context = format!("{lens:?}");
        assert_close(&repeated, &alone, tolerance(KvDType::BF16, true), &context);
        assert!(repeated == alone || lens[0] == 40, "{context}");
    }
    assert!(!graphs.is_on() || graphs.repeated() == 3);
    assert_eq!(graphs.error(), None);
}

fn sequence(queries: usize, context_len: usize) -> Sequence<'static> {
    Sequence {
        first_token: 0,
        queries,
        context_len,
        block_table: &[],
    }
}

#[test]
fn a_device_is_filled_whatever_the_batch() {
    let plan = |count, queries, context| {
        Plan::new(
            &vec![sequence(queries, context); count],
            dims(32, 2, 128),
            132,
        )
    };
    let blocks = |count: usize, plan: &Plan| count * 2 * plan.decode_tiles * plan.pieces;
    // One long stream: as many pieces as are worth it. Many: two rounds. A multitude: none is cut.
    assert_eq!(plan(1, 1, 2048).pieces, 16);
    assert!((792..1000).contains(&blocks(64, &plan(64, 1, 2048))));
    assert_eq!(plan(512, 1, 2048).pieces, 1);
    assert_eq!(plan(1, 1, 5).pieces, 1);
    // Drafts are decoded where few sequences are, and tiles of prompts where there are many.
    assert_eq!(
        (
            plan(1, 4, 2048).decode_tiles,
            plan(1, 4, 2048).prefill_tiles
        ),
        (4, 0)
    );
    assert_eq!(
        (
            plan(128, 4, 2048).decode_tiles,
            plan(128, 4, 2048).prefill_tiles
        ),
        (0, 128)
    );
    assert_eq!(plan(1, 8192, 8192).prefill_tiles, 1024);
    assert_eq!(plan(0, 0, 0).decode_tiles, 0);
}
