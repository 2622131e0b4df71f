use proptest::prelude::*;

use super::*;
use crate::testing::{Random, assert_close, devices};
use crate::{Device, Graphs, Indices, KvDType, Pairing, RopeAngles, rope_store_kv};

const DTYPES: [KvDType; 5] = KvDType::ALL;

/// Sequences with their keys and values stored in random blocks, and queries for the last tokens of
/// each.
pub(super) struct Case {
    dims: AttnDims,
    kv: KvLayer,
    q: Vec<f32>,
    batch: AttnBatch,
}

/// What the tokens of one sequence are made from: sequences of one seed have the same keys, values
/// and queries wherever they are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spec {
    seed: u64,
    pub queries: usize,
    context_len: usize,
}

pub(super) fn spec(seed: u64, queries: usize, context_len: usize) -> Spec {
    Spec {
        seed,
        queries,
        context_len,
    }
}

/// Rows of queries, keys and values of all positions of a sequence.
fn tokens(spec: Spec, dims: AttnDims) -> Vec<Vec<f32>> {
    let width = dims.q_len() + 2 * dims.num_kv_heads * dims.head_dim;
    (0..spec.context_len as u64)
        // Scores of some size, so that weights differ and the maximum matters.
        .map(|position| {
            Random::new(spec.seed << 20 | position)
                .values(width)
                .iter()
                .map(|x| x * 1.7)
                .collect()
        })
        .collect()
}

impl Case {
    pub(super) fn new(
        device: &Device,
        dtype: KvDType,
        dims: AttnDims,
        block_size: usize,
        specs: &[Spec],
        block_seed: u64,
    ) -> Self {
        let max_blocks = specs
            .iter()
            .map(|spec| spec.context_len.div_ceil(block_size))
            .max()
            .unwrap()
            + 1;
        let num_blocks = specs.len() * max_blocks;
        let mut kv = KvLayer::new(
            device,
            dtype,
            num_blocks,
            block_size,
            dims.num_kv_heads,
            dims.head_dim,
        )
        .unwrap();
        let block_tables = Random::new(block_seed).permutation(num_blocks);
        let (mut q, mut query_start) = (Vec::new(), vec![0]);
        for (spec, block_table) in specs.iter().zip(block_tables.chunks_exact(max_blocks)) {
            let rows = tokens(*spec, dims);
            let slots: Vec<u32> = (0..spec.context_len)
                .map(|p| block_table[p / block_size] * block_size as u32 + (p % block_size) as u32)
                .collect();
            let flat = rows.concat();
            let qkv = Tensor::from_f32(
                device,
                &flat,
                &[spec.context_len, flat.len() / spec.context_len],
            )
            .unwrap();
            // Storing only: no pair is rotated.
            let angles = no_angles(device, spec.context_len);
            rope_store_kv(&qkv, dims, &angles, &slots.into(), &mut kv).unwrap();
            rows[spec.context_len - spec.queries..]
                .iter()
                .for_each(|row| q.extend_from_slice(&row[..dims.q_len()]));
            query_start.push((q.len() / dims.q_len()) as u32);
        }
        let context_lens: Vec<u32> = specs.iter().map(|spec| spec.context_len as u32).collect();
        let batch = AttnBatch {
            query_start: query_start.into(),
            context_lens: context_lens.into(),
            block_tables: block_tables.into(),
            max_blocks_per_seq: max_blocks,
        };
        Self { dims, kv, q, batch }
    }

    pub(super) fn run(&self) -> Vec<f32> {
        let device = self.kv.device();
        let q = Tensor::from_f32(
            device,
            &self.q,
            &[self.q.len() / self.dims.q_len(), self.dims.q_len()],
        )
        .unwrap();
        paged_attention(&q, &self.kv, &self.batch, self.dims, scale(self.dims))
            .unwrap()
            .to_f32_vec()
            .unwrap()
    }

    /// The queries, where they stay.
    pub(super) fn queries(&self) -> Tensor {
        let shape = [self.q.len() / self.dims.q_len(), self.dims.q_len()];
        Tensor::from_f32(self.kv.device(), &self.q, &shape).unwrap()
    }

    /// What the queries make of the first positions of the contexts, so many of each: by themselves, and in a step that `graphs`
    /// repeats.
    pub(super) fn run_twice(&self, q: &Tensor, lens: &[u32], graphs: &mut Graphs) -> [Vec<f32>; 2] {
        let tables = &self.batch.block_tables[..];
        let lists = [&self.batch.query_start[..], lens, tables];
        let [query_start, context_lens, block_tables] = Indices::pack(lists);
        let batch = AttnBatch {
            query_start,
            context_lens,
            block_tables,
            ..self.batch
        };
        let attend = || paged_attention(q, &self.kv, &batch, self.dims, scale(self.dims));
        let key = Some([lens.len(), batch.max_blocks_per_seq]);
        let alone = attend().unwrap().to_f32_vec().unwrap();
        let repeated = graphs.run(key, &batch.context_lens, attend).unwrap();
        [alone, repeated.to_f32_vec().unwrap()]
    }

    /// The definition in f64, from the stored keys and values.
    pub(super) fn expected(&self) -> Vec<f32> {
        let (dims, size) = (self.dims, self.kv.block_size());
        let mut out = Vec::new();
        let batch = &self.batch;
        let tables = batch.block_tables.chunks_exact(batch.max_blocks_per_seq);
        for (s, block_table) in tables.enumerate() {
            let (start, end) = (
                batch.query_start[s] as usize,
                batch.query_start[s + 1] as usize,
            );
            let place = |p: usize| (block_table[p / size] as usize, p % size);
            for (t, head) in
                (start..end).flat_map(|t| (0..dims.num_heads).map(move |head| (t, head)))
            {
                let q = &self.q[t * dims.q_len() + head * dims.head_dim..][..dims.head_dim];
                let visible = batch.context_lens[s] as usize - (end - t) + 1;
                let kv_head = head / dims.group();
                let score = |p: usize| -> f64 {
                    let (block, offset) = place(p);
                    let dot: f64 = q
                        .iter()
                        .enumerate()
                        .map(|(d, q)| {
                            f64::from(*q) * f64::from(self.kv.key(block, kv_head, offset, d))
                        })
                        .sum();
                    dot * f64::from(scale(dims))
                };
                let scores: Vec<f64> = (0..visible).map(score).collect();
                let max = scores.iter().copied().fold(f64::MIN, f64::max);
                let sum: f64 = scores.iter().map(|score| (score - max).exp()).sum();
                out.extend((0..dims.head_dim).map(|d| {
                    let weighted = scores.iter().enumerate().map(|(p, score)| {
                        let (block, offset) = place(p);
                        (score - max).exp() / sum
                            * f64::from(self.kv.value(block, kv_head, offset, d))
                    });
                    weighted.sum::<f64>() as f32
                }));
            }
        }
        out
    }
}

fn scale(dims: AttnDims) -> f32 {
    1.0 / (dims.head_dim as f32).sqrt()
}

pub(super) fn dims(num_heads: usize, num_kv_heads: usize, head_dim: usize) -> AttnDims {
    AttnDims {
        num_heads,
        num_kv_heads,
        head_dim,
    }
}

/// A device of the widest instruction set.
pub(super) fn widest_device(threads: usize) -> Device {
    devices(threads).pop().unwrap()
}

/// What sums in f32 leave, or products of numbers with 16 bits.
fn tolerance(device: &Device) -> f32 {
    match device.isa() {
        #[cfg(target_arch = "x86_64")]
        Isa::Amx(_) => 2e-5,
        _ => 2e-6,
    }
}

#[test]
fn every_isa_and_type_matches_the_definition() {
    // Group sizes 1 to 16, every head size of the family and odd ones, contexts within a block, at
    // its edge, across chunks.
    let cases = [
        (
            dims(4, 4, 16),
            vec![spec(1, 1, 1), spec(2, 1, 16), spec(3, 1, 17)],
        ),
        (
            dims(6, 2, 24),
            vec![spec(1, 7, 7), spec(2, 1, 129), spec(3, 5, 40)],
        ),
        (dims(4, 2, 64), vec![spec(1, 129, 129), spec(2, 1, 600)]),
        (dims(5, 1, 80), vec![spec(1, 3, 300), spec(2, 20, 257)]),
        (dims(32, 2, 128), vec![spec(1, 1, 700), spec(2, 9, 9)]),
        (dims(4, 2, 50), vec![spec(1, 2, 33)]),
        (dims(3, 1, 136), vec![spec(1, 40, 40), spec(2, 1, 270)]),
    ];
    let devices = devices(2);
    for dtype in DTYPES {
        for (dims, specs) in &cases {
            for block_size in [16, 7, 48] {
                let mut want = None;
                for device in &devices {
                    let case = Case::new(device, dtype, *dims, block_size, specs, 5);
                    let want = want.get_or_insert_with(|| case.expected());
                    let context = format!("{device:?} {dtype} {dims:?} {block_size}");
                    assert_close(&case.run(), want, tolerance(device), &context);
                }
            }
        }
    }
}

/// Angles of so many tokens with which nothing is rotated.
fn no_angles(device: &Device, tokens: usize) -> RopeAngles {
    let inv_freq = Tensor::from_f32(device, &[], &[0]).unwrap();
    let positions = vec![0; tokens].into();
    RopeAngles::new(&inv_freq, &positions, 1.0, Pairing::Interleaved).unwrap()
}

/// Stores NaN as the key and the value of a position of the first sequence.
fn poison(case: &mut Case, position: usize) {
    let (device, dims) = (case.kv.device().clone(), case.dims);
    let width = dims.q_len() + 2 * dims.num_kv_heads * dims.head_dim;
    let qkv = Tensor::from_f32(&device, &vec![f32::NAN; width], &[1, width]).unwrap();
    let size = case.kv.block_size();
    let block = case.batch.block_tables[position / size];
    let slot = block * size as u32 + (position % size) as u32;
    let angles = no_angles(&device, 1);
    rope_store_kv(&qkv, dims, &angles, &[slot].into(), &mut case.kv).unwrap();
}

#[test]
fn slots_beyond_the_context_are_never_used() {
    for device in devices(2) {
        for (dtype, block_size) in DTYPES
            .into_iter()
            .flat_map(|dtype| [(dtype, 16), (dtype, 9)])
        {
            let specs = [spec(1, 3, 20)];
            let mut case = Case::new(&device, dtype, dims(4, 2, 40), block_size, &specs, 1);
            let want = case.run();
            for position in 20..case.batch.max_blocks_per_seq * block_size {
                poison(&mut case, position);
            }
            assert_eq!(case.run(), want, "{device:?} {dtype} {block_size}");
        }
    }
}

#[test]
fn a_query_that_is_no_number_spoils_itself_alone() {
    for device in devices(1) {
        for dtype in DTYPES {
            let specs = [spec(1, 9, 300)];
            let mut case = Case::new(&device, dtype, dims(4, 2, 32), 16, &specs, 1);
            let want = case.run();
            let spoilt = 5 * case.dims.q_len() + 32; // a head of a query in the midst
            case.q[spoilt] = f32::NAN;
            let got = case.run();
            for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                if (spoilt..spoilt + 32).contains(&i) {
                    assert!(got.is_nan(), "{device:?} {dtype}: element {i} is {got}");
                } else {
                    assert_eq!(got, want, "{device:?} {dtype}: element {i}");
                }
            }
            // Memory that this step has used, NaN included, is used again.
            case.q[spoilt] = 1.0;
            assert!(case.run().iter().all(|x| x.is_finite()), "{device:?}");
        }
    }
}

#[test]
fn a_key_that_is_no_number_spoils_those_that_see_it() {
    for device in devices(1) {
        for dtype in DTYPES {
            let specs = [spec(1, 9, 300)];
            let mut case = Case::new(&device, dtype, dims(4, 2, 32), 16, &specs, 1);
            poison(&mut case, 295);
            let unspoilt = 4 * case.dims.q_len(); // queries are at 291 to 299
            let got = case.run();
            assert!(
                got[unspoilt..].iter().all(|x| x.is_nan()),
                "{device:?} {dtype}"
            );
        }
    }
}

#[test]
fn large_scores_neither_overflow_nor_lose_the_maximum() {
    for device in devices(1) {
        let mut case = Case::new(
            &device,
            KvDType::F32,
            dims(2, 1, 64),
            16,
            &[spec(1, 4, 500)],
            1,
        );
        case.q.iter_mut().for_each(|q| *q *= 300.0);
        assert_close(&case.run(), &case.expected(), 1e-4, &format!("{device:?}"));
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let specs = [spec(1, 1, 3000), spec(2, 70, 300), spec(3, 1, 5)];
    let run =
        |device: &Device| Case::new(device, KvDType::F16, dims(8, 2, 64), 16, &specs, 3).run();
    let want: Vec<_> = devices(1).iter().map(run).collect();
    for threads in [2, 3, 8] {
        let got: Vec<_> = devices(threads).iter().map(run).collect();
        assert!(got == want, "{threads} threads");
    }
}

#[test]
fn a_second_step_of_the_same_size_takes_no_new_memory() {
    let device = widest_device(2);
    let case = Case::new(
        &device,
        KvDType::F16,
        dims(8, 2, 64),
        16,
        &[spec(1, 1, 2000), spec(2, 30, 30)],
        3,
    );
    case.run();
    let before = device.allocator_stats();
    case.run();
    assert_eq!(device.allocator_stats(), before);
}

/// Two sequences of two and one queries, and their queries as a tensor.
fn small_case() -> (Case, Tensor) {
    let device = widest_device(1);
    let specs = [spec(1, 2, 20), spec(2, 1, 3)];
    let case = Case::new(&device, KvDType::F32, dims(4, 2, 16), 16, &specs, 1);
    let q = Tensor::from_f32(&device, &case.q, &[3, 64]).unwrap();
    (case, q)
}

#[test]
fn arrays_of_a_batch_that_do_not_fit_each_other_are_errors() {
    let (case, q) = small_case();
    let good = || case.batch.clone();
    let starts = |query_start: &[u32]| AttnBatch {
        query_start: query_start.into(),
        ..good()
    };
    let width = |max_blocks_per_seq| AttnBatch {
        max_blocks_per_seq,
        ..good()
    };
    let too_long = AttnBatch {
        context_lens: [60, 3].into(),
        ..good()
    };
    for (batch, expected) in [
        (starts(&[0, 3]), "query_start"),
        (starts(&[]), "query_start"),
        (starts(&[0, 2, 4]), "query_start[S]"),
        (starts(&[1, 2, 3]), "query_start[0]"),
        (too_long, "block table"),
        (width(1), "block_tables"),
        (width(usize::MAX), "block_tables"),
    ] {
        match paged_attention(&q, &case.kv, &batch, case.dims, 1.0).unwrap_err() {
            KernelError::Length { name, .. } => assert_eq!(name, expected),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn numbers_of_a_batch_that_cannot_be_are_errors() {
    let (case, q) = small_case();
    let run = |q: &Tensor, batch: AttnBatch, dims: AttnDims| {
        paged_attention(q, &case.kv, &batch, dims, 1.0).unwrap_err()
    };
    let good = || case.batch.clone();
    let backwards = AttnBatch {
        query_start: [0, 4, 3].into(),
        ..good()
    };
    assert!(matches!(
        run(&q, backwards, case.dims),
        KernelError::Value { .. }
    ));
    let more_queries_than_context = AttnBatch {
        context_lens: [1, 3].into(),
        ..good()
    };
    assert!(matches!(
        run(&q, more_queries_than_context, case.dims),
        KernelError::Value {
            name: "context_len",
            ..
        }
    ));
    let no_such_block = AttnBatch {
        block_tables: vec![999; case.batch.block_tables.len()].into(),
        ..good()
    };
    assert!(matches!(
        run(&q, no_such_block, case.dims),
        KernelError::Index { name: "block", .. }
    ));
    assert!(matches!(
        run(&q, good(), dims(1 << 60, 2, 16)),
        KernelError::ShapeOverflow(_)
    ));
    for (q, dims, expected) in [
        (q.clone(), dims(4, 4, 16), "dims"),
        (q.clone(), dims(6, 2, 16), "q"),
        (q.reshape(&[192]).unwrap(), case.dims, "q"),
    ] {
        match run(&q, good(), dims) {
            KernelError::Shape { name, .. } => assert_eq!(name, expected),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn an_empty_step_is_fine() {
    for device in devices(1) {
        let kv = KvLayer::new(&device, KvDType::F32, 1, 16, 2, 16).unwrap();
        let q = Tensor::zeros(&device, DType::F32, &[0, 64]).unwrap();
        let batch = AttnBatch {
            query_start: [0].into(),
            ..AttnBatch::default()
        };
        assert!(
            paged_attention(&q, &kv, &batch, dims(4, 2, 16), 1.0)
                .unwrap()
                .is_empty()
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    /// Neither companions, nor the cut of a prompt, nor the blocks change a bit of a sequence's
    /// result.
    #[test]
    fn a_sequence_depends_on_itself_alone(
        context_len in 1usize..700,
        queries in 1usize..80,
        cut in 1usize..80,
        companions in proptest::collection::vec((1usize..20, 1usize..600), 0..4),
        seeds: [u64; 2],
        group in 1usize..6,
        dtype in proptest::sample::select(&DTYPES),
    ) {
        let dims = dims(2 * group, 2, 32);
        let subject = spec(77, queries.min(context_len), context_len);
        for device in devices(2) {
            let alone = Case::new(&device, dtype, dims, 16, &[subject], seeds[0]).run();

            let mut specs = vec![subject];
            specs.extend(companions.iter().enumerate().map(|(i, (queries, len))| spec(i as u64, (*queries).min(*len), *len)));
            let together = Case::new(&device, dtype, dims, 16, &specs, seeds[1]).run();
            prop_assert_eq!(&together[..alone.len()], &alone);

            // The same queries in two steps: first those up to the cut, then the rest.
            let first = cut.min(subject.queries);
            let head = spec(77, first, context_len - subject.queries + first);
            let mut parts = Case::new(&device, dtype, dims, 16, &[head], seeds[1]).run();
            let rest = spec(77, subject.queries - first, context_len);
            parts.extend(Case::new(&device, dtype, dims, 16, &[rest], seeds[0]).run());
            prop_assert_eq!(&parts, &alone);
        }
    }
}
