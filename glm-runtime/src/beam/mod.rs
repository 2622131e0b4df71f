//! Beam search: the most likely answer of several that are followed at once, instead of the most likely next token.
//!
//! A search ([`search`]) needs nothing of the engine but the likeliest next tokens of each beam. It asks for them as requests of one token,
//! all beams of a round together, so that they share steps with whatever else runs; what a beam has computed before is in the
//! prefix cache. The answers are those of transformers' `generate(num_beams=…, do_sample=False)`.

mod handle;
mod search;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::request::FinishReason;
use crate::sampling::MAX_LOGPROBS;

/// How a beam search is done.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BeamOptions {
    /// Beams that are followed, and most answers that are found. At least 1; with the ids that end an answer at most
    /// [`MAX_LOGPROBS`].
    pub width: usize,
    /// An answer's score is its log-probability divided by its length to this power: above 0 favours long answers, below 0 short
    /// ones. Default: 1.
    pub length_penalty: f64,
    /// When the search ends.
    pub early_stopping: EarlyStopping,
}

/// When a search ends that has found as many answers as it has beams. `max_tokens` ends it in any case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EarlyStopping {
    /// If the best beam, were it to end now, is no better than the worst of them (transformers' `False`).
    #[default]
    Unlikely,
    /// At once (`True`).
    Full,
    /// If no beam can become better than the worst of them (`"never"`).
    Never,
}

impl Default for BeamOptions {
    fn default() -> Self {
        Self {
            width: 4,
            length_penalty: 1.0,
            early_stopping: EarlyStopping::default(),
        }
    }
}

/// An answer that a search found.
#[derive(Debug, Clone, PartialEq)]
pub struct Beam {
    /// Its tokens, the one that ended it included.
    pub token_ids: Vec<u32>,
    /// Their text, empty without a tokenizer.
    pub text: String,
    /// Natural logarithm of its probability.
    pub logprob: f64,
    /// What it was chosen by: [`Self::logprob`] divided by a power of its length.
    pub score: f64,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

/// Why a beam search is refused.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BeamError {
    /// Too many beams, or none.
    #[error("a beam search follows 1 to {max} beams, found {found}")]
    Width {
        /// Beams asked for.
        found: usize,
        /// The most for this request.
        max: usize,
    },
    /// More answers than beams.
    #[error("a beam search finds as many answers as it has beams, {width}, and not {found}")]
    Answers {
        /// Answers asked for.
        found: usize,
        /// Beams.
        width: usize,
    },
    /// An option that changes what is likely or when an answer ends, in ways that a search does not know.
    #[error("a beam search cannot be combined with `{0}`")]
    Combined(&'static str),
    /// The length penalty is no number between -100 and 100.
    #[error("the length penalty of a beam search must be between -100 and 100, found {0}")]
    LengthPenalty(f64),
    /// Only an engine with a thread of its own can do it.
    #[error("a beam search needs an engine on a thread of its own: `Engine::spawn`")]
    NoThread,
}

impl BeamOptions {
    /// Refuses what cannot be done; `num_ends`: how many ids end an answer.
    fn check(&self, num_ends: usize) -> Result<(), BeamError> {
        let max = MAX_LOGPROBS.saturating_sub(num_ends);
        if !(1..=max).contains(&self.width) {
            let found = self.width;
            return Err(BeamError::Width { found, max });
        }
        if !(-100.0..=100.0).contains(&self.length_penalty) {
            return Err(BeamError::LengthPenalty(self.length_penalty));
        }
        Ok(())
    }
}
