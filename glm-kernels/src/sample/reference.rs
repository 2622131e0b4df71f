//! The scalar reference: everything is sorted, and summed one after the other.

use std::cmp::Ordering;

use super::{LogitEdit, SampleRule, SampledToken};

/// The weight of the most likely token.
const ONE: f32 = (1u64 << 40) as f32;

/// Tokens at this depth and below weigh nothing.
const DEEPEST: f32 = 40.0;

/// Chooses a token of a row, which is edited; `mask` has a bit for each that may be chosen.
pub(super) fn sample(
    logits: &mut [f32],
    rule: &SampleRule,
    edits: &[LogitEdit],
    mask: Option<&[u32]>,
) -> SampledToken {
    let softmax = (rule.logprob || rule.top > 0).then(|| Softmax::new(logits, rule.top));
    let raw: Vec<f32> = edits.iter().map(|edit| logits[edit.id as usize]).collect();
    for edit in edits {
        let logit = &mut logits[edit.id as usize];
        *logit = edit.apply(*logit);
    }
    let id = choose(logits, rule, mask);
    let Some((id, softmax)) = id.zip(softmax) else {
        let (logprob, top) = (None, Vec::new());
        return SampledToken { id, logprob, top };
    };
    let edited = edits.iter().position(|edit| edit.id == id);
    let logit = edited.map_or(logits[id as usize], |edit| raw[edit]);
    SampledToken {
        id: Some(id),
        logprob: rule.logprob.then(|| softmax.logprob(logit)),
        top: softmax.top,
    }
}

fn choose(logits: &[f32], rule: &SampleRule, mask: Option<&[u32]>) -> Option<u32> {
    let is_allowed = |id: u32| mask.is_none_or(|mask| mask[id as usize / 32] >> (id % 32) & 1 == 1);
    let mut tokens: Vec<(u32, f32)> = (0..)
        .zip(logits.iter().copied())
        .filter(|&(id, logit)| is_allowed(id) && !logit.is_nan())
        .collect();
    tokens.sort_by(by_logit);
    let &(best, max) = tokens.first().filter(|(_, max)| max.is_finite())?;
    let units = std::f32::consts::LOG2_E / rule.temperature;
    if units.is_infinite() {
        return Some(best); // no temperature, or next to none
    }
    let weigh = |&(id, logit): &(u32, f32)| {
        let depth = (max - logit) * units;
        let share = (-depth).exp2();
        let weight = if depth < DEEPEST {
            (share * ONE) as u64
        } else {
            0
        };
        (weight > 0).then_some((id, share, weight))
    };
    let mut weighted: Vec<(u32, f32, u64)> = tokens.iter().map_while(weigh).collect();
    if rule.top_k > 0 {
        weighted.truncate(rule.top_k as usize);
    }
    let nucleus = if rule.top_p < 1.0 {
        (f64::from(rule.top_p) * mass(&weighted) as f64) as u64
    } else {
        u64::MAX
    };
    let mut before = 0;
    let kept = weighted
        .iter()
        .enumerate()
        .take_while(|(i, (_, share, weight))| {
            let keep = *i == 0 || (before < nucleus && *share >= rule.min_p);
            before += weight;
            keep
        });
    let kept = kept.count();
    weighted.truncate(kept);
    let target = (u128::from(rule.uniform) * u128::from(mass(&weighted))) >> 64;
    let mut before = 0;
    let drawn = weighted.iter().find(|(_, _, weight)| {
        before += u128::from(*weight);
        target < before
    });
    drawn.map(|(id, _, _)| *id)
}

fn mass(weighted: &[(u32, f32, u64)]) -> u64 {
    weighted.iter().map(|(_, _, weight)| weight).sum()
}

/// What is reported of a row as it is before the edits.
struct Softmax {
    max: f32,
    log_sum: f64,
    /// The most likely tokens.
    top: Vec<(u32, f32)>,
}

impl Softmax {
    fn new(logits: &[f32], top: usize) -> Self {
        let numbers = || {
            (0..)
                .zip(logits.iter().copied())
                .filter(|(_, x)| !x.is_nan())
        };
        let max = numbers().map(|(_, x)| x).fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = numbers().map(|(_, x)| f64::from(x - max).exp()).sum();
        let mut softmax = Self {
            max,
            log_sum: sum.ln(),
            top: Vec::new(),
        };
        if top > 0 {
            let mut tokens: Vec<(u32, f32)> = numbers().collect();
            tokens.sort_by(by_logit);
            let top = tokens.into_iter().take(top);
            softmax.top = top.map(|(id, x)| (id, softmax.logprob(x))).collect();
        }
        softmax
    }

    fn logprob(&self, logit: f32) -> f32 {
        (f64::from(logit - self.max) - self.log_sum) as f32
    }
}

/// Largest first, equal ones by id.
fn by_logit(a: &(u32, f32), b: &(u32, f32)) -> Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}
