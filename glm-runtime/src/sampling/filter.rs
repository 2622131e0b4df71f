//! Which tokens may be drawn: temperature, then `top_k`, `top_p`, `min_p` and `typical_p`.

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
    // The value first, then its place: both loops without a branch per logit, which the compiler turns into vectors.
    const LANES: usize = 32;
    let mut largest = [f32::NEG_INFINITY; LANES];
    for logits in logits.chunks(LANES) {
        for (largest, &logit) in largest.iter_mut().zip(logits) {
            *largest = if logit > *largest { logit } else { *largest };
        }
    }
    let best = largest.into_iter().fold(f32::NEG_INFINITY, f32::max);
    if !best.is_finite() {
        return None;
    }
    let holds_best = |logits: &[f32]| logits.iter().fold(false, |any, &x| any | (x == best));
    let chunk = logits.chunks(LANES).position(holds_best)?;
    let place = logits[chunk * LANES..].iter().position(|&x| x == best)?;
    u32::try_from(chunk * LANES + place).ok()
}

/// Tokens that may be drawn with their weights relative to the most likely one, most likely first.
/// `None` if the largest logit is not finite.
pub fn candidates(logits: &[f32], params: &SamplingParams) -> Option<Vec<(u32, f64)>> {
    let best = logits[argmax(logits)? as usize];
    let weight = |logit: f32| weight(logit, best, params.temperature);
    // One whose weight is 0 is never drawn: leave it out before sorting.
    let mut kept: Vec<(u32, f32)> = (0..)
        .zip(logits.iter().copied())
        .filter(|&(_, logit)| depth(logit, best, params.temperature) <= DEEPEST)
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
    if params.typical_p < 1.0 {
        keep_typical(&mut weighted, f64::from(params.typical_p));
    }
    Some(weighted)
}

/// How far a logit is below the best, in units of the temperature.
fn depth(logit: f32, best: f32, temperature: f32) -> f64 {
    f64::from(best - logit) / f64::from(temperature)
}

/// Relative to the most likely token.
fn weight(logit: f32, best: f32, temperature: f32) -> f64 {
    (-depth(logit, best, temperature)).exp()
}

/// Deeper ones have the weight 0.
const DEEPEST: f64 = 745.0;

/// Draws a token where nothing but the temperature decides: what [`pick`] takes from all [`candidates`], and they are sorted no further than to
/// the token. `None` if the largest logit is not finite.
pub fn draw_from_all(logits: &[f32], temperature: f32, uniform: f64) -> Option<u32> {
    let mut last = argmax(logits)?;
    let best = logits[last as usize];
    let numbers = logits.iter().filter(|logit| !logit.is_nan());
    let total: f64 = numbers.map(|&logit| weight(logit, best, temperature)).sum();
    let mut left = uniform * total;
    // Band by band, most of which hold little: nearly always the first has the token.
    let (mut above, mut below) = (-1.0, 4.0);
    while above < DEEPEST {
        let in_band = |&(_, logit): &(u32, f32)| {
            let depth = depth(logit, best, temperature);
            above < depth && depth <= below
        };
        let band = (0..).zip(logits.iter().copied()).filter(in_band);
        for_each_sorted(&mut band.collect::<Vec<_>>(), |(id, logit)| {
            left -= weight(logit, best, temperature);
            last = id;
            left >= 0.0
        });
        if left < 0.0 {
            break;
        }
        (above, below) = (below, 2.0 * below);
    }
    // Rounding can leave a remainder of a few ulps after the last one.
    Some(last)
}

/// Keeps the candidates whose surprise `-ln p` is nearest to its expectation, the entropy, until they hold the share
/// `typical_p` of the weight; at least one. Their order stays.
fn keep_typical(candidates: &mut Vec<(u32, f64)>, typical_p: f64) {
    let total: f64 = candidates.iter().map(|(_, weight)| weight).sum();
    let surprise = |weight: f64| -(weight / total).ln();
    let entropy: f64 = candidates
        .iter()
        .map(|&(_, weight)| weight / total * surprise(weight))
        .sum();
    let distance = |at: usize| (surprise(candidates[at].1) - entropy).abs();
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    // Stable: of two equally near ones the likelier comes first.
    order.sort_by(|&a, &b| distance(a).total_cmp(&distance(b)));
    let mut kept = vec![false; candidates.len()];
    let mut mass = 0.0;
    for at in order {
        if mass >= typical_p * total {
            break;
        }
        kept[at] = true;
        mass += candidates[at].1;
    }
    let mut kept = kept.into_iter();
    candidates.retain(|_| kept.next().unwrap_or(false));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::mix;

    #[test]
    fn a_draw_without_limits_is_one_from_all_candidates() {
        for case in 0..600u64 {
            let random = |i: u64| mix(case << 32 | i);
            let len = 1 + random(1) % 3000;
            let spread = [0.01, 1.0, 5.0, 300.0][(random(2) % 4) as usize];
            let logit = |i| match random(i) % 50 {
                0 => f32::NEG_INFINITY,
                1 if case % 7 == 0 => f32::NAN,
                2..5 => spread,
                other => spread * ((random(i) >> 40) as f32 / 2f32.powi(24) + other as f32 % 2.0),
            };
            let logits: Vec<f32> = (10..10 + len).map(logit).collect();
            let temperature = [0.3, 1.0, 2.0][(random(3) % 3) as usize];
            let params = SamplingParams {
                temperature,
                ..SamplingParams::default()
            };
            assert!(!params.has_limits());
            let uniform = match case % 10 {
                0 => 0.0,
                1 => 1.0 - f64::EPSILON / 2.0,
                _ => (random(4) >> 11) as f64 / 2f64.powi(53),
            };
            let all = candidates(&logits, &params);
            let expected = all.map(|all| (pick(&all, uniform), all));
            let drawn = draw_from_all(&logits, temperature, uniform);
            if case % 10 == 1 {
                // The very last one: where rounding ends decides.
                assert!(drawn.is_none_or(|id| logits[id as usize].is_finite()));
            } else {
                assert_eq!(drawn, expected.map(|(id, _)| id), "{case}");
            }
        }
        assert_eq!(draw_from_all(&[f32::NAN; 9], 1.0, 0.5), None);
    }

    /// The definition, one logit after the other.
    fn first_of_the_largest(logits: &[f32]) -> Option<u32> {
        let numbers = (0..).zip(logits).filter(|(_, logit)| !logit.is_nan());
        let best = numbers.reduce(|best, next| if next.1 > best.1 { next } else { best })?;
        best.1.is_finite().then_some(best.0)
    }

    #[test]
    fn the_largest_logit_is_found_wherever_it_is() {
        const VALUES: [f32; 8] = [-1.0, -0.0, 0.0, 2.5, 2.5, f32::NAN, f32::NEG_INFINITY, -7.0];
        for case in 0..2000u64 {
            let len = (mix(case) % 100) as usize;
            let value = |i: usize| VALUES[(mix(case << 20 | i as u64) % 8) as usize];
            let logits: Vec<f32> = (0..len).map(value).collect();
            assert_eq!(argmax(&logits), first_of_the_largest(&logits), "{logits:?}");
        }
        for nothing in [vec![], vec![f32::NAN; 70], vec![f32::NEG_INFINITY; 70]] {
            assert_eq!(argmax(&nothing), None);
        }
        assert_eq!(argmax(&[1.0, f32::INFINITY, 2.0]), None);
    }
}
