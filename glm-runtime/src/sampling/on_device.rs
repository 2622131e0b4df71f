//! Drawing where the logits are: which requests a graphics processor can draw for, and what becomes of its answer.
//!
//! Its rules are those of `filter`, in whole numbers instead of f64 (see `glm_kernels::sample`), so a seed gives the same token
//! but where a random number falls on the very edge between two.

use glm_kernels::{SampleRule, SampledToken};

use super::{NotFinite, Sampled, SequenceSampler, rng};

impl SequenceSampler {
    /// How the token after the next `ahead` ones is drawn, if a device can do it. It knows neither bias nor penalties, nor
    /// `typical_p`, and reports on no other tokens.
    pub(crate) fn device_rule(&self, ahead: u64) -> Option<SampleRule> {
        let (params, at) = (&self.params, self.num_drawn + ahead);
        let (forbidden, until) = &self.forbidden;
        let unchanged = (forbidden.is_empty() || at >= *until)
            && params.logit_bias.is_empty()
            && self.penalties.is_none();
        if !unchanged || params.typical_p < 1.0 || params.logprobs.unwrap_or(0) > 0 {
            return None;
        }
        Some(SampleRule {
            temperature: params.temperature,
            top_k: u32::try_from(params.top_k).unwrap_or(u32::MAX),
            top_p: params.top_p,
            min_p: params.min_p,
            uniform: rng::bits(self.seed, at),
            mask: None,
            logprob: params.logprobs.is_some(),
        })
    }

    /// Takes the token that was drawn by [`Self::device_rule`] of 0.
    ///
    /// # Errors
    /// [`NotFinite`] if there is none.
    pub(crate) fn take(&mut self, token: SampledToken) -> Result<Sampled, NotFinite> {
        let id = token.id.ok_or(NotFinite)?;
        self.num_drawn += 1;
        Ok(Sampled {
            id,
            logprob: token.logprob,
            top_logprobs: Vec::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use glm_kernels::{Device, Indices, Tensor, sample};

    use super::*;
    use crate::load::mix;
    use crate::sampling::SamplingParams;

    #[test]
    fn a_device_draws_what_the_sampler_would() {
        let device = Device::cpu(glm_kernels::CpuOptions::default()).unwrap();
        for case in 0..200u64 {
            let random = |i: u64| mix(case << 32 | i);
            let params = SamplingParams {
                temperature: [0.0, 0.4, 1.0, 1.5][(random(0) % 4) as usize],
                top_k: [0, 0, 3, 40][(random(1) % 4) as usize],
                top_p: [1.0, 0.9, 0.5][(random(2) % 3) as usize],
                min_p: [0.0, 0.0, 0.1][(random(3) % 3) as usize],
                logprobs: [None, Some(0)][(random(4) % 2) as usize],
                ..SamplingParams::default()
            };
            let mut sampler = SequenceSampler::new(params, &[1, 2], random(5));
            let mut row: Vec<f32> = (10..310)
                .map(|i| (random(i) >> 40) as f32 / 2f32.powi(24) * 12.0)
                .collect();
            for _ in 0..2 {
                let rule = sampler.device_rule(0).unwrap();
                let logits = Tensor::from_f32(&device, &row, &[1, row.len()]).unwrap();
                let token = sample(&logits, &[rule], &Indices::default()).unwrap()[0];
                let taken = sampler.clone().take(token).unwrap();
                let drawn = sampler.sample_among(&mut row, None).unwrap();
                assert_eq!(taken.id, drawn.id, "{rule:?}");
                let distance = taken.logprob.unwrap_or(0.0) - drawn.logprob.unwrap_or(0.0);
                assert!(distance.abs() < 1e-4);
                assert_eq!(taken.logprob.is_some(), drawn.logprob.is_some());
            }
        }
    }

    #[test]
    fn what_a_device_does_not_know_stays_with_the_sampler() {
        let rule = |params| SequenceSampler::new(params, &[1], 1).device_rule(0);
        let plain = SamplingParams::default();
        assert!(rule(plain.clone()).is_some());
        for params in [
            SamplingParams {
                typical_p: 0.9,
                ..plain.clone()
            },
            SamplingParams {
                logprobs: Some(2),
                ..plain.clone()
            },
            SamplingParams {
                presence_penalty: 0.5,
                ..plain.clone()
            },
            SamplingParams {
                logit_bias: [(1, 1.0)].into(),
                ..plain.clone()
            },
        ] {
            assert_eq!(rule(params), None);
        }
        let forbidding = SequenceSampler::new(plain, &[1], 1).forbidding(vec![5], 2);
        assert_eq!(forbidding.device_rule(1), None);
        assert!(forbidding.device_rule(2).is_some());
    }
}
