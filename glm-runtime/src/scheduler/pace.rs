//! How much of prompts a step takes on. Everybody whose answer goes on waits for the end of a step, and so does whoever comes while it
//! runs; so steps are bounded by time. What a prompt token takes is learnt from the steps before.
//!
//! A step that only decodes is as short as it can be, and the measure of the others: beside answers, prompts may make it
//! [`TIMES_AS_LONG`]. Then they have most of the machine, and nobody who reads along waits much longer than without them.

use std::time::Duration;

use super::StepPlan;
use crate::costs::{StepCosts, TokenCosts, TokenSeconds};

/// How much longer than one that only decodes a step may be that takes prompts along.
const TIMES_AS_LONG: f64 = 3.0;
/// Nobody reads faster than this.
const ALWAYS_FINE: f64 = 0.1;
/// How much longer still a step may be in which no answer goes on: whoever comes waits for it once, not for every token.
const TIMES_ALONE: f64 = 5.0;
/// A shorter one of that kind spends much of its time on reading weights.
const ALONE_ALWAYS_FINE: f64 = 1.0;
/// Tokens of prompts that every step has room for, whatever they take: otherwise a prompt might never be read.
pub(super) const FLOOR: usize = 8;
/// Most tokens of prompts in a step as long as nothing is known about their time.
pub const UNMEASURED: usize = 64;

/// What was learnt about the time of steps, and the bound that follows.
#[derive(Debug)]
pub(super) struct Pace {
    max_step_time: Option<Duration>,
    /// Of tokens that decode.
    decode: StepCosts,
    prompt: TokenCosts,
}

/// What is left of a step for prompts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    tokens: usize,
    /// Of [`FLOOR`].
    floor: usize,
    /// If there is a bound: how much time, and what a token takes.
    time: Option<(f64, TokenSeconds)>,
}

impl Pace {
    pub(super) fn new(max_step_time: Option<Duration>) -> Self {
        Self {
            max_step_time,
            decode: StepCosts::default(),
            prompt: TokenCosts::default(),
        }
    }

    /// The room for prompts beside `decoding` tokens: `tokens` at most.
    pub(super) fn budget(&self, tokens: usize, decoding: usize) -> Budget {
        let bounded = self.max_step_time != Some(Duration::MAX);
        let costs = self.prompt.estimates();
        let time = costs.map(|costs| (self.seconds_beside(decoding), costs));
        Budget {
            tokens: if bounded && time.is_none() {
                tokens.min(UNMEASURED)
            } else {
                tokens
            },
            floor: FLOOR,
            time: time.filter(|_| bounded),
        }
    }

    /// What prompts may add to a step that decodes so many tokens.
    fn seconds_beside(&self, decoding: usize) -> f64 {
        let decode = self.decode.estimate(decoding.max(1));
        let own = || (TIMES_AS_LONG * decode.unwrap_or(0.0)).max(ALWAYS_FINE);
        let beside = self
            .max_step_time
            .map_or_else(own, |time| time.as_secs_f64());
        if decoding == 0 {
            (TIMES_ALONE * beside).max(ALONE_ALWAYS_FINE)
        } else {
            beside - decode.unwrap_or(0.0)
        }
    }

    /// Learns what a step took.
    pub(super) fn observe(&mut self, plan: &StepPlan, elapsed: Duration) {
        let prompts = plan.chunks.iter().filter(|chunk| chunk.prefill);
        let (mut tokens, mut positions) = (0, 0);
        for chunk in prompts.clone() {
            tokens += chunk.len;
            positions += chunk.len * (chunk.start + chunk.len / 2);
        }
        let decoding = plan.num_tokens() - tokens;
        if tokens == 0 {
            self.decode.observe(decoding, elapsed);
            return;
        }
        let seconds = elapsed.as_secs_f64();
        let decode = match decoding {
            0 => Some(0.0),
            _ => self.decode.estimate(decoding),
        };
        if let (None, Some(costs)) = (decode, self.prompt.estimates()) {
            // So many have never decoded: what the prompts do not take is theirs.
            let expected: f64 = prompts.map(|chunk| costs.of(chunk.start, chunk.len)).sum();
            let rest = Duration::try_from_secs_f64(seconds - expected);
            self.decode.observe(decoding, rest.unwrap_or_default());
        } else {
            let prompts = (seconds - decode.unwrap_or(0.0)).max(0.0);
            self.prompt
                .observe(positions / tokens, prompts / tokens as f64);
        }
    }
}

impl Budget {
    /// How many tokens from this position on there is room for.
    pub(super) fn fits(&self, start: usize) -> usize {
        let in_time = match &self.time {
            Some((seconds, costs)) => {
                // Saturates, whatever the quotient.
                let tokens = |position| (seconds / costs.at(position)) as usize;
                // As if all were where their middle is.
                tokens(start + tokens(start).min(self.tokens) / 2)
            }
            None => self.tokens,
        };
        self.tokens.min(in_time.max(self.floor))
    }

    /// Takes that many, no more than [`Self::fits`].
    pub(super) fn take(&mut self, start: usize, len: usize) {
        self.tokens -= len;
        self.floor = self.floor.saturating_sub(len);
        if let Some((seconds, costs)) = &mut self.time {
            *seconds -= costs.of(start, len);
        }
    }

    /// No more than in either; both are of the same step.
    pub(super) fn min(self, other: Self) -> Self {
        let time = self.time.zip(other.time);
        Self {
            tokens: self.tokens.min(other.tokens),
            floor: self.floor.min(other.floor),
            time: time.map(|((a, costs), (b, _))| (a.min(b), costs)),
        }
    }
}
