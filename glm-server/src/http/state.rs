//! [`Service`]: what all handlers share.

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::http::StatusCode;
use glm_runtime::{EngineError, EngineHandle};
use serde_json::{Map, Value};
use tokio::sync::watch;
use tokio_rustls::rustls::ServerConfig;

use super::auth::Access;
use super::dashboard::Requests;
use super::error::{ServeError, error};
use super::health::{Health, Watch};
use super::limits::{Accounts, Backlog, Fair};
use super::metrics::Metrics;
use super::options::{LiveOptions, ServeOptions};
use super::profile;
use super::score::Failures;
use super::spans::Spans;
use super::{systemd, tls};
use crate::jobs::Jobs;
use crate::openai::{self, ApiError};
use crate::responses;

/// Requests let through to the engine beyond those it computes together: their templates are rendered while the others run, so that
/// a place that comes free is taken in the next step.
const PLACES_TO_PREPARE: usize = 8;

/// How often numbers are looked at that are to be known when nobody has asked.
const LOOK_AROUND: Duration = Duration::from_secs(1);

/// How far the service is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The model is being loaded.
    Starting,
    /// Requests are answered.
    Ready,
    /// What runs may finish until then, and nothing new is taken.
    Draining { until: Instant },
}

impl Phase {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining { .. } => "draining",
        }
    }
}

#[derive(Debug)]
pub(super) struct Service {
    pub(super) options: ServeOptions,
    pub(super) metrics: Metrics,
    /// Seconds since 1970 at which the service began.
    pub(super) started: u64,
    pub(super) born: Instant,
    pub(super) requests: Requests,
    pub(super) accounts: Accounts,
    pub(super) fair: Fair,
    pub(super) spans: Spans,
    pub(super) failures: Failures,
    pub(super) backlog: Backlog,
    pub(super) profiles: profile::Turns,
    access: RwLock<Arc<Access>>,
    tls: RwLock<Option<Arc<ServerConfig>>>,
    hands_over: AtomicBool,
    live: RwLock<LiveOptions>,
    /// Responses that can be gone on from.
    pub(super) responses: responses::Store,
    engine: OnceLock<EngineHandle>,
    jobs: OnceLock<Arc<Jobs>>,
    phase: watch::Sender<Phase>,
    /// Requests whose response has not gone out to its end.
    in_flight: watch::Sender<usize>,
    unanswered: AtomicUsize,
    watch: Watch,
}

impl Service {
    pub(super) fn new(options: ServeOptions) -> Self {
        Self {
            live: RwLock::new(options.live.clone()),
            spans: Spans(options.spans.clone()),
            failures: Failures::default(),
            options,
            accounts: Accounts::default(),
            fair: Fair::default(),
            backlog: Backlog::default(),
            profiles: profile::Turns::default(),
            access: RwLock::default(),
            tls: RwLock::default(),
            hands_over: AtomicBool::new(false),
            metrics: Metrics::new(),
            started: unix_now(),
            born: Instant::now(),
            requests: Requests::default(),
            responses: responses::Store::default(),
            engine: OnceLock::new(),
            jobs: OnceLock::new(),
            phase: watch::Sender::new(Phase::Starting),
            in_flight: watch::Sender::new(0),
            unanswered: AtomicUsize::new(0),
            watch: Watch::default(),
        }
    }

    /// The engine is there. One that comes when the service drains already is not used.
    pub(super) fn start(&self, engine: EngineHandle) {
        if self.engine.set(engine.clone()).is_ok() {
            let options = &self.options;
            let places = engine.max_num_seqs() + PLACES_TO_PREPARE;
            self.fair
                .open(places, options.max_waiting, options.max_waiting_tokens);
            self.metrics.watch(engine);
        }
        self.phase.send_if_modified(|phase| {
            let starts = *phase == Phase::Starting;
            if starts {
                *phase = Phase::Ready;
            }
            starts
        });
    }

    /// Reads keys and certificates again, and takes these options from now on; all of it or, if something is wrong, nothing.
    pub(super) fn reload(&self, live: LiveOptions) -> Result<(), ServeError> {
        self.reload_files()?;
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = live;
        Ok(())
    }

    /// Reads keys and certificates again.
    pub(super) fn reload_files(&self) -> Result<(), ServeError> {
        let access = Arc::new(Access::open(&self.options.auth)?);
        let tls = self.options.tls.as_ref().map(tls::open).transpose()?;
        *self.access.write().unwrap_or_else(PoisonError::into_inner) = access;
        *self.tls.write().unwrap_or_else(PoisonError::into_inner) = tls;
        Ok(())
    }

    /// When the files of keys and certificates were changed last.
    fn files_changed(&self) -> Vec<Option<SystemTime>> {
        let tls = self.options.tls.iter();
        let tls = tls.flat_map(|tls| [&tls.certificate, &tls.key]);
        let changed = |path: &PathBuf| fs::metadata(path).and_then(|file| file.modified()).ok();
        self.options.auth.files().chain(tls).map(changed).collect()
    }

    /// What new connections are encrypted by.
    pub(super) fn tls(&self) -> Option<Arc<ServerConfig>> {
        let tls = self.tls.read().unwrap_or_else(PoisonError::into_inner);
        tls.clone()
    }

    /// Others serve the port when this process stops; what still comes over connections that it has is answered.
    pub(super) fn share_port(&self) {
        self.hands_over.store(true, Ordering::Relaxed);
    }

    pub(super) fn hands_over(&self) -> bool {
        self.hands_over.load(Ordering::Relaxed)
    }

    /// Who may come in.
    pub(super) fn access(&self) -> Arc<Access> {
        Arc::clone(&self.access.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn live(&self) -> LiveOptions {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        live.clone()
    }

    /// When the requests that wait now will have been worked off.
    pub(super) fn backlog(&self) -> Duration {
        let waiting = self.engine.get().map_or(0, |engine| {
            let stats = engine.stats();
            self.backlog.observe(&stats, Instant::now());
            stats.waiting_tokens as u64
        });
        self.backlog.wait_for(waiting + self.fair.waiting().1)
    }

    /// Takes nothing new from now on. The first to ask decides until when.
    pub(super) fn drain(&self) {
        let until = Instant::now() + self.options.drain_timeout;
        self.phase.send_if_modified(|phase| {
            let drains = matches!(phase, Phase::Draining { .. });
            if !drains {
                systemd::stopping();
                *phase = Phase::Draining { until };
            }
            !drains
        });
    }

    pub(super) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Tasks are kept there from now on.
    pub(super) fn keep_jobs(&self, jobs: Arc<Jobs>) {
        if self.jobs.set(Arc::clone(&jobs)).is_ok() {
            self.metrics.watch_tasks(jobs);
        }
    }

    /// # Errors
    /// 503 if there is no queue.
    pub(super) fn jobs(&self) -> Result<&Arc<Jobs>, ApiError> {
        self.jobs.get().ok_or_else(|| {
            let message = "this service keeps no tasks";
            error(
                StatusCode::SERVICE_UNAVAILABLE,
                "queue_unavailable",
                message,
            )
        })
    }

    /// Until the model has been loaded, or the service stops before that.
    pub(super) async fn begun(&self) {
        let mut phases = self.phase.subscribe();
        // The sender is in `self`.
        let _ = phases.wait_for(|phase| *phase != Phase::Starting).await;
    }

    /// Until the service takes nothing new.
    pub(super) async fn drains(&self) {
        let mut phases = self.phase.subscribe();
        // The sender is in `self`.
        let _ = phases
            .wait_for(|phase| matches!(phase, Phase::Draining { .. }))
            .await;
    }

    /// Until the service drains and every response has gone out, or their time is over; then how many had not.
    pub(super) async fn drained(&self) -> usize {
        let mut phases = self.phase.subscribe();
        let draining = phases.wait_for(|phase| matches!(phase, Phase::Draining { .. }));
        let until = match draining.await.map(|phase| *phase) {
            Ok(Phase::Draining { until }) => until,
            // The sender is in `self`.
            _ => return 0,
        };
        let mut in_flight = self.in_flight.subscribe();
        let all_out = in_flight.wait_for(|requests| *requests == 0);
        match tokio::time::timeout_at(until.into(), all_out).await {
            Ok(_) => 0,
            Err(_) => *self.in_flight.borrow(),
        }
    }

    /// Counts a request; the counterpart is [`Self::left`].
    pub(super) fn entered(&self) {
        self.in_flight.send_modify(|requests| *requests += 1);
    }

    pub(super) fn left(&self) {
        self.in_flight.send_modify(|requests| *requests -= 1);
    }

    /// Counts a request that the engine has said nothing of yet; the counterpart is [`Self::answered`].
    pub(super) fn asked(&self) {
        self.unanswered.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn answered(&self) {
        self.unanswered.fetch_sub(1, Ordering::Relaxed);
    }

    /// # Errors
    /// 503 while the model is being loaded.
    pub(super) fn engine(&self) -> Result<&EngineHandle, ApiError> {
        self.engine.get().ok_or_else(|| {
            let message = "the model is being loaded: try again later";
            error(StatusCode::SERVICE_UNAVAILABLE, "starting", message)
        })
    }

    /// Does, from time to time, what is to be done while nobody asks for it: measures, reads files that have changed, and tells systemd
    /// that the engine makes progress.
    pub(super) async fn look_around(&self) {
        let mut times = tokio::time::interval(LOOK_AROUND);
        let mut files = self.files_changed();
        loop {
            times.tick().await;
            if let Some(engine) = self.engine.get() {
                self.backlog.observe(&engine.stats(), Instant::now());
            }
            if self.health() == Health::Well {
                systemd::alive();
            }
            let changed = self.files_changed();
            if changed != files {
                files = changed;
                match self.reload_files() {
                    Ok(()) => tracing::info!("keys and certificates have been read again"),
                    // The next change of a file that was half-written is looked at again.
                    Err(error) => tracing::error!(
                        error = &error as &dyn Error,
                        "keys and certificates stay as they were"
                    ),
                }
            }
        }
    }

    pub(super) fn health(&self) -> Health {
        let Some(engine) = self.engine.get() else {
            return Health::Well;
        };
        let unanswered = self.unanswered.load(Ordering::Relaxed);
        let patience = self.options.stall_timeout;
        self.watch
            .look(&engine.stats(), unanswered, patience, Instant::now())
    }

    /// Remembers an error that says that the engine is gone.
    pub(super) fn note(&self, error: &EngineError) {
        if matches!(error, EngineError::Stopped | EngineError::Panicked(_)) {
            self.watch.gone(error.to_string());
        }
    }

    /// Refuses a `model` that is not here. None at all is the one that is.
    ///
    /// # Errors
    /// 404; 503 while the model is being loaded.
    pub(super) fn check_model(&self, body: &Map<String, Value>) -> Result<(), ApiError> {
        openai::check_model(self.engine()?, body)
    }
}

/// Seconds since 1970.
pub(super) fn unix_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.as_ref().map_or(0, Duration::as_secs)
}
