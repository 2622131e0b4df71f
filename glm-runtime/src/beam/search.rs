//! [`Search`]: which beams go on, which answers are kept, and when it is over. It knows tokens and log-probabilities only.

use super::{BeamOptions, EarlyStopping};
use crate::request::FinishReason;
use crate::sampling::TokenLogprob;

/// The beginning of an answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Hypothesis {
    /// With the likeliest tokens that each was chosen from.
    pub(super) tokens: Vec<Chosen>,
    pub(super) logprob: f64,
}

/// A token of a hypothesis.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Chosen {
    pub(super) id: u32,
    pub(super) logprob: f32,
    /// Beam of the round that it continues; its candidates are the alternatives.
    pub(super) from: usize,
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Found {
    pub(super) hypothesis: Hypothesis,
    pub(super) score: f64,
    pub(super) finish_reason: FinishReason,
}

/// When answers end.
#[derive(Debug, Clone, Default)]
pub(super) struct Ends {
    pub(super) ids: Vec<u32>,
    pub(super) min_tokens: usize,
    pub(super) max_tokens: usize,
}

#[derive(Debug)]
pub(super) struct Search {
    options: BeamOptions,
    ends: Ends,
    /// Best first, all of one length; at the beginning one.
    running: Vec<Hypothesis>,
    /// Best first, at most as many as there are beams.
    found: Vec<Found>,
}

/// One way to go on.
struct Candidate {
    beam: usize,
    token: TokenLogprob,
    logprob: f64,
}

impl Search {
    pub(super) fn new(options: BeamOptions, ends: Ends) -> Self {
        Self {
            options,
            ends,
            running: vec![Hypothesis::default()],
            found: Vec::new(),
        }
    }

    /// How many of the likeliest tokens of each beam [`Self::advance`] has to know: all beams may go on from one of them.
    pub(super) fn num_candidates(&self) -> usize {
        self.options.width + self.ends.ids.len()
    }

    /// The beams that go on.
    pub(super) fn running(&self) -> &[Hypothesis] {
        &self.running
    }

    /// One more round: `next` has the likeliest tokens of each of [`Self::running`]. False when the search is over.
    pub(super) fn advance(&mut self, next: &[Vec<TokenLogprob>]) -> bool {
        let len = self.running.first().map_or(0, |beam| beam.tokens.len()) + 1;
        let candidates = self.candidates(next, len);
        let width = self.options.width;
        let at_end = len >= self.ends.max_tokens;
        let mut running = Vec::with_capacity(width);
        for (rank, candidate) in candidates.iter().enumerate() {
            let ends = self.ends.ids.contains(&candidate.token.id);
            if !ends && !at_end {
                if running.len() < width {
                    running.push(self.extended(candidate));
                }
            } else if rank < width {
                // One that ends and is not among the best would not have gone on either.
                let reason = if ends {
                    FinishReason::Stop
                } else {
                    FinishReason::Length
                };
                self.keep(candidate, len, reason);
            }
        }
        self.found.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.found.truncate(width);
        self.running = running;
        self.goes_on(len)
    }

    /// All ways to go on, best first.
    fn candidates(&self, next: &[Vec<TokenLogprob>], len: usize) -> Vec<Candidate> {
        let mut candidates = Vec::new();
        for (beam, (hypothesis, tokens)) in self.running.iter().zip(next).enumerate() {
            let may_end = len > self.ends.min_tokens;
            let allowed = tokens.iter().filter(|token| {
                token.logprob.is_finite() && (may_end || !self.ends.ids.contains(&token.id))
            });
            candidates.extend(allowed.map(|&token| Candidate {
                beam,
                token,
                logprob: hypothesis.logprob + f64::from(token.logprob),
            }));
        }
        // Stable: equal ones stay in the order of their beams and of their tokens.
        candidates.sort_by(|a, b| b.logprob.total_cmp(&a.logprob));
        candidates
    }

    fn extended(&self, candidate: &Candidate) -> Hypothesis {
        let mut hypothesis = self.running[candidate.beam].clone();
        hypothesis.tokens.push(Chosen {
            id: candidate.token.id,
            logprob: candidate.token.logprob,
            from: candidate.beam,
        });
        hypothesis.logprob = candidate.logprob;
        hypothesis
    }

    fn keep(&mut self, candidate: &Candidate, len: usize, finish_reason: FinishReason) {
        let score = self.score(candidate.logprob, len);
        let hypothesis = self.extended(candidate);
        self.found.push(Found {
            hypothesis,
            score,
            finish_reason,
        });
    }

    fn score(&self, logprob: f64, len: usize) -> f64 {
        logprob / (len as f64).powf(self.options.length_penalty)
    }

    /// Whether the beams, `len` long, are worth another round.
    fn goes_on(&self, len: usize) -> bool {
        let Some(best) = self.running.first() else {
            return false;
        };
        let full = self.found.len() == self.options.width;
        let Some(worst) = self.found.last().filter(|_| full) else {
            return true;
        };
        let can_be = match self.options.early_stopping {
            EarlyStopping::Full => return false,
            EarlyStopping::Never if self.options.length_penalty > 0.0 => self.ends.max_tokens,
            _ => len,
        };
        self.score(best.logprob, can_be) > worst.score
    }

    /// The answers, best first; at least one if a round was made.
    pub(super) fn into_found(self) -> Vec<Found> {
        self.found
    }
}
