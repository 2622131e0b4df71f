use super::*;
use crate::cuda::emulation::EmulatedCuda;
use crate::testing::{Random, assert_close, devices, every_device};
use crate::{CudaOptions, WeightBuilder, WeightFormat, embed};

/// Logits of a model that is sure, or not, with ties, NaN and minus infinity among them.
fn logits(random: &mut Random, len: usize, spread: f32) -> Vec<f32> {
    let mut logits: Vec<f32> = random
        .values(len)
        .iter()
        .map(|x| x.powi(3) * spread)
        .collect();
    for _ in 0..len / 10 {
        let (from, to) = (random.below(len), random.below(len));
        logits[to] = match random.below(6) {
            0 => f32::NAN,
            1 => f32::NEG_INFINITY,
            _ => logits[from],
        };
    }
    logits
}

fn rule(random: &mut Random) -> SampleRule {
    SampleRule {
        temperature: [0.0, 0.3, 1.0, 1.7, 1e-40][random.below(5)],
        top_k: [0, 0, 1, 7, 40, 4500][random.below(6)],
        top_p: [1.0, 0.9, 0.3, 1e-6][random.below(4)],
        min_p: [0.0, 0.0, 0.05, 1.0][random.below(4)],
        uniform: [random.next(), 0, u64::MAX][random.below(8) % 3],
        mask: [None, Some(0), Some(2)][random.below(3)],
        edits: 0..0,
        logprob: random.below(2) == 0,
        top: [0, 0, 3, MAX_TOP_TOKENS][random.below(4)],
    }
}

/// Edits of no token, some or all, in random order; the last may forbid everything.
fn edits(random: &mut Random, len: usize) -> Vec<LogitEdit> {
    let count = [0, 1, len / 3, len, len][random.below(5)];
    let all_forbidden = random.below(8) == 0;
    let ids = random.permutation(len).into_iter().take(count);
    let edit = |id| LogitEdit {
        id,
        bias: match random.below(4) {
            _ if all_forbidden => f32::NEG_INFINITY,
            0 => f32::NEG_INFINITY,
            1 => -0.0,
            _ => random.values(1)[0] * 4.0,
        },
        repetition: [1.0, 1.3, 0.7][random.below(3)],
        penalty: [0.0, 0.6, -0.2][random.below(3)],
    };
    ids.map(edit).collect()
}

/// Rows of logits and what is to be done with them.
struct Case {
    len: usize,
    logits: Vec<f32>,
    rules: Vec<SampleRule>,
    lists: SampleLists,
}

impl Case {
    fn new(seed: u64, rows: usize, len: usize, spread: f32) -> Self {
        let mut random = Random::new(seed);
        let masks: Vec<u32> = (0..3 * len.div_ceil(32))
            .map(|_| random.next() as u32)
            .collect();
        let mut lists = SampleLists {
            masks: masks.into(),
            edits: Vec::new(),
        };
        let mut case = |_: usize| {
            let start = lists.edits.len() as u32;
            lists.edits.extend(edits(&mut random, len));
            let edits = start..lists.edits.len() as u32;
            let rule = rule(&mut random);
            (
                logits(&mut random, len, spread),
                SampleRule { edits, ..rule },
            )
        };
        let (logits, rules): (Vec<_>, Vec<_>) = (0..rows).map(&mut case).unzip();
        Self {
            len,
            logits: logits.concat(),
            rules,
            lists,
        }
    }

    /// What the reference chooses, and the edited logits.
    fn expected(&self) -> (Vec<SampledToken>, Vec<f32>) {
        let mut logits = self.logits.clone();
        let rows = logits.chunks_exact_mut(self.len).zip(&self.rules);
        let choose = |(row, rule): (&mut [f32], &SampleRule)| {
            let (edits, mask) = (self.lists.edits(rule), self.lists.mask(rule, self.len));
            reference::sample(row, rule, edits, mask)
        };
        (rows.map(choose).collect(), logits)
    }
}

#[track_caller]
fn assert_near(got: Option<f32>, want: Option<f32>, context: &str) {
    match (got, want) {
        (Some(got), Some(want)) if want.is_finite() => {
            assert!((got - want).abs() < 1e-4, "{context}: {got}, not {want}");
        }
        (got, want) => assert_eq!(got, want, "{context}"),
    }
}

#[track_caller]
fn assert_same(got: &SampledToken, want: &SampledToken, context: &str) {
    assert_eq!(got.id, want.id, "{context}");
    assert_near(got.logprob, want.logprob, context);
    let ids = |token: &SampledToken| token.top.iter().map(|(id, _)| *id).collect::<Vec<_>>();
    assert_eq!(ids(got), ids(want), "{context}");
    for (got, want) in got.top.iter().zip(&want.top) {
        assert_near(Some(got.1), Some(want.1), context);
    }
}

fn bits(logits: &[f32]) -> Vec<Option<u32>> {
    let bits = logits.iter().map(|x| (!x.is_nan()).then_some(x.to_bits()));
    bits.collect()
}

#[test]
fn every_device_chooses_the_same() {
    let mut drawn = std::collections::HashSet::new();
    let shapes = [
        (1usize, 1.0),
        (33, 8.0),
        (1000, 20.0),
        (5003, 30.0),
        (9000, 3.0),
        (9001, 0.02), // so flat that more can be chosen than are listed
    ];
    for (seed, (len, spread)) in (0..).zip(shapes) {
        let case = Case::new(seed, 24, len, spread);
        let (want, edited) = case.expected();
        drawn.extend(want.iter().map(|token| token.id));
        for device in every_device(1) {
            let shape = [case.rules.len(), len];
            let mut logits = Tensor::from_f32(&device, &case.logits, &shape).unwrap();
            let got = sample(&mut logits, &case.rules, &case.lists).unwrap();
            for (row, (got, want)) in got.iter().zip(&want).enumerate() {
                let context = format!("{device:?}, {len}, row {row}: {:?}", case.rules[row]);
                assert_same(got, want, &context);
            }
            let logits = logits.to_f32_vec().unwrap();
            assert!(bits(&logits) == bits(&edited), "{device:?}, {len}: edits");
        }
    }
    assert!(drawn.len() > 30, "{}", drawn.len());
}

#[test]
fn what_is_edited_is_what_the_formula_says() {
    let edit = LogitEdit {
        bias: 1.0,
        repetition: 2.0,
        penalty: 0.25,
        ..LogitEdit::unchanged(0)
    };
    assert_eq!(
        [2.0, -1.0, -4.0].map(|x| edit.apply(x)),
        [1.25, -0.25, -6.25]
    );
    let forbidden = LogitEdit {
        bias: f32::NEG_INFINITY,
        ..edit
    };
    assert_eq!(forbidden.apply(3e38), f32::NEG_INFINITY);
    let values = [
        0.0,
        -0.0,
        1e-42,
        -3.5,
        f32::MAX,
        f32::MIN,
        f32::INFINITY,
        f32::NEG_INFINITY,
    ];
    let unchanged = LogitEdit::unchanged(0);
    assert_eq!(bits(&values.map(|x| unchanged.apply(x))), bits(&values));
}

#[test]
fn log_probabilities_are_those_before_the_edits_and_as_many_as_there_are_numbers() {
    let row = [1.0, f32::NAN, 3.0, f32::NEG_INFINITY, 2.0];
    let forbidden = LogitEdit {
        bias: f32::NEG_INFINITY,
        ..LogitEdit::unchanged(2)
    };
    let raised = LogitEdit {
        bias: 9.0,
        ..LogitEdit::unchanged(0)
    };
    let lists = SampleLists {
        edits: vec![forbidden, raised],
        ..SampleLists::default()
    };
    let rule = SampleRule {
        edits: 0..2,
        logprob: true,
        top: 7,
        ..SampleRule::default()
    };
    let total = row
        .iter()
        .filter(|x| !x.is_nan())
        .map(|x| x.exp())
        .sum::<f32>();
    let logprob = |logit: f32| logit - total.ln();
    for device in every_device(1) {
        let mut logits = Tensor::from_f32(&device, &row, &[1, 5]).unwrap();
        let got = &sample(&mut logits, std::slice::from_ref(&rule), &lists).unwrap()[0];
        assert_eq!(got.id, Some(0));
        let (ids, values): (Vec<u32>, Vec<f32>) = got.top.iter().copied().unzip();
        assert_eq!(ids, [2, 4, 0, 3], "{device:?}");
        assert_eq!(values[3], f32::NEG_INFINITY);
        let got = [got.logprob.unwrap(), values[0], values[1], values[2]];
        let want = [1.0, 3.0, 2.0, 1.0].map(logprob);
        assert_close(&got, &want, 1e-5, &format!("{device:?}"));
    }
}

#[test]
fn equal_tokens_are_drawn_evenly_however_many_they_are() {
    let len = 6000u64;
    let rule = |eighths: u64| SampleRule {
        temperature: 1.0,
        uniform: eighths << 61,
        ..SampleRule::default()
    };
    let rules: Vec<SampleRule> = (0..8)
        .flat_map(|eighths| {
            let all = rule(eighths);
            let (first, half) = (all.clone(), all.clone());
            let first = SampleRule {
                top_k: 4800,
                ..first
            };
            let half = SampleRule { top_p: 0.5, ..half };
            let both = SampleRule {
                top_k: 4800,
                ..half.clone()
            };
            [all, first, half, both]
        })
        .collect();
    for device in every_device(1) {
        let values = vec![-1.5; rules.len() * len as usize];
        let mut logits = Tensor::from_f32(&device, &values, &[rules.len(), len as usize]).unwrap();
        let got = sample(&mut logits, &rules, &SampleLists::default()).unwrap();
        for (eighths, got) in (0..8).zip(got.chunks_exact(4)) {
            let got: Vec<u64> = got.iter().map(|token| token.id.unwrap().into()).collect();
            let want = [len, 4800, len / 2, 2400].map(|kept| kept * eighths / 8);
            assert_eq!(got, want, "{device:?}");
        }
    }
}

#[test]
fn tokens_are_drawn_as_often_as_they_are_likely() {
    let row = [1.0f32, 3.0, -1.0, 2.0, f32::NEG_INFINITY];
    let draws = 300;
    let rules: Vec<SampleRule> = (0..draws)
        .map(|i| SampleRule {
            temperature: 0.8,
            uniform: (i * 2 + 1) * (u64::MAX / (2 * draws)),
            logprob: true,
            ..SampleRule::default()
        })
        .collect();
    let total: f64 = row.iter().map(|x| f64::from(*x / 0.8).exp()).sum();
    for device in every_device(1) {
        let logits = Tensor::from_f32(&device, &row.repeat(rules.len()), &[rules.len(), 5]);
        let got = sample(&mut logits.unwrap(), &rules, &SampleLists::default()).unwrap();
        for (id, logit) in (0..).zip(row) {
            let count = got.iter().filter(|token| token.id == Some(id)).count();
            let expected = f64::from(logit / 0.8).exp() / total * draws as f64;
            assert!(
                (count as f64 - expected).abs() <= 1.5,
                "{device:?} {id}: {count}"
            );
        }
    }
}

#[test]
fn a_row_without_a_finite_largest_logit_has_no_token() {
    let rows = [f32::NAN, f32::NEG_INFINITY, f32::INFINITY]
        .map(|x| [x; 40])
        .concat();
    for device in every_device(1) {
        let mut logits = Tensor::from_f32(&device, &rows, &[3, 40]).unwrap();
        for temperature in [0.0, 1.0] {
            let rule = SampleRule {
                temperature,
                logprob: true,
                top: 2,
                ..SampleRule::default()
            };
            let rules = [rule.clone(), rule.clone(), rule];
            let got = sample(&mut logits, &rules, &SampleLists::default()).unwrap();
            let nothing = SampledToken {
                id: None,
                logprob: None,
                top: Vec::new(),
            };
            assert!(got.iter().all(|token| *token == nothing), "{device:?}");
        }
    }
}

#[test]
fn what_cannot_be_is_an_error() {
    let device = devices(1).remove(0);
    let mut logits = Tensor::from_f32(&device, &[0.0; 66], &[2, 33]).unwrap();
    let good = SampleRule::default();
    let mut run = |rule: &SampleRule, masks: &[u32]| {
        let lists = SampleLists {
            masks: masks.into(),
            ..SampleLists::default()
        };
        sample(&mut logits, &[SampleRule::default(), rule.clone()], &lists).unwrap_err()
    };
    let with = |change: fn(&mut SampleRule)| {
        let mut rule = good.clone();
        change(&mut rule);
        rule
    };
    for rule in [
        with(|rule| rule.temperature = f32::NAN),
        with(|rule| rule.temperature = -1.0),
        with(|rule| rule.top_p = 0.0),
        with(|rule| rule.min_p = 1.5),
        with(|rule| rule.top = MAX_TOP_TOKENS + 1),
        with(|rule| rule.edits = 0..1),
    ] {
        let error = run(&rule, &[]);
        assert!(matches!(error, KernelError::Value { found: 1, .. }));
    }
    let error = run(&with(|rule| rule.mask = Some(1)), &[0, 0]);
    assert!(matches!(error, KernelError::Index { len: 1, .. }));
    let error = run(&good, &[0]);
    assert!(matches!(error, KernelError::Length { name: "masks", .. }));

    let lists = SampleLists::default();
    let error = sample(&mut logits, std::slice::from_ref(&good), &lists);
    assert!(matches!(
        error,
        Err(KernelError::Length { name: "rules", .. })
    ));
    let clone = logits.clone();
    let rules = [good.clone(), good];
    let error = sample(&mut logits, &rules, &lists);
    assert!(matches!(error, Err(KernelError::Shared { .. })));
    drop(clone);
    let mut flat = logits.reshape(&[66]).unwrap();
    let error = sample(&mut flat, &rules, &lists);
    assert!(matches!(error, Err(KernelError::Shape { .. })));
}

#[test]
fn edits_that_cannot_be_are_errors() {
    let device = devices(1).remove(0);
    let mut logits = Tensor::from_f32(&device, &[0.0; 66], &[2, 33]).unwrap();
    let edited = SampleRule {
        edits: 0..2,
        ..SampleRule::default()
    };
    let rules = [SampleRule::default(), edited];
    let mut run = |edits: &[LogitEdit]| {
        let lists = SampleLists {
            edits: edits.to_vec(),
            ..SampleLists::default()
        };
        sample(&mut logits, &rules, &lists).unwrap_err()
    };
    let edit = LogitEdit::unchanged;
    let error = run(&[edit(32), edit(33)]);
    assert!(matches!(
        error,
        KernelError::Index {
            index: 33,
            len: 33,
            ..
        }
    ));
    let error = run(&[edit(32), edit(32)]);
    assert!(
        matches!(error, KernelError::Value { found: 1, .. }),
        "{error}"
    );
    for (bias, repetition, penalty) in [
        (f32::INFINITY, 1.0, 0.0),
        (f32::NAN, 1.0, 0.0),
        (0.0, 0.0, 0.0),
        (0.0, 1.0, f32::INFINITY),
    ] {
        let wrong = LogitEdit {
            id: 3,
            bias,
            repetition,
            penalty,
        };
        let error = run(&[edit(0), wrong]);
        assert!(
            matches!(error, KernelError::Value { found: 1, .. }),
            "{error}"
        );
    }
}

/// Rows whose largest logits are those of `ids`; none where there is no id.
fn rows_for(device: &crate::Device, ids: &[Option<u32>], len: usize) -> Tensor {
    let mut rows = vec![f32::NEG_INFINITY; ids.len() * len];
    for (row, id) in rows.chunks_exact_mut(len).zip(ids) {
        if let Some(id) = id {
            row[*id as usize] = 1.0;
        }
    }
    Tensor::from_f32(device, &rows, &[ids.len(), len]).unwrap()
}

/// Has `ids` drawn; the logits are gone afterwards.
fn draw(device: &crate::Device, ids: &[Option<u32>], len: usize) -> PendingSample {
    let mut logits = rows_for(device, ids, len);
    let rules = vec![SampleRule::default(); ids.len()];
    sample_later(&mut logits, &rules, &SampleLists::default()).unwrap()
}

fn ids_of(tokens: &[SampledToken]) -> Vec<Option<u32>> {
    tokens.iter().map(|token| token.id).collect()
}

#[test]
fn tokens_can_be_waited_for_in_any_order_and_not_at_all() {
    for device in every_device(1) {
        let (first, second) = ([Some(3), None, Some(6)], [Some(1), Some(0), Some(5)]);
        let one = draw(&device, &first, 7);
        let two = draw(&device, &second, 7);
        drop(draw(&device, &[Some(2)], 7));
        let three = draw(&device, &[], 7);
        assert_eq!(ids_of(&two.wait().unwrap()), second, "{device:?}");
        assert_eq!(ids_of(&one.wait().unwrap()), first, "{device:?}");
        assert_eq!(three.wait().unwrap(), []);
    }
    let Some(driver) = EmulatedCuda::new(1, 1 << 24) else {
        return;
    };
    let (device, faults) = (
        driver.open(CudaOptions::default()).unwrap(),
        driver.faults(),
    );
    let pending = draw(&device, &[Some(1)], 7);
    assert_eq!(faults.copies(), 1);
    drop(pending);
    draw(&device, &[Some(1)], 7).wait().unwrap();
    assert_eq!(faults.copies(), 0);
    let pending = draw(&device, &[Some(1)], 7);
    faults.break_after(0);
    device.synchronize().unwrap();
    let mut logits = rows_for(&device, &[Some(0)], 7);
    let error = sample_later(
        &mut logits,
        &[SampleRule::default()],
        &SampleLists::default(),
    );
    assert!(matches!(error, Err(KernelError::DeviceLost { .. })));
    let error = pending.wait().unwrap_err();
    assert!(matches!(error, KernelError::DeviceLost { .. }), "{error}");
}

#[test]
fn the_next_step_takes_ids_from_where_they_are_drawn() {
    let (len, columns) = (9usize, 96);
    let values = Random::new(5).values(len * columns);
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    for device in every_device(1) {
        let mut builder = WeightBuilder::new(&device, columns);
        builder.push_rows(WeightFormat::F32, len, &bytes).unwrap();
        let table = builder.finish().unwrap();
        let pending = draw(&device, &[Some(4), None, Some(8), Some(1)], len);
        let placeholder = u32::MAX;
        let lists = [&[placeholder, placeholder, placeholder, 7][..], &[5, 6]];
        let [ids, others] = Indices::pack(lists);
        let drawn = ids.drawn_by(&pending, &[2, 0, 1]).unwrap();
        let got = embed(&table, &drawn).unwrap();
        let row = |id: &usize| &values[id * columns..][..columns];
        let want = |ids: &[usize]| ids.iter().flat_map(row).copied().collect::<Vec<f32>>();
        assert_eq!(got.to_f32_vec().unwrap(), want(&[8, 4, 0, 7]), "{device:?}");
        let got = embed(&table, &others).unwrap();
        assert_eq!(got.to_f32_vec().unwrap(), want(&[5, 6]), "{device:?}");
        // Nor does the host lose them by that.
        let tokens = pending.wait().unwrap();
        assert_eq!(ids_of(&tokens), [Some(4), None, Some(8), Some(1)]);
    }
}

#[test]
fn ids_that_cannot_be_taken_are_errors() {
    for device in every_device(1) {
        let pending = draw(&device, &[Some(4), Some(2)], 9);
        let ids = || Indices::from([0, 0, 0]);
        let error = ids().drawn_by(&pending, &[0; 4]).unwrap_err();
        assert!(matches!(error, KernelError::Length { expected: 3, .. }));
        let error = ids().drawn_by(&pending, &[0, 2]).unwrap_err();
        assert!(matches!(
            error,
            KernelError::Index {
                index: 2,
                len: 2,
                ..
            }
        ));
        if device.as_cuda().is_none() {
            continue;
        }
        let list = ids();
        let drawn = list.drawn_by(&pending, &[0]).unwrap();
        assert_eq!((drawn.max(), &*drawn), (Some(8), &[0, 0, 0][..]));
        let error = list.drawn_by(&pending, &[0]).unwrap_err();
        assert!(matches!(error, KernelError::Shared { .. }));
        let error = drawn.check_below("test", "token id", 8).unwrap_err();
        assert!(matches!(
            error,
            KernelError::Index {
                index: 8,
                len: 8,
                ..
            }
        ));
        drawn.check_below("test", "token id", 9).unwrap();
    }
}
