//! Claims tasks, has them run, and reports what came of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

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
const BEATS: u32 = 3;

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
pub(super) struct Held(Mutex<HashMap<TaskId, Attempt>>);

impl Held {
    fn lock(&self) -> MutexGuard<'_, HashMap<TaskId, Attempt>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
    fn remove(&self, lease: Lease) {
        let mut held = self.lock();
        if held.get(&lease.task).is_some_and(|its| its.lease == lease) {
            held.remove(&lease.task);
        }
    }

    fn leases(&self) -> Vec<Lease> {
        self.lock().values().map(|its| its.lease).collect()
    }

    fn stop(&self, id: TaskId, why: Stop) {
        if let Some(attempt) = self.lock().remove(&id) {
            // It may just have ended.
            let _ = attempt.stop.send(why);
        }
    }

    pub(super) fn cancel(&self, id: TaskId) {
        self.stop(id, Stop::Cancelled);
    }

    fn hand_back(&self) {
        for (_, attempt) in self.lock().drain() {
            let _ = attempt.stop.send(Stop::HandedBack);
        }
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
        let report = tokio::select! {
            // Whoever was told that it is cancelled sees no result later.
            biased;
            stop = stopped => match stop {
                Ok(Stop::Cancelled) => Some(Report::Cancelled),
                Ok(Stop::HandedBack) => Some(Report::Released),
                Ok(Stop::Lost) | Err(_) => None,
            },
            () = self.cancelled_early(lease.task) => Some(Report::Cancelled),
            report = run(&task, &*runner) => Some(report),
            () = until(task.info.deadline) => None,
        };
        match report {
            Some(report) => self.report(&task, report).await,
            // Whoever ends what is over, or takes it on: the deadline is the queue's affair.
            None => drop(self.store.reap(Timestamp::now()).await),
        }
        self.held.remove(lease);
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

    /// Reports for as long as the lease may hold.
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
                    if is_over || begin.elapsed() > self.options.lease {
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
            let leases = self.held.leases();
            if leases.is_empty() {
                continue;
            }
            let now = Timestamp::now();
            match self.store.heartbeat(&leases, self.options.lease, now).await {
                Err(error) => self.observed.failed(&error),
                Ok(pulses) => {
                    for (lease, pulse) in leases.iter().zip(pulses) {
                        match pulse {
                            Pulse::Held => {}
                            Pulse::CancelRequested => self.held.stop(lease.task, Stop::Cancelled),
                            Pulse::Lost => self.held.stop(lease.task, Stop::Lost),
                        }
                    }
                }
            }
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
