//! Claims tasks, has them run, and reports what came of them.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::{BATCHES, Jobs, Runner};
use crate::openai::ApiError;
use crate::queue::{Claimed, ErrorKind, Lease, Pulse, Report, StoreError, TaskId, Timestamp};

/// How often to look for tasks that other processes have submitted, or whose time has come.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How long to leave an engine alone that has no place for a task.
const WHEN_FULL: Duration = Duration::from_millis(250);
/// Heartbeats per lease: two may be lost.
pub(super) const BEATS: u32 = 3;

/// Why a task is stopped before it has a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// Somebody asked for its end.
    Cancelled,
    /// It belongs to somebody else, or has come to its end.
    Lost,
    /// The service stops.
    HandedBack,
}

/// A task that runs here.
#[derive(Debug)]
struct Attempt {
    lease: Lease,
    group: Option<String>,
    stop: oneshot::Sender<Stop>,
}

/// Tasks that this process has leases for.
#[derive(Debug, Default)]
pub(super) struct Held {
    attempts: Mutex<HashMap<TaskId, Attempt>>,
    /// When all of them were last extended, in milliseconds since 1970.
    extended: AtomicI64,
}

impl Held {
    fn lock(&self) -> MutexGuard<'_, HashMap<TaskId, Attempt>> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, task: &Claimed) -> oneshot::Receiver<Stop> {
        let (stop, stopped) = oneshot::channel();
        let attempt = Attempt {
            lease: task.lease,
            group: task.info.group.clone(),
            stop,
        };
        self.lock().insert(task.info.id, attempt);
        stopped
    }

    pub(super) fn cancel_group(&self, group: &str) {
        let mut held = self.lock();
        let of_group: Vec<_> = held
            .extract_if(|_, its| its.group.as_deref() == Some(group))
            .collect();
        drop(held);
        for (_, its) in of_group {
            let _ = its.stop.send(Stop::Cancelled);
        }
    }

    /// Not one of a later lease.
    fn remove(&self, lease: Lease) -> Option<Attempt> {
        let mut held = self.lock();
        match held.get(&lease.task) {
            Some(its) if its.lease == lease => held.remove(&lease.task),
            _ => None,
        }
    }

    fn holds(&self, lease: Lease) -> bool {
        let held = self.lock();
        held.get(&lease.task).is_some_and(|its| its.lease == lease)
    }

    fn leases(&self) -> Vec<Lease> {
        self.lock().values().map(|its| its.lease).collect()
    }

    /// Not one of a later lease.
    fn stop(&self, lease: Lease, why: Stop) {
        if let Some(attempt) = self.remove(lease) {
            // It may just have ended.
            let _ = attempt.stop.send(why);
        }
    }

    pub(super) fn cancel(&self, id: TaskId) {
        let attempt = self.lock().remove(&id);
        if let Some(attempt) = attempt {
            let _ = attempt.stop.send(Stop::Cancelled);
        }
    }

    /// When all of them were last extended.
    fn extended(&self) -> Timestamp {
        Timestamp::from_millis(self.extended.load(Ordering::Relaxed))
    }

    fn hand_back(&self) {
        for (_, attempt) in self.lock().drain() {
            let _ = attempt.stop.send(Stop::HandedBack);
        }
    }
}

/// A lease that is extended for as long as this is there.
struct Holding<'a> {
    held: &'a Held,
    lease: Lease,
}

impl Drop for Holding<'_> {
    fn drop(&mut self) {
        self.held.remove(self.lease);
    }
}

impl Jobs {
    /// Runs tasks of a pool, up to `max_workers` at a time, until `stop`; then gives back those that run, which costs them nothing but the work done.
    pub(crate) async fn work(
        self: Arc<Self>,
        pool: String,
        runner: Arc<dyn Runner>,
        max_workers: usize,
        stop: impl Future<Output = ()>,
    ) {
        let mut stop = std::pin::pin!(stop);
        let mut running = JoinSet::new();
        let mut wake = self.wake.subscribe();
        loop {
            let room = runner.room(running.len());
            let room = room.min(max_workers.saturating_sub(running.len()));
            for task in self.claim(&pool, room).await {
                // From now on whoever stops it finds it.
                let stopped = self.held.add(&task);
                let attempt = Arc::clone(&self).attempt(task, Arc::clone(&runner), stopped);
                running.spawn(attempt);
            }
            tokio::select! {
                () = &mut stop => break,
                Some(_) = running.join_next() => while running.try_join_next().is_some() {},
                Ok(()) = wake.changed() => {}
                () = sleep(LOOK_AGAIN) => {}
            }
        }
        self.held.hand_back();
        while running.join_next().await.is_some() {}
    }

    async fn claim(&self, pool: &str, room: usize) -> Vec<Claimed> {
        if room == 0 {
            return Vec::new();
        }
        let lease = self.options.lease;
        let claimed = self
            .store
            .claim(pool, &self.worker, room, lease, Timestamp::now());
        // What is wrong shows in the health, and is tried again.
        let claimed = claimed.await.unwrap_or_else(|error| {
            self.observed.failed(&error);
            Vec::new()
        });
        for task in &claimed {
            self.changed(task.info.id);
        }
        claimed
    }

    /// Runs a task once.
    async fn attempt(
        self: Arc<Self>,
        task: Claimed,
        runner: Arc<dyn Runner>,
        stopped: oneshot::Receiver<Stop>,
    ) {
        let lease = task.lease;
        let holding = Holding {
            held: &self.held,
            lease,
        };
        let report = tokio::select! {
            // Whoever was told that it is cancelled sees no result later.
            biased;
            stop = stopped => match stop {
                Ok(Stop::Cancelled) => Some(Report::Cancelled),
                Ok(Stop::HandedBack) => Some(Report::Released),
                Ok(Stop::Lost) | Err(_) => None,
            },
            () = self.cancelled_early(lease.task) => Some(Report::Cancelled),
            report = AssertUnwindSafe(run(&task, &*runner)).catch_unwind() => {
                Some(report.unwrap_or_else(|_| Report::Retry(panicked())))
            }
            () = until(task.info.deadline) => None,
        };
        match report {
            Some(report) => self.report(&task, report).await,
            // Whoever ends what is over, or takes it on: the deadline is the queue's affair.
            None => drop(self.reap().await),
        }
        drop(holding);
        self.changed(lease.task);
    }

    /// Ends if somebody cancelled the task after it was claimed and before it could be found among those that run.
    async fn cancelled_early(&self, id: TaskId) {
        match self.store.info(id, None).await {
            Ok(Some(info)) if info.cancel_requested => {}
            // Later requests stop it themselves, or show at the next heartbeat.
            _ => std::future::pending().await,
        }
    }

    /// Reports for as long as the lease may hold. Nobody takes one that this process holds while the queue is away, however long that is.
    async fn report(&self, task: &Claimed, mut report: Report) {
        let begin = Instant::now();
        loop {
            let now = Timestamp::now();
            match self.store.finish(task.lease, report.clone(), now).await {
                Ok(status) => {
                    if task.info.pool != BATCHES {
                        self.metrics.ended(&task.info, status, now);
                        self.bound.ended(std::time::Instant::now());
                    }
                    return;
                }
                Err(error @ StoreError::TooLarge { .. }) => {
                    report = Report::Failed(written(&super::refusal(&error)));
                }
                Err(error) => {
                    let is_over =
                        matches!(error.kind(), ErrorKind::LeaseLost | ErrorKind::NotFound);
                    let is_away = error.kind() == ErrorKind::Unavailable;
                    let may_hold = begin.elapsed() <= self.options.lease
                        || is_away && self.held.holds(task.lease);
                    if is_over || !may_hold {
                        return;
                    }
                    self.observed.failed(&error);
                    sleep(LOOK_AGAIN).await;
                }
            }
        }
    }

    /// Extends the leases of what runs here, for ever.
    pub(crate) async fn beat(self: Arc<Self>) {
        loop {
            sleep(self.options.lease / BEATS).await;
            if let Err(error) = self.extend(Timestamp::now()).await {
                self.observed.failed(&error);
            }
        }
    }

    async fn extend(&self, now: Timestamp) -> Result<(), StoreError> {
        let leases = self.held.leases();
        if !leases.is_empty() {
            let pulses = self.store.heartbeat(&leases, self.options.lease, now);
            for (lease, pulse) in leases.iter().zip(pulses.await?) {
                match pulse {
                    Pulse::Held => {}
                    Pulse::CancelRequested => self.held.stop(*lease, Stop::Cancelled),
                    Pulse::Lost => self.held.stop(*lease, Stop::Lost),
                }
            }
        }
        let extended = &self.held.extended;
        extended.store(now.as_millis(), Ordering::Relaxed);
        Ok(())
    }

    /// Extends the leases of what runs here if the last time was longer ago than it should be, going by the clock that they run out by.
    pub(super) async fn extend_if_late(&self, now: Timestamp) -> Result<(), StoreError> {
        match now > self.held.extended().after(self.options.lease / BEATS) {
            true => self.extend(now).await,
            false => Ok(()),
        }
    }
}

/// What is to be reported of a run.
async fn run(task: &Claimed, runner: &dyn Runner) -> Report {
    loop {
        match runner.run(task).await {
            Ok(result) => return Report::Completed(result),
            Err(error) => match error.status {
                429 => sleep(WHEN_FULL).await,
                503 => return Report::Released,
                500 => return Report::Retry(written(&error)),
                _ => return Report::Failed(written(&error)),
            },
        }
    }
}

/// The error of an attempt that panicked.
fn panicked() -> Value {
    written(&ApiError {
        status: 500,
        kind: "server_error",
        code: Some("internal_error"),
        ..ApiError::not_found(
            "this attempt failed because of a mistake in the service; its log says more",
        )
    })
}

/// An error as tasks keep it: what a client would have got, and the status.
pub(super) fn written(error: &ApiError) -> Value {
    let mut value = error.body()["error"].take();
    value["status"] = json!(error.status);
    value
}

async fn until(deadline: Option<Timestamp>) {
    let Some(deadline) = deadline else {
        return std::future::pending().await;
    };
    let left = deadline.as_millis() - Timestamp::now().as_millis();
    let left = Duration::from_millis(left.max(0).unsigned_abs());
    sleep_until(Instant::now() + left).await;
}
