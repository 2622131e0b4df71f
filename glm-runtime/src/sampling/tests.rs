use proptest::prelude::*;

use super::*;

fn sampler(params: SamplingParams, prompt: &[u32]) -> SequenceSampler {
    SequenceSampler::new(params, prompt, 1)
}

fn draw_many(params: &SamplingParams, logits: &[f32], draws: u64) -> Vec<u32> {
    let mut counts = vec![0; logits.len()];
    for seed in 0..draws {
        let params = SamplingParams {
            seed: Some(seed),
            ..params.clone()
        };
        let id = sampler(params, &[])
            .sample_among(&mut logits.to_vec(), None)
            .unwrap()
            .id;
        counts[id as usize] += 1;
    }
    counts
}

#[test]
fn greedy_takes_the_first_of_equal_maxima() {
    let mut greedy = sampler(SamplingParams::greedy(), &[]);
    assert_eq!(
        greedy
            .sample_among(&mut [1.0, 3.0, f32::NAN, 3.0], None)
            .unwrap()
            .id,
        1
    );
}

#[test]
fn logits_without_a_finite_maximum_are_refused() {
    for logits in [
        vec![f32::NAN; 3],
        vec![f32::NEG_INFINITY; 3],
        vec![0.0, f32::INFINITY],
        vec![],
    ] {
        for temperature in [0.0, 1.0] {
            let params = SamplingParams {
                temperature,
                ..SamplingParams::default()
            };
            assert_eq!(
                sampler(params, &[]).sample_among(&mut logits.clone(), None),
                Err(NotFinite)
            );
        }
    }
}

#[test]
fn draws_follow_the_softmax_at_the_temperature() {
    let logits = [0.0, 1.0, 2.0];
    for temperature in [0.5f32, 1.0, 2.0] {
        let params = SamplingParams {
            temperature,
            ..SamplingParams::default()
        };
        let draws = 20_000;
        let counts = draw_many(&params, &logits, draws);
        let weights: Vec<f64> = logits
            .iter()
            .map(|&l| f64::from(l / temperature).exp())
            .collect();
        let total: f64 = weights.iter().sum();
        for (count, weight) in counts.iter().zip(&weights) {
            let (got, want) = (f64::from(*count) / draws as f64, weight / total);
            assert!(
                (got - want).abs() < 0.015,
                "temperature {temperature}: {got} for {want}"
            );
        }
    }
}

#[test]
fn each_filter_keeps_what_its_definition_says() {
    // Probabilities 0.5, 0.25, 0.125, 0.125.
    let logits: Vec<f32> = [0.5f32, 0.25, 0.125, 0.125]
        .iter()
        .map(|p| p.ln())
        .collect();
    let base = SamplingParams {
        temperature: 1.0,
        ..SamplingParams::default()
    };
    let cases = [
        (
            SamplingParams {
                top_k: 1,
                ..base.clone()
            },
            1,
        ),
        (
            SamplingParams {
                top_k: 2,
                ..base.clone()
            },
            2,
        ),
        (
            SamplingParams {
                top_p: 0.4,
                ..base.clone()
            },
            1,
        ),
        (
            SamplingParams {
                top_p: 0.6,
                ..base.clone()
            },
            2,
        ),
        (
            SamplingParams {
                min_p: 0.45,
                ..base.clone()
            },
            2,
        ),
        (
            SamplingParams {
                min_p: 0.55,
                ..base.clone()
            },
            1,
        ),
        (base.clone(), 4),
    ];
    for (params, kept) in cases {
        let drawn = draw_many(&params, &logits, 400)
            .iter()
            .filter(|&&count| count > 0)
            .count();
        assert_eq!(drawn, kept, "{params:?}");
    }
}

#[test]
fn a_nucleus_wider_than_the_sorted_head_is_whole() {
    let logits = vec![0.0; 1000];
    let params = SamplingParams {
        temperature: 1.0,
        top_p: 0.75,
        ..SamplingParams::default()
    };
    assert_eq!(filter::candidates(&logits, &params).unwrap().len(), 750);
}

#[test]
fn penalties_follow_their_formulas() {
    let params = SamplingParams {
        repetition_penalty: 2.0,
        presence_penalty: 0.5,
        frequency_penalty: 0.25,
        ..SamplingParams::default()
    };
    let mut penalties = Penalties::new(&params, &[0, 1]).unwrap();
    penalties.count(1);
    penalties.count(1);
    penalties.count(2);
    let mut logits = [4.0, -1.0, 6.0, 1.0];
    penalties.apply(&mut logits);
    assert_eq!(logits, [2.0, -2.0 - 0.5 - 0.5, 3.0 - 0.5 - 0.25, 1.0]);
    assert!(Penalties::new(&SamplingParams::default(), &[0]).is_none());
}

#[test]
fn a_repetition_penalty_changes_the_greedy_choice() {
    let params = SamplingParams {
        repetition_penalty: 1.5,
        ..SamplingParams::default()
    };
    let mut sampler = sampler(params, &[]);
    let logits = [1.0f32, 0.9];
    assert_eq!(
        sampler.sample_among(&mut logits.to_vec(), None).unwrap().id,
        0
    );
    assert_eq!(
        sampler.sample_among(&mut logits.to_vec(), None).unwrap().id,
        1
    );
}

#[test]
fn logprobs_are_the_models_own_whatever_the_sampling() {
    let logits = [2.0f32, 1.0, 0.0];
    let total: f32 = logits.iter().map(|l| l.exp()).sum();
    for temperature in [0.0, 5.0] {
        let params = SamplingParams {
            temperature,
            repetition_penalty: 3.0,
            logprobs: Some(2),
            ..SamplingParams::default()
        };
        let sampled = sampler(params, &[0])
            .sample_among(&mut logits.to_vec(), None)
            .unwrap();
        assert_eq!(
            sampled
                .top_logprobs
                .iter()
                .map(|t| t.id)
                .collect::<Vec<_>>(),
            [0, 1]
        );
        for token in &sampled.top_logprobs {
            assert!((token.logprob - (logits[token.id as usize].exp() / total).ln()).abs() < 1e-6);
        }
        let chosen = (logits[sampled.id as usize].exp() / total).ln();
        assert!((sampled.logprob.unwrap() - chosen).abs() < 1e-6);
    }
}

proptest! {
    #[test]
    fn the_same_seed_draws_the_same_tokens(
        logits in prop::collection::vec(-8.0f32..8.0, 1..400),
        temperature in 0.1f32..3.0,
        top_k in 0usize..50,
        top_p in 0.05f32..=1.0,
        min_p in 0.0f32..0.5,
        seed: u64,
    ) {
        let params = SamplingParams { temperature, top_k, top_p, min_p, seed: Some(seed), ..SamplingParams::default() };
        let run = |engine_seed| {
            let mut sampler = SequenceSampler::new(params.clone(), &[], engine_seed);
            (0..5).map(|_| sampler.sample_among(&mut logits.clone(), None).unwrap().id).collect::<Vec<_>>()
        };
        prop_assert_eq!(run(0), run(99));
        let candidates = filter::candidates(&logits, &params).unwrap();
        prop_assert!(!candidates.is_empty() && (top_k == 0 || candidates.len() <= top_k));
        prop_assert!(candidates.windows(2).all(|pair| pair[0].1 >= pair[1].1));
        prop_assert!(run(0).iter().all(|id| candidates.iter().any(|(kept, _)| kept == id)));
    }
}

#[test]
fn typical_sampling_keeps_the_tokens_of_expected_surprise() {
    let kept = |logits: &[f32], typical_p| {
        let params = SamplingParams {
            temperature: 1.0,
            typical_p,
            ..SamplingParams::default()
        };
        let kept = filter::candidates(logits, &params).unwrap();
        kept.into_iter().map(|(id, _)| id).collect::<Vec<_>>()
    };
    // Probabilities 0.4, 0.3, 0.3: entropy 1.09 nats; 0.3 (1.20) is nearer than 0.4 (0.92).
    let logits: Vec<f32> = [0.4f32, 0.3, 0.3].map(f32::ln).to_vec();
    assert_eq!(kept(&logits, 0.2), [1]);
    assert_eq!(kept(&logits, 0.5), [1, 2]);
    assert_eq!(kept(&logits, 0.7), [0, 1, 2]);
    assert_eq!(kept(&[f32::NEG_INFINITY, 0.0], 0.5), [1]);
}

#[test]
fn a_bias_moves_logits_and_forbidden_ids_come_back_later() {
    let logits = [1.0f32, 3.0, 2.0];
    for temperature in [0.0, 0.1] {
        let params = SamplingParams {
            temperature,
            logit_bias: [(1, -100.0), (7, 100.0)].into(),
            logprobs: Some(1),
            ..SamplingParams::default()
        };
        let sampled = sampler(params, &[])
            .sample_among(&mut logits.to_vec(), None)
            .unwrap();
        assert_eq!(sampled.id, 2);
        assert_eq!(sampled.top_logprobs[0].id, 1, "the model's own");
        let params = SamplingParams {
            temperature,
            ..SamplingParams::default()
        };
        let mut sampler = sampler(params, &[]).forbidding(vec![1, 2, 99], 2);
        let ids = [(); 3].map(|()| sampler.sample_among(&mut logits.to_vec(), None).unwrap().id);
        assert_eq!(ids, [0, 0, 1]);
    }
}
