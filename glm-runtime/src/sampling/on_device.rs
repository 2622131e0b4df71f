//! Drawing where the logits are: which requests a graphics processor can draw for, and what becomes of its answer.
//!
//! Its rules are those of `filter`, in whole numbers instead of f64 (see `glm_kernels::sample`), so a seed gives the same token
//! but where a random number falls on the very edge between two.

use std::borrow::Cow;
use std::collections::HashMap;

use glm_kernels::{LogitEdit, MAX_TOP_TOKENS, SampleRule, SampledToken};

use super::{NotFinite, Sampled, SequenceSampler, TokenLogprob, rng};

impl SequenceSampler {
    /// Whether a device can do all that is asked for. It knows no `typical_p`, and reports on few other tokens.
    pub(crate) fn device_can_draw(&self) -> bool {
        let params = &self.params;
        params.typical_p >= 1.0 && params.logprobs.unwrap_or(0) <= MAX_TOP_TOKENS
    }

    /// Whether how a token is drawn depends on which ones were drawn before.
    pub(crate) fn looks_back(&self) -> bool {
        self.penalties.is_some()
    }

    /// How a device draws the token after `before`, which are not [taken](Self::take) yet, from `vocab_size` logits. What it is to change
    /// of them beforehand is appended to `edits`.
    pub(crate) fn device_rule(
        &self,
        before: &[u32],
        vocab_size: usize,
        edits: &mut Vec<LogitEdit>,
    ) -> SampleRule {
        let (params, at) = (&self.params, self.num_drawn + before.len() as u64);
        let start = edits.len() as u32;
        let exists = |edit: &LogitEdit| (edit.id as usize) < vocab_size;
        edits.extend(self.edits(before).into_values().filter(exists));
        SampleRule {
            temperature: params.temperature,
            top_k: u32::try_from(params.top_k).unwrap_or(u32::MAX),
            top_p: params.top_p,
            min_p: params.min_p,
            uniform: rng::bits(self.seed, at),
            mask: None,
            edits: start..edits.len() as u32,
            logprob: params.logprobs.is_some(),
            top: params.logprobs.unwrap_or(0),
        }
    }

    /// What [`Self::adjust`] does to single logits behind `before`.
    fn edits(&self, before: &[u32]) -> HashMap<u32, LogitEdit> {
        fn of(edits: &mut HashMap<u32, LogitEdit>, id: u32) -> &mut LogitEdit {
            edits.entry(id).or_insert(LogitEdit::unchanged(id))
        }
        let mut edits = HashMap::new();
        for (&id, &bias) in &self.params.logit_bias {
            of(&mut edits, id).bias = bias;
        }
        let (forbidden, until) = &self.forbidden;
        if self.num_drawn + (before.len() as u64) < *until {
            for &id in forbidden {
                of(&mut edits, id).bias = f32::NEG_INFINITY;
            }
        }
        if let Some(penalties) = &self.penalties {
            let mut penalties = Cow::Borrowed(penalties);
            before.iter().for_each(|&id| penalties.to_mut().count(id));
            for (id, repetition, penalty) in penalties.of_tokens() {
                let edit = of(&mut edits, id);
                (edit.repetition, edit.penalty) = (repetition, penalty);
            }
        }
        edits
    }

    /// Takes the token that was drawn by [`Self::device_rule`].
    ///
    /// # Errors
    /// [`NotFinite`] if there is none.
    pub(crate) fn take(&mut self, token: SampledToken) -> Result<Sampled, NotFinite> {
        let id = token.id.ok_or(NotFinite)?;
        self.num_drawn += 1;
        if let Some(penalties) = &mut self.penalties {
            penalties.count(id);
        }
        let top = token.top.into_iter();
        Ok(Sampled {
            id,
            logprob: token.logprob,
            top_logprobs: top
                .map(|(id, logprob)| TokenLogprob { id, logprob })
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use glm_kernels::{Device, SampleLists, Tensor, sample};

    use super::*;
    use crate::load::mix;
    use crate::sampling::SamplingParams;

    #[test]
    fn a_device_draws_what_the_sampler_would() {
        let device = Device::cpu(glm_kernels::CpuOptions::default()).unwrap();
        for case in 0..400u64 {
            let random = |i: u64| mix(case << 32 | i);
            let one_of = |i, choices: [f32; 2]| choices[(random(i) % 2) as usize];
            let params = SamplingParams {
                temperature: [0.0, 0.4, 1.0, 1.5][(random(0) % 4) as usize],
                top_k: [0, 0, 3, 40][(random(1) % 4) as usize],
                top_p: [1.0, 0.9, 0.5][(random(2) % 3) as usize],
                min_p: [0.0, 0.0, 0.1][(random(3) % 3) as usize],
                logprobs: [None, Some(0), Some(3)][(random(4) % 3) as usize],
                repetition_penalty: one_of(5, [1.0, 1.3]),
                presence_penalty: one_of(6, [0.0, 0.4]),
                frequency_penalty: one_of(7, [0.0, 0.2]),
                // The last one is of no token.
                logit_bias: [(1, -3.0), (7, 2.0), (999, 5.0)]
                    .into_iter()
                    .take((random(8) % 4) as usize)
                    .collect(),
                ..SamplingParams::default()
            };
            let mut sampler = SequenceSampler::new(params, &[1, 2, 250], random(9))
                .forbidding(vec![7, 9, 999], (random(10) % 3) as usize);
            let row: Vec<f32> = (10..310)
                .map(|i| (random(i) >> 40) as f32 / 2f32.powi(24) * 12.0 - 3.0)
                .collect();
            for _ in 0..4 {
                let mut edits = Vec::new();
                let rule = sampler.device_rule(&[], row.len(), &mut edits);
                let lists = SampleLists {
                    edits,
                    ..SampleLists::default()
                };
                let rules = [rule];
                let mut logits = Tensor::from_f32(&device, &row, &[1, row.len()]).unwrap();
                let mut tokens = sample(&mut logits, &rules, &lists).unwrap();
                let taken = sampler.clone().take(tokens.remove(0)).unwrap();
                let drawn = sampler.sample_among(&mut row.clone(), None).unwrap();
                assert_eq!(taken.id, drawn.id, "{rules:?}");
                let close = |a: f32, b: f32| assert!((a - b).abs() < 1e-4, "{rules:?}: {a} {b}");
                close(taken.logprob.unwrap_or(0.0), drawn.logprob.unwrap_or(0.0));
                assert_eq!(taken.logprob.is_some(), drawn.logprob.is_some());
                assert_eq!(taken.top_logprobs.len(), drawn.top_logprobs.len());
                for (taken, drawn) in taken.top_logprobs.iter().zip(&drawn.top_logprobs) {
                    assert_eq!(taken.id, drawn.id);
                    close(taken.logprob, drawn.logprob);
                }
            }
        }
    }

    #[test]
    fn the_rule_behind_other_tokens_is_that_of_a_sampler_that_took_them() {
        let params = SamplingParams {
            temperature: 1.0,
            frequency_penalty: 0.5,
            ..SamplingParams::default()
        };
        let sampler = SequenceSampler::new(params, &[1], 3).forbidding(vec![5], 2);
        let rule = |sampler: &SequenceSampler, before: &[u32]| {
            let mut edits = Vec::new();
            let rule = sampler.device_rule(before, 10, &mut edits);
            edits.sort_by_key(|edit| edit.id);
            (rule, edits)
        };
        let mut later = sampler.clone();
        for (at, token) in [4, 4, 6].into_iter().enumerate() {
            assert_eq!(rule(&sampler, &[4, 4, 6][..at]), rule(&later, &[]), "{at}");
            later
                .take(SampledToken {
                    id: Some(token),
                    logprob: None,
                    top: vec![],
                })
                .unwrap();
        }
    }

    #[test]
    fn what_a_device_does_not_know_stays_with_the_sampler() {
        let knows = |params| SequenceSampler::new(params, &[1], 1).device_can_draw();
        let plain = SamplingParams::default;
        assert!(knows(plain()));
        assert!(!knows(SamplingParams {
            typical_p: 0.9,
            ..plain()
        }));
        assert!(!knows(SamplingParams {
            logprobs: Some(MAX_TOP_TOKENS + 1),
            ..plain()
        }));
    }
}
