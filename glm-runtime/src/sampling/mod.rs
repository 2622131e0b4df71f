//! Choosing the next token from a row of logits.
//!
//! The order is bias, penalties, grammar, temperature, `top_k`, `top_p`, `min_p`, `typical_p`, draw. Log-probabilities are those of the
//! model itself: the softmax of the raw logits, before bias, penalties and temperature, so that they mean the same for every
//! request.

mod filter;
mod logprobs;
mod on_device;
mod params;
mod penalties;
mod rng;

pub(crate) use logprobs::{LogProbs, log_sum_exp};
pub use params::{InvalidSampling, MAX_LOGPROBS, SamplingParams};
use penalties::Penalties;

use crate::guide::TokenMask;

/// A token and its log-probability under the model.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct TokenLogprob {
    /// Token id.
    pub id: u32,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

/// A sampled token with what was asked to be reported about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    /// Token id.
    pub id: u32,
    /// Its log-probability, if asked for.
    pub logprob: Option<f32>,
    /// The most likely tokens, most likely first, if asked for.
    pub top_logprobs: Vec<TokenLogprob>,
}

/// No logit was a number, so there is nothing to choose from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotFinite;

/// The sampler of one sequence. What it draws depends on its seed and the number of tokens drawn so far, never on other
/// sequences, so it survives preemption and batching unchanged.
#[derive(Debug, Clone)]
pub struct SequenceSampler {
    params: SamplingParams,
    seed: u64,
    num_drawn: u64,
    penalties: Option<Penalties>,
    /// Ids that cannot be drawn before this many tokens are.
    forbidden: (Vec<u32>, u64),
}

impl SequenceSampler {
    /// A sampler for the continuation of `prompt`; `seed` is used where the parameters bring none.
    pub fn new(params: SamplingParams, prompt: &[u32], seed: u64) -> Self {
        let seed = params.seed.unwrap_or(seed);
        let penalties = Penalties::new(&params, prompt);
        Self {
            params,
            seed,
            num_drawn: 0,
            penalties,
            forbidden: (Vec::new(), 0),
        }
    }

    /// The same, but none of `ids` is among the first `tokens` tokens.
    #[must_use]
    pub fn forbidding(mut self, ids: Vec<u32>, tokens: usize) -> Self {
        self.forbidden = (ids, tokens as u64);
        self
    }

    /// Chooses the next token from `allowed`, which is all tokens if `None`. `logits`: `[V]`; they are changed in place.
    ///
    /// # Errors
    /// [`NotFinite`] if the largest logit is not a finite number.
    pub fn sample_among(
        &mut self,
        logits: &mut [f32],
        allowed: Option<&TokenMask>,
    ) -> Result<Sampled, NotFinite> {
        let report = self
            .params
            .logprobs
            .map(|count| LogProbs::new(logits, count));
        let id = self.choose(logits, allowed)?;
        Ok(match report {
            Some(report) => Sampled {
                id,
                logprob: Some(report.of(id)),
                top_logprobs: report.into_top(),
            },
            None => Sampled {
                id,
                logprob: None,
                top_logprobs: Vec::new(),
            },
        })
    }

    /// As [`Self::sample_among`], and nothing is reported. A clone of a sampler foretells with the logits of another model what it
    /// will draw: both use the same random numbers, so the more alike the models are, the likelier it is right.
    ///
    /// # Errors
    /// As [`Self::sample_among`].
    pub fn choose(
        &mut self,
        logits: &mut [f32],
        allowed: Option<&TokenMask>,
    ) -> Result<u32, NotFinite> {
        let best = filter::argmax(logits).ok_or(NotFinite)?;
        let adjusted = self.adjust(logits);
        // Last, so that no bias brings back what it forbids.
        if let Some(allowed) = allowed {
            allowed.apply(logits);
        }
        let changed = adjusted || allowed.is_some();
        let id = if !self.params.is_greedy() {
            self.draw(logits)?
        } else if changed {
            filter::argmax(logits).ok_or(NotFinite)?
        } else {
            best
        };
        self.num_drawn += 1;
        if let Some(penalties) = &mut self.penalties {
            penalties.count(id);
        }
        Ok(id)
    }

    /// Applies forbidden ids, bias and penalties; false if there are none.
    fn adjust(&self, logits: &mut [f32]) -> bool {
        let (forbidden, until) = &self.forbidden;
        let forbidden = if self.num_drawn < *until {
            &forbidden[..]
        } else {
            &[]
        };
        for &id in forbidden {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit = f32::NEG_INFINITY;
            }
        }
        for (&id, bias) in &self.params.logit_bias {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit += bias;
            }
        }
        if let Some(penalties) = &self.penalties {
            penalties.apply(logits);
        }
        !forbidden.is_empty() || !self.params.logit_bias.is_empty() || self.penalties.is_some()
    }

    fn draw(&self, logits: &[f32]) -> Result<u32, NotFinite> {
        let uniform = rng::uniform(self.seed, self.num_drawn);
        if !self.params.has_limits() {
            let drawn = filter::draw_from_all(logits, self.params.temperature, uniform);
            return drawn.ok_or(NotFinite);
        }
        let candidates = filter::candidates(logits, &self.params).ok_or(NotFinite)?;
        Ok(filter::pick(&candidates, uniform))
    }
}

#[cfg(test)]
mod tests;
