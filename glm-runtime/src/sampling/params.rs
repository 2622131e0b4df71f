//! What a request may ask of the sampler, and the ranges that make sense.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How the next token is chosen from the model's distribution.
///
/// The default is greedy: `temperature` 0 and everything else off. The order of operations is bias, penalties, temperature,
/// `top_k`, `top_p`, `min_p`, `typical_p`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SamplingParams {
    /// Divides the logits; 0 takes the most likely token, without randomness. Range: 0 ..= 100.
    pub temperature: f32,
    /// Keeps the `k` most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the most likely tokens until their probabilities sum to `top_p`. Range: 0 < p <= 1; 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens at least `min_p` times as likely as the most likely one. Range: 0 ..= 1; 0 keeps all.
    pub min_p: f32,
    /// Keeps the tokens whose surprise is nearest to the expected one, until their probabilities sum to `typical_p` (locally
    /// typical sampling, Meister et al. 2022, arXiv:2202.00666). Range: 0 < p <= 1; 1 keeps all.
    pub typical_p: f32,
    /// Added to the logits of these token ids: 100 all but forces a token, -100 all but forbids it. Range: -100 ..= 100.
    pub logit_bias: BTreeMap<u32, f32>,
    /// Divides positive and multiplies negative logits of every token in prompt and answer. Range: 0 < r <= 100; 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted once from the logit of every token in the answer so far. Range: -2 ..= 2; 0 is off.
    pub presence_penalty: f32,
    /// Subtracted from a token's logit once per occurrence in the answer so far. Range: -2 ..= 2; 0 is off.
    pub frequency_penalty: f32,
    /// Seed of this request's random numbers; the same seed gives the same tokens whatever else runs. `None`: the engine picks one.
    pub seed: Option<u64>,
    /// `Some(n)`: report the chosen token's log-probability and the `n` most likely tokens. At most [`MAX_LOGPROBS`].
    pub logprobs: Option<usize>,
}

/// Most alternatives per token that [`SamplingParams::logprobs`] may ask for.
pub const MAX_LOGPROBS: usize = 100;

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            logit_bias: BTreeMap::new(),
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: None,
            logprobs: None,
        }
    }
}

/// A sampling parameter outside its range.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{name} must be {allowed}, found {found}")]
pub struct InvalidSampling {
    /// The field's name.
    pub name: &'static str,
    /// The allowed range in words.
    pub allowed: &'static str,
    /// The value given.
    pub found: f64,
}

impl SamplingParams {
    /// Greedy sampling: always the most likely token.
    pub fn greedy() -> Self {
        Self::default()
    }

    /// Whether randomness plays no part.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }

    /// Whether anything keeps unlikely tokens from being drawn.
    pub(super) fn has_limits(&self) -> bool {
        self.top_k > 0 || self.top_p < 1.0 || self.min_p > 0.0 || self.typical_p < 1.0
    }

    /// Checks every field against its range.
    ///
    /// # Errors
    /// [`InvalidSampling`] names the first field outside its range; NaN is outside every range.
    pub fn validate(&self) -> Result<(), InvalidSampling> {
        let check = |ok: bool, name, allowed, found: f32| {
            if ok {
                Ok(())
            } else {
                Err(InvalidSampling {
                    name,
                    allowed,
                    found: f64::from(found),
                })
            }
        };
        check(
            (0.0..=100.0).contains(&self.temperature),
            "temperature",
            "between 0 and 100",
            self.temperature,
        )?;
        check(
            self.top_p > 0.0 && self.top_p <= 1.0,
            "top_p",
            "above 0 and at most 1",
            self.top_p,
        )?;
        check(
            (0.0..=1.0).contains(&self.min_p),
            "min_p",
            "between 0 and 1",
            self.min_p,
        )?;
        check(
            self.typical_p > 0.0 && self.typical_p <= 1.0,
            "typical_p",
            "above 0 and at most 1",
            self.typical_p,
        )?;
        for &bias in self.logit_bias.values() {
            check(
                (-100.0..=100.0).contains(&bias),
                "logit_bias",
                "between -100 and 100",
                bias,
            )?;
        }
        check(
            self.repetition_penalty > 0.0 && self.repetition_penalty <= 100.0,
            "repetition_penalty",
            "above 0 and at most 100",
            self.repetition_penalty,
        )?;
        let signed = -2.0..=2.0;
        check(
            signed.contains(&self.presence_penalty),
            "presence_penalty",
            "between -2 and 2",
            self.presence_penalty,
        )?;
        check(
            signed.contains(&self.frequency_penalty),
            "frequency_penalty",
            "between -2 and 2",
            self.frequency_penalty,
        )?;
        let logprobs = self.logprobs.unwrap_or(0);
        check(
            logprobs <= MAX_LOGPROBS,
            "logprobs",
            "at most 100",
            logprobs as f32,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid_and_greedy() {
        assert_eq!(SamplingParams::default().validate(), Ok(()));
        assert!(SamplingParams::greedy().is_greedy());
    }

    #[test]
    fn every_field_is_checked_and_nan_is_never_in_range() {
        type Set = fn(&mut SamplingParams, f32);
        let set: [(&str, Set); 6] = [
            ("temperature", |p, v| p.temperature = v),
            ("top_p", |p, v| p.top_p = v),
            ("min_p", |p, v| p.min_p = v),
            ("repetition_penalty", |p, v| p.repetition_penalty = v),
            ("presence_penalty", |p, v| p.presence_penalty = v),
            ("frequency_penalty", |p, v| p.frequency_penalty = v),
        ];
        for (name, set) in set {
            for bad in [f32::NAN, f32::INFINITY, -2.5, 101.0] {
                let mut params = SamplingParams::default();
                set(&mut params, bad);
                let error = params.validate().expect_err(name);
                assert_eq!(error.name, name);
                assert!(error.to_string().starts_with(name), "{error}");
            }
        }
        let params = SamplingParams {
            logprobs: Some(MAX_LOGPROBS + 1),
            ..SamplingParams::default()
        };
        assert_eq!(params.validate().map_err(|e| e.name), Err("logprobs"));
    }
}
