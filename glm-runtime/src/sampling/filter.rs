//! Which tokens may be drawn: temperature, then `top_k`, `top_p` and `min_p`.

use std::cmp::Ordering;

use super::SamplingParams;

/// Orders by logit, largest first; equal logits by id, so that the order never depends on the algorithm. NaN comes last.
pub fn by_logit(a: &(u32, f32), b: &(u32, f32)) -> Ordering {
    let key = |logit: f32| {
        if logit.is_nan() {
            f32::NEG_INFINITY
        } else {
            logit
        }
    };
    key(b.1).total_cmp(&key(a.1)).then(a.0.cmp(&b.0))
}

/// The most likely token, the smallest id among equals; `None` if the largest logit is not finite.
pub fn argmax(logits: &[f32]) -> Option<u32> {
    let mut best: Option<(u32, f32)> = None;
    for (id, &logit) in (0..).zip(logits) {
        if best.is_none_or(|(_, largest)| logit > largest) && !logit.is_nan() {
            best = Some((id, logit));
        }
    }
    best.filter(|(_, logit)| logit.is_finite())
        .map(|(id, _)| id)
}

/// Tokens that may be drawn with their weights relative to the most likely one, most likely first.
/// `None` if the largest logit is not finite.
pub fn candidates(logits: &[f32], params: &SamplingParams) -> Option<Vec<(u32, f64)>> {
    let best = logits[argmax(logits)? as usize];
    let weight = |logit: f32| (f64::from(logit - best) / f64::from(params.temperature)).exp();
    // A token below `min_p` never survives, and one whose weight is 0 is never drawn: leave them out before sorting.
    let mut kept: Vec<(u32, f32)> = (0..)
        .zip(logits.iter().copied())
        .filter(|&(_, l)| weight(l) > 0.0)
        .collect();
    if params.top_k > 0 && params.top_k < kept.len() {
        kept.select_nth_unstable_by(params.top_k - 1, by_logit);
        kept.truncate(params.top_k);
    }
    let total: f64 = kept.iter().map(|&(_, logit)| weight(logit)).sum();
    let nucleus = f64::from(params.top_p) * total;
    let mut weighted = Vec::new();
    let mut mass = 0.0;
    for_each_sorted(&mut kept, |(id, logit)| {
        let weight = weight(logit);
        let keep = weighted.is_empty() || (mass < nucleus && weight >= f64::from(params.min_p));
        if keep {
            weighted.push((id, weight));
            mass += weight;
        }
        keep
    });
    Some(weighted)
}

/// Visits `kept` in order until `visit` says stop. Sorts a head that doubles as needed: a nucleus is usually a handful of
/// tokens out of a hundred thousand.
fn for_each_sorted(kept: &mut [(u32, f32)], mut visit: impl FnMut((u32, f32)) -> bool) {
    const FIRST_HEAD: usize = 256;
    let (mut rest, mut head) = (kept, FIRST_HEAD);
    while !rest.is_empty() {
        let len = head.min(rest.len());
        if len < rest.len() {
            rest.select_nth_unstable_by(len - 1, by_logit);
        }
        let (sorted, tail) = rest.split_at_mut(len);
        sorted.sort_unstable_by(by_logit);
        if !sorted.iter().all(|&candidate| visit(candidate)) {
            return;
        }
        (rest, head) = (tail, head * 2);
    }
}

/// The candidate at the fraction `uniform` of the total weight.
///
/// # Panics
/// If there is no candidate; [`candidates`] returns at least the most likely token.
pub fn pick(candidates: &[(u32, f64)], uniform: f64) -> u32 {
    let total: f64 = candidates.iter().map(|(_, weight)| weight).sum();
    let mut left = uniform * total;
    for &(id, weight) in candidates {
        left -= weight;
        if left < 0.0 {
            return id;
        }
    }
    // Rounding can leave a remainder of a few ulps after the last candidate.
    candidates.last().expect("at least one candidate").0
}
