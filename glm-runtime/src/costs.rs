//! What steps cost, learnt from the steps that were made. Times are passed in: nothing here has a clock.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Times that count: their median is not moved by a step that was disturbed.
const KEPT: usize = 5;
/// Steps after which a time is old: what steps cost changes with the length of the contexts and with the machine's other work.
const FORGOTTEN_AFTER: u64 = 1024;
/// How many times as many tokens as were ever measured are believed to cost no more, so that they are tried.
const BELIEVED: usize = 2;

/// Seconds of a step by its number of tokens.
#[derive(Debug, Default)]
pub(crate) struct StepCosts {
    buckets: BTreeMap<usize, Bucket>,
    /// Times observed.
    now: u64,
}

#[derive(Debug, Default)]
struct Bucket {
    seconds: VecDeque<f64>,
    seen: u64,
}

impl Bucket {
    fn push(&mut self, seconds: f64) {
        self.seconds.truncate(KEPT - 1);
        self.seconds.push_front(seconds);
    }

    fn median(&self) -> f64 {
        let mut sorted = [f64::INFINITY; KEPT];
        for (to, &seconds) in sorted.iter_mut().zip(&self.seconds) {
            *to = seconds;
        }
        sorted.sort_by(f64::total_cmp);
        sorted[self.seconds.len() / 2]
    }
}

impl StepCosts {
    /// Learns from a step of `tokens` tokens.
    pub(crate) fn observe(&mut self, tokens: usize, elapsed: Duration) {
        self.now += 1;
        let bucket = self.buckets.entry(size_class(tokens)).or_default();
        if self.now - bucket.seen > FORGOTTEN_AFTER {
            bucket.seconds.clear();
        }
        bucket.seen = self.now;
        bucket.push(elapsed.as_secs_f64());
    }

    /// How long ago a step of about `tokens` tokens was seen, in steps.
    pub(crate) fn age(&self, tokens: usize) -> Option<u64> {
        let bucket = self.buckets.get(&size_class(tokens))?;
        Some(self.now - bucket.seen)
    }

    /// Seconds that a step of `tokens` tokens would take: between two sizes that were seen in proportion, and a little above the
    /// largest what that one took. `None` further above, or if nothing was seen.
    pub(crate) fn estimate(&self, tokens: usize) -> Option<f64> {
        let fresh = |(_, bucket): &(&usize, &Bucket)| self.now - bucket.seen <= FORGOTTEN_AFTER;
        let class = size_class(tokens);
        let below = self.buckets.range(..=class).rev().find(fresh);
        let above = self.buckets.range(class..).find(fresh);
        match (below, above) {
            (Some((&low, least)), Some((&high, most))) if low < high => {
                let share = (class - low) as f64 / (high - low) as f64;
                let (least, most) = (least.median(), most.median());
                Some(least + share * (most - least))
            }
            (Some((&low, least)), _) => (tokens <= BELIEVED * low).then(|| least.median()),
            (None, Some((_, most))) => Some(most.median()),
            (None, None) => None,
        }
    }
}

/// Positions that cost about the same: those up to the first of these, and then twice as many each time. In wider ones a small model's
/// attention, which rises from nothing, would be far off what was seen.
const FIRST_DEPTH: usize = 128;
const DEPTHS: usize = 16;
/// The least distance over which a rise is measured.
const LEAST_BETWEEN: f64 = 128.0;

/// Seconds of one prompt token by its position, on which attention depends.
#[derive(Debug, Default)]
pub(crate) struct TokenCosts([Depth; DEPTHS]);

#[derive(Debug, Default)]
struct Depth {
    times: Bucket,
    /// About where they were seen.
    position: f64,
}

impl Depth {
    /// `None` if nothing was seen.
    fn known(&self) -> Option<Known> {
        (!self.times.seconds.is_empty()).then(|| Known {
            position: self.position,
            seconds: self.times.median(),
            slope: 0.0,
        })
    }
}

/// What [`TokenCosts`] knew at some time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TokenSeconds([Known; DEPTHS]);

#[derive(Debug, Clone, Copy)]
struct Known {
    position: f64,
    seconds: f64,
    /// Seconds more for each position further on, going by what was seen before it.
    slope: f64,
}

impl TokenCosts {
    /// Learns that a token at this position took so many seconds.
    pub(crate) fn observe(&mut self, position: usize, seconds: f64) {
        let depth = &mut self.0[depth_class(position)];
        let position = position as f64;
        depth.position = match depth.known() {
            None => position,
            Some(known) => f64::midpoint(known.position, position),
        };
        depth.times.push(seconds);
    }

    /// Seconds everywhere: as at the nearest position that was seen, a lower one first, and beyond it more by as much as they rose
    /// up to there. `None` if none was seen.
    pub(crate) fn estimates(&self) -> Option<TokenSeconds> {
        let mut lower = self.0.iter().find_map(Depth::known)?;
        Some(TokenSeconds(std::array::from_fn(|class| {
            if let Some(known) = self.0[class].known() {
                // Two that are close to each other say nothing of what is far.
                let between = (known.position - lower.position).max(LEAST_BETWEEN);
                let slope = ((known.seconds - lower.seconds) / between).max(0.0);
                lower = Known { slope, ..known };
            }
            lower
        })))
    }
}

impl TokenSeconds {
    /// Seconds of a token at this position. As far again as something was seen, they go on rising.
    pub(crate) fn at(&self, position: usize) -> f64 {
        let known = self.0[depth_class(position)];
        let beyond = (position as f64 - known.position).clamp(0.0, known.position);
        known.seconds + known.slope * beyond
    }

    /// Seconds of `len` tokens from this position on.
    pub(crate) fn of(&self, start: usize, len: usize) -> f64 {
        self.at(start + len / 2) * len as f64
    }
}

fn depth_class(position: usize) -> usize {
    let doublings = (position / FIRST_DEPTH + 1).ilog2() as usize;
    doublings.min(DEPTHS - 1)
}

/// Numbers of tokens that cost about the same, by the smallest of them: each up to 16, then eight classes to a doubling.
fn size_class(tokens: usize) -> usize {
    let dropped = tokens.max(1).ilog2().saturating_sub(3);
    tokens >> dropped << dropped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn costs(seen: &[(usize, u64)]) -> StepCosts {
        let mut costs = StepCosts::default();
        for &(tokens, millis) in seen {
            costs.observe(tokens, Duration::from_millis(millis));
        }
        costs
    }

    #[test]
    fn between_what_was_seen_costs_are_in_proportion() {
        let costs = costs(&[(1, 10), (5, 30)]);
        let millis = |tokens| {
            costs
                .estimate(tokens)
                .map(|seconds| (seconds * 1e3).round())
        };
        assert_eq!(millis(1), Some(10.0));
        assert_eq!(millis(3), Some(20.0));
        assert_eq!(millis(10), Some(30.0), "to be tried");
        assert_eq!(millis(11), None);
        assert_eq!(StepCosts::default().estimate(1), None);
        assert_eq!(
            (costs.age(1), costs.age(5), costs.age(2)),
            (Some(1), Some(0), None)
        );
    }

    #[test]
    fn one_disturbed_step_changes_nothing_and_old_ones_are_forgotten() {
        let mut costs = costs(&[(1, 10), (1, 10), (1, 500), (4, 9000)]);
        assert_eq!(costs.estimate(1), Some(0.01));
        for _ in 0..=FORGOTTEN_AFTER {
            costs.observe(1, Duration::from_millis(20));
        }
        assert_eq!(costs.estimate(1), Some(0.02));
        assert_eq!(
            costs.estimate(2),
            Some(0.02),
            "the slow one is too long ago"
        );
    }

    #[test]
    fn a_prompt_token_costs_what_those_near_it_did() {
        let mut costs = TokenCosts::default();
        assert!(costs.estimates().is_none());
        let at = |costs: &TokenCosts, positions: [usize; 5]| {
            positions.map(|position| costs.estimates().unwrap().at(position))
        };
        costs.observe(2000, 0.02);
        assert_eq!(at(&costs, [0, 1, 2000, 9000, usize::MAX]), [0.02; 5]);
        costs.observe(0, 0.01);
        assert_eq!(
            at(&costs, [0, 511, 1919, 1920, 9000]),
            [0.01, 0.01, 0.01, 0.02, 0.03],
            "twice as far as anything was seen, and no more"
        );
        (0..2).for_each(|_| costs.observe(100, 0.01));
        costs.observe(100, 30.0);
        assert_eq!(at(&costs, [0; 5]), [0.01; 5], "that was something else");
        (0..3).for_each(|_| costs.observe(100, 0.008));
        assert_eq!(at(&costs, [0; 5]), [0.008; 5]);
    }

    #[test]
    fn further_on_a_prompt_token_costs_more_as_it_did_before() {
        let mut costs = TokenCosts::default();
        costs.observe(200, 0.002);
        costs.observe(700, 0.003);
        let at = |position| (costs.estimates().unwrap().at(position) * 1e6).round();
        assert_eq!([0, 200, 383, 384, 700].map(at), [2e3, 2e3, 2e3, 3e3, 3e3]);
        assert_eq!([1200, 1400, 50_000].map(at), [4e3, 4.4e3, 4.4e3]);
        // No rise is made out of two that are close together, and none falls.
        let mut close = TokenCosts::default();
        close.observe(382, 0.001);
        close.observe(386, 0.002);
        close.observe(2000, 0.001);
        let at = |position| (close.estimates().unwrap().at(position) * 1e6).round();
        assert_eq!([386, 514, 2000, 9000].map(at), [2e3, 3e3, 1e3, 1e3]);
    }

    #[test]
    fn size_classes_are_fine_where_it_matters() {
        let classes: Vec<usize> = (1..=17).map(size_class).collect();
        assert_eq!(classes, [&(1..=16).collect::<Vec<_>>()[..], &[16]].concat());
        assert_eq!(
            (size_class(511), size_class(512), size_class(0)),
            (480, 512, 0)
        );
    }
}
