//! How many tokens to guess: as many as make the most tokens per second, which may be none.
//!
//! A guess that is right with probability p adds p tokens to what a step yields, and the time that one more token in the step
//! takes to what it costs. The j-th guess in a row counts only if those before it are right, so its chance is `rate^j`. Guesses of
//! all sequences are taken in the order of their chances as long as yield over time, the goodput, grows (Liu et al. 2024,
//! "Optimizing Speculative Decoding for Serving Large Language Models Using Goodput", arXiv:2406.14066). A decode step of one
//! sequence waits for memory, and a few more tokens cost little; the more sequences decode together, the more each token costs, and
//! the fewer guesses pay. Nothing else switches speculation off.

use std::collections::HashMap;
use std::time::Duration;

use crate::costs::StepCosts;
use crate::scheduler::SeqId;

/// Rows of logits in a step that guesses: those that the memory estimate allows for, see
/// [`MemoryEstimate`](crate::MemoryEstimate).
pub(super) const MAX_LOGIT_ROWS: usize = 64;
/// Steps after which a step of this size is made without guesses, so that it is known what that costs.
const REFRESH_AFTER: u64 = 128;
/// What is believed of the first guesses.
const FIRST_RATE: f64 = 0.7;
/// How many guesses such a belief is worth.
const BELIEF: f64 = 2.0;

/// The tokens of a step before anything is guessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PlainStep {
    /// Tokens computed.
    pub(crate) num_tokens: usize,
    /// Tokens it yields: one for each sequence that is sampled.
    pub(crate) yields: usize,
}

/// Decides how many tokens are guessed.
#[derive(Debug, Default)]
pub(super) struct LengthControl {
    /// Of the model, by tokens in the step.
    steps: StepCosts,
    /// Of the drafter, for one more guess of each of so many sequences.
    rounds: StepCosts,
    /// Of sequences that have ended, each of which counts as one guess: what is believed of a new one.
    ended: Acceptance,
    sequences: HashMap<SeqId, History>,
}

/// How the guesses for one sequence fared. What is hard for it says little about others: a text that quotes and one that does not may be
/// under way together.
#[derive(Debug, Clone, Copy, Default)]
struct History {
    recent: Acceptance,
    /// What is believed where nothing recent is known.
    long: Acceptance,
    /// Of all that were checked.
    right: usize,
    checked: usize,
}

impl History {
    fn learn(&mut self, drafted: usize, accepted: usize) {
        let checked = checked(drafted, accepted);
        self.recent.learn(accepted as f64, checked as f64, MEMORY);
        self.long
            .learn(accepted as f64, checked as f64, LONG_MEMORY);
        self.right += accepted;
        self.checked += checked;
    }

    fn fade(&mut self) {
        self.recent.fade(IDLE_MEMORY);
        self.long.fade(IDLE_MEMORY);
    }

    fn rate(&self, belief: f64) -> f64 {
        self.recent.rate(self.long.rate(belief))
    }
}

/// A guess behind a wrong one was not checked.
fn checked(drafted: usize, accepted: usize) -> usize {
    drafted.min(accepted + 1)
}

/// How often guesses were right lately.
#[derive(Debug, Clone, Copy, Default)]
struct Acceptance {
    right: f64,
    checked: f64,
}

impl Acceptance {
    fn learn(&mut self, right: f64, checked: f64, memory: f64) {
        self.fade(memory);
        self.right += right;
        self.checked += checked;
    }

    /// What is not looked at any more becomes uncertain, so that it is tried again some day.
    fn fade(&mut self, memory: f64) {
        self.right *= memory;
        self.checked *= memory;
    }

    /// The chance of the next guess; below 1, so that a longer draft is never as good as a shorter one.
    fn rate(&self, belief: f64) -> f64 {
        ((self.right + BELIEF * belief) / (self.checked + BELIEF)).min(0.99)
    }
}

/// What a draft remembers of those before it, what an ended sequence does, and a step without a draft.
const MEMORY: f64 = 0.9;
const LONG_MEMORY: f64 = 0.98;
const IDLE_MEMORY: f64 = 0.995;

impl LengthControl {
    /// How many tokens to guess for each of `open`, which names sequences and the most that are of use.
    pub(super) fn lengths(&mut self, plain: PlainStep, open: &[(SeqId, usize)]) -> Vec<usize> {
        let lengths = self.best_lengths(plain, open);
        for (&(seq, _), _) in open.iter().zip(&lengths).filter(|(_, len)| **len == 0) {
            if let Some(history) = self.sequences.get_mut(&seq) {
                history.fade();
            }
        }
        if lengths.iter().all(|&len| len == 0) {
            self.ended.fade(IDLE_MEMORY);
        }
        lengths
    }

    fn best_lengths(&self, plain: PlainStep, open: &[(SeqId, usize)]) -> Vec<usize> {
        let mut lengths = vec![0; open.len()];
        let age = self.steps.age(plain.num_tokens);
        let Some(cost) = self.steps.estimate(plain.num_tokens) else {
            return lengths;
        };
        if age.is_none_or(|age| age > REFRESH_AFTER) {
            return lengths;
        }
        let round = self.rounds.estimate(open.len()).unwrap_or(0.0);
        let mut goodput = plain.yields as f64 / cost;
        let (mut yields, mut rounds, mut taken) = (plain.yields as f64, 0, 0);
        let guesses = self.guesses(open);
        let most = MAX_LOGIT_ROWS.saturating_sub(plain.yields);
        for (i, &(chance, nth, _)) in guesses.iter().enumerate().take(most) {
            let Some(cost) = self.steps.estimate(plain.num_tokens + i + 1) else {
                break;
            };
            yields += chance;
            rounds = rounds.max(nth);
            let with = yields / (cost + rounds as f64 * round);
            if with > goodput {
                (goodput, taken) = (with, i + 1);
            }
        }
        for &(_, _, at) in &guesses[..taken] {
            lengths[at] += 1;
        }
        lengths
    }

    /// Every guess that could be made, the likeliest first: its chance, its number in its draft from 1, and whose it is.
    fn guesses(&self, open: &[(SeqId, usize)]) -> Vec<(f64, usize, usize)> {
        let belief = self.ended.rate(FIRST_RATE);
        let mut guesses = Vec::new();
        for (at, &(seq, most)) in open.iter().enumerate() {
            let history = self.sequences.get(&seq).copied().unwrap_or_default();
            let (rate, mut chance) = (history.rate(belief), 1.0);
            guesses.extend((1..=most).map(|nth| {
                chance *= rate;
                (chance, nth, at)
            }));
        }
        // Stable, and chances fall within a draft, so none is taken before the one that it follows.
        guesses.sort_by(|a, b| b.0.total_cmp(&a.0));
        guesses
    }

    /// Learns what a step of `tokens` tokens took.
    pub(super) fn stepped(&mut self, tokens: usize, elapsed: Duration) {
        self.steps.observe(tokens, elapsed);
    }

    /// Learns what it took to guess `rounds` tokens for each of `sequences`.
    pub(super) fn drafted(&mut self, sequences: usize, rounds: usize, elapsed: Duration) {
        if let Ok(rounds @ 1..) = u32::try_from(rounds) {
            self.rounds.observe(sequences, elapsed / rounds);
        }
    }

    /// Learns how many of a sequence's guesses were right.
    pub(super) fn verified(&mut self, seq: SeqId, drafted: usize, accepted: usize) {
        let history = self.sequences.entry(seq).or_default();
        history.learn(drafted, accepted);
    }

    /// Whether nothing is known of any sequence.
    pub(super) fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }

    /// Forgets a sequence.
    pub(super) fn forget(&mut self, seq: SeqId) {
        let history = self.sequences.remove(&seq);
        if let Some(history) = history.filter(|history| history.checked > 0) {
            let share = history.right as f64 / history.checked as f64;
            self.ended.learn(share, 1.0, LONG_MEMORY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 8;

    /// A machine and a text, both made up: what a step of so many tokens takes, and how many guesses in a row are right.
    struct World {
        control: LengthControl,
        millis: fn(usize) -> f64,
        round_millis: f64,
        right: usize,
    }

    impl World {
        fn new(millis: fn(usize) -> f64, right: usize) -> Self {
            Self {
                control: LengthControl::default(),
                millis,
                round_millis: 0.0,
                right,
            }
        }

        /// One step of `batch` sequences; returns how many tokens were guessed for each.
        fn step(&mut self, batch: usize) -> Vec<usize> {
            let open: Vec<_> = (0..batch as u64).map(|id| (SeqId(id), MOST)).collect();
            let plain = PlainStep {
                num_tokens: batch,
                yields: batch,
            };
            let lengths = self.control.lengths(plain, &open);
            let time = |millis: f64| Duration::from_secs_f64(millis / 1e3);
            let rounds = lengths.iter().copied().max().unwrap_or(0);
            self.control
                .drafted(batch, rounds, time(self.round_millis * rounds as f64));
            for (&(seq, _), &len) in open.iter().zip(&lengths).filter(|(_, len)| **len > 0) {
                self.control.verified(seq, len, self.right.min(len));
            }
            let tokens = batch + lengths.iter().sum::<usize>();
            self.control.stepped(tokens, time((self.millis)(tokens)));
            lengths
        }

        /// Tokens guessed per sequence and step, once everything is known.
        fn settled(&mut self, batch: usize) -> f64 {
            (0..100).for_each(|_| drop(self.step(batch)));
            let guessed: usize = (0..100).flat_map(|_| self.step(batch)).sum();
            guessed as f64 / 100.0 / batch as f64
        }
    }

    /// Up to 16 tokens cost as much as one, from there on in proportion.
    fn waits_for_memory(tokens: usize) -> f64 {
        50.0 * (tokens as f64 / 16.0).max(1.0)
    }

    fn every_token_costs(tokens: usize) -> f64 {
        50.0 * tokens as f64
    }

    #[test]
    fn guesses_that_cost_nothing_are_made_and_those_that_cost_a_step_are_not() {
        let free = World::new(waits_for_memory, MOST).settled(1);
        assert!(free > 7.5, "{free}");
        // Half right: four of eight, so the rate is 4 in 5.
        let half = World::new(waits_for_memory, 4).settled(1);
        assert!(half > 7.5, "nothing is lost by a wrong one: {half}");
        let dear = World::new(every_token_costs, MOST).settled(1);
        assert!(dear < 0.3, "{dear}");
    }

    #[test]
    fn guesses_that_are_never_right_end_and_are_tried_again_now_and_then() {
        let mut world = World::new(|tokens| 50.0 + 3.0 * tokens as f64, 0);
        let tried = world.settled(1);
        assert!(tried < 0.2, "{tried}");
        world.right = MOST;
        (0..2000).for_each(|_| drop(world.step(1)));
        let again = world.settled(1);
        assert!(again > 6.0, "the text has become easy: {again}");
    }

    #[test]
    fn fewer_are_made_the_more_sequences_decode_together() {
        // Rates of 3 in 4.
        let guessed = |batch| World::new(waits_for_memory, 3).settled(batch);
        let few = [1, 4, 8].map(guessed);
        assert!(few.is_sorted_by(|a, b| a > b), "{few:?}");
        assert!(few[0] > 7.0 && few[2] > 0.5, "{few:?}");
        let many = [16, 32, 64, 200].map(guessed);
        assert!(many.iter().all(|&len| len < 0.1), "{many:?}");
    }

    #[test]
    fn a_drafter_that_is_too_slow_is_not_asked() {
        let length = |round_millis| {
            let mut world = World::new(waits_for_memory, 3);
            world.round_millis = round_millis;
            world.settled(1)
        };
        let (free, fast, slow) = (length(0.0), length(10.0), length(60.0));
        assert!(
            free > fast && fast > 1.0 && slow < 0.3,
            "{free} {fast} {slow}"
        );
    }

    #[test]
    fn where_guesses_fail_everybody_new_ones_are_not_guessed_for() {
        let mut control = LengthControl::default();
        for tokens in [1, 2, 4, 8, 16] {
            control.stepped(tokens, Duration::from_millis(50 + 10 * tokens as u64));
        }
        let plain = PlainStep {
            num_tokens: 1,
            yields: 1,
        };
        let guessed = |control: &mut LengthControl, id| control.lengths(plain, &[(id, MOST)])[0];
        assert!(guessed(&mut control, SeqId(0)) > 1);
        for id in (0..40).map(SeqId) {
            control.verified(id, 4, 0);
            control.forget(id);
        }
        assert_eq!(guessed(&mut control, SeqId(40)), 0);
        let steps = (0..2000).position(|_| guessed(&mut control, SeqId(41)) > 0);
        assert!(steps.is_some_and(|steps| steps > 10), "some day: {steps:?}");
    }

    #[test]
    fn what_is_hard_for_one_sequence_is_not_held_against_another() {
        let mut control = LengthControl::default();
        let [easy, hard] = [SeqId(0), SeqId(1)];
        let millis = Duration::from_millis;
        for tokens in [2, 4, 8, 16, 32] {
            control.stepped(tokens, millis(48 + 2 * tokens as u64));
        }
        for _ in 0..20 {
            control.verified(easy, 4, 4);
            control.verified(hard, 4, 0);
        }
        let plain = PlainStep {
            num_tokens: 2,
            yields: 2,
        };
        let lengths = control.lengths(plain, &[(easy, MOST), (hard, MOST)]);
        assert!(lengths[0] > 5 && lengths[1] <= 1, "{lengths:?}");
        // Nor does it spoil the beginning of one that comes now, or after it.
        let new = SeqId(2);
        let lengths = control.lengths(plain, &[(hard, MOST), (new, MOST)]);
        assert!(lengths[0] <= 1 && lengths[1] > 2, "{lengths:?}");
        control.forget(hard);
        let lengths = control.lengths(plain, &[(easy, 0), (new, MOST)]);
        assert!(lengths[1] > 1, "{lengths:?}");
        assert_eq!(control.lengths(plain, &[(easy, 2)]), [2]);
        assert_eq!(control.lengths(plain, &[(easy, 0)]), [0]);
    }
}
