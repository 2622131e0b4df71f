//! Keeps the queue in order, and knows how it is.

use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time::sleep;

use super::workers::BEATS;
use super::{JobFailure, Jobs};
use crate::queue::{NewRecord, StoreError, Timestamp};

/// How often to put back what dead workers left, and to look at what waits.
const TURN: Duration = Duration::from_secs(1);
/// How many turns go by between two proofs that the queue can be written. A turn that finds nothing to do writes nothing.
const TURNS_PER_PROOF: u32 = 15;
/// How many turns go by between two looks for what is old.
const TURNS_PER_PURGE: u32 = 60;
/// What is deleted at a time: others wait as long.
const PURGE: usize = 1000;
/// A queue that says nothing for so long is not well.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest that everybody is given to say that they are alive: after an outage, a turn is enough for it.
const LONGEST_TRUCE: Duration = Duration::from_secs(60);

/// How the queue is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Health {
    /// What is wrong.
    pub(crate) reason: Option<String>,
    /// Tasks of this service's model that wait.
    pub(crate) queued: u64,
    /// Tasks of this service's model that run, here or elsewhere.
    pub(crate) running: u64,
    /// How long the first of those that wait has waited, in seconds.
    pub(crate) oldest_queued: Option<u64>,
}

/// What the queue has shown of itself.
#[derive(Debug, Default)]
pub(super) struct Observed(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    queued: u64,
    running: u64,
    oldest_queued: Option<Timestamp>,
    /// The latest failure, unless a write has succeeded since.
    failure: Option<String>,
    /// When it last answered.
    answered: Option<Instant>,
    /// When it was last put in order, by the clock that leases run out by.
    reaped: Option<Timestamp>,
    /// Until then no lease is taken for that of a dead worker.
    truce: Option<Instant>,
}

impl Observed {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn failed(&self, error: &dyn Error) {
        self.lock().failure = Some(error.to_string());
    }

    fn answered(&self) {
        self.lock().answered = Some(Instant::now());
    }

    pub(super) fn reaped(&self, now: Timestamp) {
        self.lock().reaped = Some(now);
    }

    /// Gives everybody the time to say that they are alive.
    pub(super) fn begin_truce(&self, time: Duration) {
        self.lock().truce = Some(Instant::now() + time);
    }

    /// Whether everybody is given the time to say that they are alive: after failures; at the start, since nobody knows what was before; and when the
    /// queue was not put in order for longer than `time`, going by the clock, which may have been set forward, or gone on while the machine slept.
    fn has_truce(&self, now: Timestamp, time: Duration) -> bool {
        let mut seen = self.lock();
        if let Some(end) = seen.truce {
            let is_over = Instant::now() >= end;
            if is_over {
                seen.truce = None;
            }
            return !is_over;
        }
        let is_late = seen.reaped.is_none_or(|last| now > last.after(TURN + time));
        if is_late {
            seen.truce = Some(Instant::now() + time);
        }
        is_late
    }

    fn proved(&self) {
        self.lock().failure = None;
    }
}

impl Jobs {
    /// How the queue is, as of the last second.
    pub(crate) fn health(&self) -> Health {
        let seen = self.observed.lock();
        let silent = seen
            .answered
            .map(|at| at.elapsed())
            .filter(|silent| *silent > PATIENCE);
        let now = Timestamp::now().as_millis();
        Health {
            reason: seen
                .failure
                .clone()
                .or_else(|| silent.map(|silent| format!("no answer for {} s", silent.as_secs()))),
            queued: seen.queued,
            running: seen.running,
            oldest_queued: seen
                .oldest_queued
                .map(|since| (now - since.as_millis()).max(0).unsigned_abs() / 1000),
        }
    }

    /// Keeps the queue in order, for ever. What it does is done by every process that shares the queue.
    pub(crate) async fn keep(self: Arc<Self>, model: String) {
        let mut turn: u32 = 0;
        loop {
            match self.turn(&model, turn).await {
                Ok(()) => self.observed.answered(),
                Err(failure) => self.observed.failed(&failure),
            }
            turn = turn.wrapping_add(1);
            sleep(TURN).await;
        }
    }

    /// Long enough for each worker to have a turn and a heartbeat.
    fn truce(&self) -> Duration {
        (self.options.lease / BEATS).min(LONGEST_TRUCE) + TURN
    }

    /// Puts back what dead workers left, and ends what is over.
    pub(super) async fn reap(&self) -> Result<(), StoreError> {
        let done = self.try_reap(Timestamp::now()).await;
        if done.is_err() {
            self.observed.begin_truce(self.truce());
        }
        done
    }

    /// Leases also run out while the queue cannot be reached, and when the clock is set forward: what runs here is alive all the same, and so may be
    /// what runs elsewhere. Deadlines come whatever happens.
    async fn try_reap(&self, now: Timestamp) -> Result<(), StoreError> {
        self.extend_if_late(now).await?;
        let lapsed = match self.observed.has_truce(now, self.truce()) {
            true => Timestamp::default(),
            false => now,
        };
        let reaped = self.store.reap(lapsed, now).await?;
        self.observed.reaped(now);
        if reaped.requeued > 0 {
            self.wake.send_replace(());
        }
        Ok(())
    }

    pub(super) async fn turn(self: &Arc<Self>, model: &str, turn: u32) -> Result<(), JobFailure> {
        self.reap().await?;
        let now = Timestamp::now();
        let before = self.bound.since();
        let backlog = self.store.backlog(model).await?;
        {
            let mut seen = self.observed.lock();
            seen.queued = backlog.iter().map(|level| level.queued).sum();
            seen.running = backlog.iter().map(|level| level.running).sum();
            seen.oldest_queued = backlog.iter().filter_map(|level| level.oldest_queued).min();
        }
        self.bound.counted(before);
        if turn.is_multiple_of(TURNS_PER_PROOF) {
            self.prove(model, now).await?;
            self.contents.prove().await?;
            self.observed.proved();
        }
        if turn.is_multiple_of(TURNS_PER_PURGE) {
            while self.store.purge(PURGE, now).await? >= PURGE as u64 {}
            self.sweep().await?;
        }
        Ok(())
    }

    /// Writes that this worker is alive.
    async fn prove(&self, model: &str, now: Timestamp) -> Result<(), StoreError> {
        const KIND: &str = "worker";
        let found = self.store.record(KIND, &self.worker, None).await?;
        let record = NewRecord {
            expires: Some(now.after(PATIENCE)),
            ..NewRecord::new(KIND, &*self.worker, "", json!({ "model": model }))
        };
        let version = found.map_or(0, |record| record.version);
        self.store.put_record(record, version, now).await?;
        Ok(())
    }
}
