//! Repetition (Keskar et al. 2019, "CTRL"), presence and frequency penalties (OpenAI).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::SamplingParams;

/// The tokens a sequence has seen, and what they cost.
#[derive(Debug, Clone)]
pub struct Penalties {
    repetition: f32,
    presence: f32,
    frequency: f32,
    /// Shared by clones: it never changes.
    in_prompt: Arc<HashSet<u32>>,
    /// Occurrences in the answer.
    generated: HashMap<u32, u32>,
}

impl Penalties {
    /// `None` if all penalties are off, so that an ordinary request counts nothing.
    pub fn new(params: &SamplingParams, prompt: &[u32]) -> Option<Self> {
        let off = params.repetition_penalty == 1.0
            && params.presence_penalty == 0.0
            && params.frequency_penalty == 0.0;
        (!off).then(|| Self {
            repetition: params.repetition_penalty,
            presence: params.presence_penalty,
            frequency: params.frequency_penalty,
            in_prompt: Arc::new(prompt.iter().copied().collect()),
            generated: HashMap::new(),
        })
    }

    /// Notes a generated token.
    pub fn count(&mut self, id: u32) {
        *self.generated.entry(id).or_default() += 1;
    }

    /// Applies repetition to every token seen, presence and frequency to every token generated.
    pub fn apply(&self, logits: &mut [f32]) {
        for (id, repetition, penalty) in self.of_tokens() {
            if let Some(logit) = logits.get_mut(id as usize) {
                let repeated = if *logit > 0.0 {
                    *logit / repetition
                } else {
                    *logit * repetition
                };
                *logit = repeated - penalty;
            }
        }
    }

    /// The tokens seen, each once, by what a positive logit is divided and a negative one multiplied, and what is subtracted then.
    pub fn of_tokens(&self) -> impl Iterator<Item = (u32, f32, f32)> {
        let only_in_prompt = self
            .in_prompt
            .iter()
            .filter(|id| !self.generated.contains_key(id));
        let only_in_prompt = only_in_prompt.map(|&id| (id, self.repetition, 0.0));
        let generated = self.generated.iter().map(|(&id, &count)| {
            let penalty = self.presence + self.frequency * count as f32;
            (id, self.repetition, penalty)
        });
        only_in_prompt.chain(generated)
    }
}
