//! Who waits, and in which order.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::SeqId;
use super::sequence::Sequence;

/// A sequence's place in line; the smallest is served first and preempted last.
///
/// A level of priority is worth a fixed time of waiting, so a place is the time of arrival, moved back by that time for
/// each level. It never changes while everybody ages alike, and nobody starves: whoever arrives later than the range of
/// priorities can make up for comes after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    /// In microseconds; may lie before the start of time.
    arrival: i64,
    /// First come, first served among equals.
    id: SeqId,
}

impl Rank {
    pub(super) fn new(id: SeqId, priority: i32, now: Duration, aging: Duration) -> Self {
        let micros = |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
        let bonus = micros(aging).saturating_mul(i64::from(priority));
        Self {
            arrival: micros(now).saturating_sub(bonus),
            id,
        }
    }
}

/// Sequences that hold no blocks, in the order of their ranks.
#[derive(Debug, Default)]
pub(super) struct Queue {
    sequences: BTreeMap<Rank, Sequence>,
    ranks: HashMap<SeqId, Rank>,
    num_tokens: usize,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.sequences.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }

    /// Tokens that these sequences will compute, less what the prefix cache spares them.
    pub(super) fn num_tokens(&self) -> usize {
        self.num_tokens
    }

    pub(super) fn push(&mut self, seq: Sequence) {
        self.num_tokens += seq.tokens.len();
        self.ranks.insert(seq.id, seq.rank);
        self.sequences.insert(seq.rank, seq);
    }

    /// The next to start.
    pub(super) fn first(&self) -> Option<&Sequence> {
        self.sequences.values().next()
    }

    pub(super) fn pop_first(&mut self) -> Option<Sequence> {
        let id = self.first()?.id;
        self.remove(id)
    }

    pub(super) fn remove(&mut self, id: SeqId) -> Option<Sequence> {
        let rank = self.ranks.remove(&id)?;
        let seq = self.sequences.remove(&rank)?;
        self.num_tokens -= seq.tokens.len();
        Some(seq)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Sequence> {
        self.sequences.values_mut()
    }

    /// Takes out everybody who never ran, in order.
    pub(super) fn take_unstarted(&mut self) -> Vec<Sequence> {
        let unstarted = self.sequences.values().filter(|seq| !seq.started);
        let ids: Vec<SeqId> = unstarted.map(|seq| seq.id).collect();
        ids.into_iter().filter_map(|id| self.remove(id)).collect()
    }
}
