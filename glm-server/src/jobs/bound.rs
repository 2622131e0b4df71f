//! [`Bound`]: how many tasks may wait.
//!
//! They are counted once in a second, by [`Jobs::keep`]; what this process has submitted since is added, and may be counted twice for a
//! moment. Processes that share a queue can together exceed the bound by what they submit in a second.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{BATCHES, Jobs};
use crate::queue::{NewTask, StoreError, Submitted, Timestamp};

/// Ends of tasks that the pace is told by.
const LATEST: usize = 32;
/// When to try again, at the earliest and at the latest.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Why a task was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotTaken {
    /// As many wait as may.
    #[error("{max} tasks are waiting already, as many as may: try again later")]
    Full {
        /// How many may.
        max: u64,
        /// When there will be room, going by the pace of late.
        again: Duration,
    },
    /// The queue.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is known of the queue's length, and of its pace.
#[derive(Debug, Default)]
pub(super) struct Bound {
    /// Submitted here since the queue was counted.
    since: AtomicU64,
    ended: Mutex<VecDeque<Instant>>,
}

impl Bound {
    pub(super) fn submitted(&self, tasks: &[NewTask]) {
        let waiting = tasks.iter().filter(|task| task.pool != BATCHES).count();
        self.since.fetch_add(waiting as u64, Ordering::Relaxed);
    }

    /// Submitted here so far: to be read before the queue is counted, and given to [`Self::counted`] afterwards.
    pub(super) fn since(&self) -> u64 {
        self.since.load(Ordering::Relaxed)
    }

    pub(super) fn counted(&self, before: u64) {
        self.since.fetch_sub(before, Ordering::Relaxed);
    }

    /// A task has left the queue.
    pub(super) fn ended(&self, now: Instant) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.push_back(now);
        if ended.len() > LATEST {
            ended.pop_front();
        }
    }

    /// How long it takes until a task more has left.
    fn pause(&self, now: Instant) -> Duration {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let (least, most) = AGAIN;
        let pause = ended.front().map_or(most, |first| {
            now.saturating_duration_since(*first) / u32::try_from(ended.len()).unwrap_or(u32::MAX)
        });
        pause.clamp(least, most)
    }
}

impl Jobs {
    /// Takes a task into the queue if there is room, or finds it there under its idempotency key. It is on the disk when this answers.
    ///
    /// # Errors
    /// [`NotTaken`]; those of the store are those of [`Store::submit`](crate::queue::Store::submit).
    pub(crate) async fn submit_if_room(&self, task: NewTask) -> Result<Submitted, NotTaken> {
        if self.is_full() {
            if task.idempotency_key.is_some()
                && let Some(known) = self.store.repeated(task, Timestamp::now()).await?
            {
                return Ok(known);
            }
            self.metrics.refused();
            return Err(NotTaken::Full {
                max: self.options.max_queued,
                again: self.bound.pause(Instant::now()),
            });
        }
        Ok(self.submit(task).await?)
    }

    /// Whether as many tasks wait as may.
    pub(super) fn is_full(&self) -> bool {
        self.health().queued + self.bound.since() >= self.options.max_queued
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_follows_the_pace() {
        let (bound, start) = (Bound::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(
            bound.pause(start),
            Duration::from_mins(1),
            "nothing is known"
        );
        for second in 0..100 {
            bound.ended(at(second * 5));
        }
        // 32 of them ended in the last 155 s.
        assert_eq!(bound.pause(at(495 + 5)), Duration::from_secs(5));
        // Nothing has ended for long: slower, up to a limit.
        assert_eq!(bound.pause(at(495 + 5 + 320)), Duration::from_secs(15));
        assert_eq!(bound.pause(at(100_000)), Duration::from_mins(1));
    }
}
