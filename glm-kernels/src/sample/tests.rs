use super::*;
use crate::testing::{Random, devices, every_device};

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
        top_k: [0, 0, 1, 7, 40][random.below(5)],
        top_p: [1.0, 0.9, 0.3, 1e-6][random.below(4)],
        min_p: [0.0, 0.0, 0.05, 1.0][random.below(4)],
        uniform: [random.next(), 0, u64::MAX][random.below(8) % 3],
        mask: [None, Some(0), Some(2)][random.below(3)],
        logprob: random.below(2) == 0,
    }
}

#[test]
fn every_device_chooses_the_same() {
    let mut drawn = std::collections::HashSet::new();
    for (case, (len, spread)) in [
        (1usize, 1.0),
        (33, 8.0),
        (1000, 20.0),
        (5003, 30.0),
        (9000, 3.0),
    ]
    .into_iter()
    .enumerate()
    {
        let mut random = Random::new(case as u64);
        let words = len.div_ceil(32);
        let masks: Vec<u32> = (0..3 * words).map(|_| random.next() as u32).collect();
        let masks = Indices::from(masks);
        let rows = 16;
        let values: Vec<f32> = (0..rows)
            .flat_map(|_| logits(&mut random, len, spread))
            .collect();
        let rules: Vec<SampleRule> = (0..rows).map(|_| rule(&mut random)).collect();
        let want: Vec<SampledToken> = values
            .chunks_exact(len)
            .zip(&rules)
            .map(|(row, rule)| reference::sample(row, rule, mask_of(&masks, rule, len)))
            .collect();
        drawn.extend(want.iter().map(|token| token.id));
        for device in every_device(1) {
            let logits = Tensor::from_f32(&device, &values, &[rows, len]).unwrap();
            let got = sample(&logits, &rules, &masks).unwrap();
            for (row, (got, want)) in got.iter().zip(&want).enumerate() {
                let context = format!("{device:?}, {len}, row {row}: {:?}", rules[row]);
                assert_eq!(got.id, want.id, "{context}");
                match (got.logprob, want.logprob) {
                    (Some(got), Some(want)) => assert!((got - want).abs() < 1e-4, "{context}"),
                    (got, want) => assert_eq!(got, want, "{context}"),
                }
            }
        }
    }
    assert!(drawn.len() > 25, "{}", drawn.len());
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
        let got = sample(&logits.unwrap(), &rules, &Indices::default()).unwrap();
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
        let logits = Tensor::from_f32(&device, &rows, &[3, 40]).unwrap();
        for temperature in [0.0, 1.0] {
            let rule = SampleRule {
                temperature,
                ..SampleRule::default()
            };
            let got = sample(&logits, &[rule; 3], &Indices::default()).unwrap();
            assert!(got.iter().all(|token| token.id.is_none()), "{device:?}");
        }
    }
}

#[test]
fn what_cannot_be_is_an_error() {
    let device = devices(1).remove(0);
    let logits = Tensor::from_f32(&device, &[0.0; 66], &[2, 33]).unwrap();
    let run = |rule: SampleRule, masks: &[u32]| {
        sample(&logits, &[SampleRule::default(), rule], &masks.into()).unwrap_err()
    };
    let good = SampleRule::default();
    for rule in [
        SampleRule {
            temperature: f32::NAN,
            ..good
        },
        SampleRule {
            temperature: -1.0,
            ..good
        },
        SampleRule { top_p: 0.0, ..good },
        SampleRule { min_p: 1.5, ..good },
    ] {
        assert!(matches!(
            run(rule, &[]),
            KernelError::Value { found: 1, .. }
        ));
    }
    let masked = SampleRule {
        mask: Some(1),
        ..good
    };
    assert!(matches!(
        run(masked, &[0, 0]),
        KernelError::Index { len: 1, .. }
    ));
    assert!(matches!(
        run(good, &[0]),
        KernelError::Length { name: "masks", .. }
    ));
    assert!(matches!(
        sample(&logits, &[good], &Indices::default()),
        Err(KernelError::Length { name: "rules", .. })
    ));
    assert!(matches!(
        sample(
            &logits.reshape(&[66]).unwrap(),
            &[good],
            &Indices::default()
        ),
        Err(KernelError::Shape { .. })
    ));
}
