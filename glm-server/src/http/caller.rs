//! [`Caller`]: what the service knows of the request that it works on, besides the body.
//!
//! It travels with the task, and not as an argument: who asks matters to authentication, limits, fair shares, logs and traces,
//! none of which the handlers of a dialect are about.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request};
use axum::middleware::Next;
use axum::response::Response;

use super::auth::{Identity, Tenant};
use super::limits::{Account, Turn};
use super::request_id::{self, RequestId};
use super::trace::TraceContext;

tokio::task_local! {
    static CURRENT: Arc<Caller>;
}

/// Weight of a generated token in fair shares; one of a prompt weighs 1. A step computes many prompt tokens at once, but one generated
/// token of a sequence (Sheng et al. 2024, arXiv:2401.00588, take 2 as well).
const GENERATED_WEIGHT: u64 = 2;

/// The [`Caller::route`] of what is no path of this service.
pub(super) const UNKNOWN: &str = "unknown";

#[derive(Debug, Default)]
pub(super) struct Caller {
    /// The service's own name for the request.
    pub(super) request_id: Arc<str>,
    /// The name in its response: the client's, or the service's own.
    pub(super) shown_id: Arc<str>,
    pub(super) trace: TraceContext,
    /// The path that is asked for, as the router knows it; `unknown` if it does not: whatever clients make up must not become a time series
    /// each.
    pub(super) route: Arc<str>,
    identity: OnceLock<Identity>,
    account: OnceLock<Arc<Account>>,
    /// When its request was there as a whole, and began to wait for its turn.
    came: OnceLock<Instant>,
    turn: Mutex<Option<Turn>>,
    prompt_tokens: AtomicU64,
    completion_tokens: AtomicU64,
}

impl Caller {
    /// Of a request of which no more is known yet.
    pub(super) fn of_request(request_id: Arc<str>) -> Self {
        Self {
            shown_id: Arc::clone(&request_id),
            request_id,
            ..Self::default()
        }
    }

    /// What lines of the log say about the request that this task works on.
    pub(super) fn log_fields() -> Option<[(&'static str, String); 2]> {
        let fields = |caller: &Arc<Self>| {
            let trace_id = format!("{:032x}", caller.trace.trace_id);
            [
                ("request_id", caller.shown_id.to_string()),
                ("trace_id", trace_id),
            ]
        };
        CURRENT.try_with(fields).ok()
    }

    /// Whose request this task works on; nobody in particular if the work did not come through the router.
    pub(super) fn current() -> Arc<Self> {
        CURRENT.try_with(Arc::clone).unwrap_or_default()
    }

    /// Does work of this caller's that is no request.
    pub(super) fn with<F: Future>(self: Arc<Self>, work: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self, work)
    }

    /// Does work of this caller's on a thread that is not its task's.
    pub(super) fn within<T>(self: Arc<Self>, work: impl FnOnce() -> T) -> T {
        CURRENT.sync_scope(self, work)
    }

    pub(super) fn is(&self, identity: Identity) {
        // Whoever came first is right: a request is identified once.
        let _ = self.identity.set(identity);
    }

    pub(super) fn identity(&self) -> Option<&Identity> {
        self.identity.get()
    }

    pub(super) fn tenant(&self) -> Tenant {
        let identity = self.identity.get();
        identity.map_or_else(Tenant::default, |identity| identity.tenant.clone())
    }

    /// The name that its limits are counted by, for what is done for it later.
    pub(super) fn payer(&self) -> Option<String> {
        self.identity().map(|identity| identity.name.to_string())
    }

    pub(super) fn pays_from(&self, account: Arc<Account>) {
        let _ = self.account.set(account);
    }

    /// The request is there as a whole: from now on its answer has its time.
    pub(super) fn comes(&self) {
        let _ = self.came.set(Instant::now());
    }

    /// What is left of the time for an answer.
    pub(super) fn time_left(&self, timeout: Duration) -> Duration {
        let waited = self.came.get().map(Instant::elapsed);
        timeout.saturating_sub(waited.unwrap_or_default())
    }

    /// Keeps a place until the last answer has ended.
    pub(super) fn holds(&self, turn: Turn) {
        let mut held = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        *held = Some(turn);
    }

    /// The engine has nothing more to do for it: others may have its place while its response goes out.
    pub(super) fn lets_go(&self) {
        let mut held = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        *held = None;
    }

    /// The engine has been given a prompt of this length.
    pub(super) fn prompt(&self, tokens: usize) {
        let tokens = tokens as u64;
        self.prompt_tokens.fetch_add(tokens, Ordering::Relaxed);
        self.charge(tokens, tokens);
    }

    /// The engine has generated a token.
    pub(super) fn generated(&self) {
        self.completion_tokens.fetch_add(1, Ordering::Relaxed);
        self.charge(1, GENERATED_WEIGHT);
    }

    /// Tokens of prompts, and generated ones.
    pub(super) fn tokens(&self) -> (u64, u64) {
        let read = |tokens: &AtomicU64| tokens.load(Ordering::Relaxed);
        (read(&self.prompt_tokens), read(&self.completion_tokens))
    }

    fn charge(&self, tokens: u64, cost: u64) {
        if let Some(account) = self.account.get() {
            account.charge(tokens);
        }
        let mut held = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = &mut *held {
            turn.charge(cost);
        }
    }
}

/// Makes the caller known to all that works on its request.
pub(super) async fn know(request: Request, next: Next) -> Response {
    let id = request.extensions().get::<RequestId>();
    let id = id.map(|RequestId(id)| Arc::clone(id));
    let mut caller = Caller::of_request(id.unwrap_or_default());
    caller.trace = TraceContext::of(request.headers());
    let route = request.extensions().get::<MatchedPath>();
    caller.route = route.map_or(UNKNOWN, MatchedPath::as_str).into();
    if let Some(given) = request_id::given(request.headers()).and_then(|name| name.to_str().ok()) {
        caller.shown_id = given.into();
    }
    CURRENT.scope(Arc::new(caller), next.run(request)).await
}
