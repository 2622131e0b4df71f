//! What a task is: what it is submitted with, what becomes of it, and what a worker holds while it runs.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

/// A moment: milliseconds since 1970, UTC, and some 285,000 years on. Every operation is told the time, so tests need not wait
/// for it.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    // Two of them can be added in any database.
    const FARTHEST: i64 = 1 << 53;

    /// A moment, given in milliseconds since 1970; the nearest that there is.
    pub const fn from_millis(millis: i64) -> Self {
        Self(match millis {
            ..0 => 0,
            Self::FARTHEST.. => Self::FARTHEST,
            _ => millis,
        })
    }

    /// Milliseconds since 1970.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// What the system's clock says.
    pub fn now() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        Self::from_millis(millis(since_epoch.unwrap_or_default()))
    }

    /// The moment `duration` later, or the last that there is.
    pub fn after(self, duration: Duration) -> Self {
        Self::from_millis(self.0.saturating_add(millis(duration)))
    }
}

/// A duration as databases hold it: milliseconds, up to as many as a [`Timestamp`] has.
pub(super) fn millis(duration: Duration) -> i64 {
    let millis = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    millis.min(Timestamp::FARTHEST)
}

/// The name of a task: a UUID of version 7, so that ids of later tasks come later in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TaskId(pub(super) Uuid);

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// A text that names no task.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not the id of a task")]
pub struct NotATaskId(String);

impl FromStr for TaskId {
    type Err = NotATaskId;

    fn from_str(text: &str) -> Result<Self, NotATaskId> {
        Uuid::parse_str(text)
            .map(Self)
            .map_err(|_| NotATaskId(text.to_owned()))
    }
}

/// The pool of tasks that name no other.
pub const DEFAULT_POOL: &str = "default";

/// A task as it is submitted.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct NewTask {
    /// Whom it belongs to.
    pub tenant: String,
    /// What is asked, such as `/v1/chat/completions`.
    pub endpoint: String,
    /// The request.
    pub body: Value,
    /// Which workers may run it, those of one model for instance: a worker claims from one pool. Default: [`DEFAULT_POOL`].
    pub pool: String,
    /// Higher comes first. One level is worth [`AGING`](super::AGING) of waiting. Range: -[`MAX_PRIORITY`] ..=
    /// [`MAX_PRIORITY`]; default 0.
    ///
    /// [`MAX_PRIORITY`]: glm_runtime::MAX_PRIORITY
    pub priority: i32,
    /// From then on it is not started, and what runs is of no use to anybody any more.
    pub deadline: Option<Timestamp>,
    /// How often it may be started again after an attempt that failed, or whose worker died; default 3.
    pub max_retries: u32,
    /// A second task of this tenant with the same key is the first one.
    pub idempotency_key: Option<String>,
    /// What it is part of, a batch for instance.
    pub group: Option<String>,
    /// What the client calls it within the group, such as a `custom_id`.
    pub label: Option<String>,
    /// How long it is kept after its end; default 30 days.
    pub retention: Duration,
    /// Whose limits it uses up when it runs; the queue does not ask.
    pub payer: Option<String>,
}

impl NewTask {
    /// A task with nothing but what every task has.
    pub fn new(tenant: impl Into<String>, endpoint: impl Into<String>, body: Value) -> Self {
        Self {
            tenant: tenant.into(),
            endpoint: endpoint.into(),
            body,
            pool: DEFAULT_POOL.to_owned(),
            priority: 0,
            deadline: None,
            max_retries: 3,
            idempotency_key: None,
            group: None,
            label: None,
            retention: Duration::from_hours(30 * 24),
            payer: None,
        }
    }
}

/// How far a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It waits for its first attempt, or for another one.
    Queued,
    /// A worker has it.
    Running,
    /// There is a result.
    Completed,
    /// There is none, and there will be none.
    Failed,
    /// Somebody asked for its end.
    Cancelled,
    /// Its deadline came first.
    Expired,
}

impl Status {
    /// Every status.
    pub const ALL: [Self; 6] = [
        Self::Queued,
        Self::Running,
        Self::Completed,
        Self::Failed,
        Self::Cancelled,
        Self::Expired,
    ];

    /// The word for it, in JSON and in databases.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }

    /// Whether nothing changes any more.
    pub const fn is_terminal(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A task without its body and its result, which may be large.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TaskInfo {
    /// Its name.
    pub id: TaskId,
    /// See [`NewTask::tenant`].
    pub tenant: String,
    /// See [`NewTask::endpoint`].
    pub endpoint: String,
    /// See [`NewTask::pool`].
    pub pool: String,
    /// See [`NewTask::priority`].
    pub priority: i32,
    /// See [`NewTask::deadline`].
    pub deadline: Option<Timestamp>,
    /// See [`NewTask::max_retries`].
    pub max_retries: u32,
    /// See [`NewTask::idempotency_key`].
    pub idempotency_key: Option<String>,
    /// See [`NewTask::group`].
    pub group: Option<String>,
    /// See [`NewTask::label`].
    pub label: Option<String>,
    /// How far it is.
    pub status: Status,
    /// How often a worker has started it.
    pub attempts: u32,
    /// Whether somebody asked for its end while it was running.
    pub cancel_requested: bool,
    /// Of the last attempt that failed, unless another one completed the task.
    pub error: Option<Value>,
    /// Who works on it.
    pub worker: Option<String>,
    /// When it was submitted.
    pub created: Timestamp,
    /// After an attempt that failed: when the next one may start.
    pub not_before: Option<Timestamp>,
    /// When the last attempt was started.
    pub started: Option<Timestamp>,
    /// When it came to its end.
    pub finished: Option<Timestamp>,
    /// From when on it may be deleted.
    pub purge_at: Option<Timestamp>,
    /// See [`NewTask::payer`].
    pub payer: Option<String>,
}

/// A task with everything.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Task {
    /// All but what may be large.
    #[serde(flatten)]
    pub info: TaskInfo,
    /// See [`NewTask::body`].
    pub body: Value,
    /// Of a completed task.
    pub result: Option<Value>,
}

/// What became of a submitted task.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Submitted {
    /// The task.
    pub task: TaskInfo,
    /// Whether it was there already, under the same idempotency key.
    pub is_repeated: bool,
}

/// The right to report what came of an attempt. It ends when the task is given to somebody else, or comes to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Lease {
    /// Of which task.
    pub task: TaskId,
    /// How often the task has been leased, this time included: a later lease has a higher number.
    pub number: u64,
}

/// A task that a worker is to run.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Claimed {
    /// To report with.
    pub lease: Lease,
    /// The task.
    pub info: TaskInfo,
    /// The request.
    pub body: Value,
}

/// What a worker learns about a lease when it says that it is alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pulse {
    /// The lease is extended.
    Held,
    /// The lease is extended, but the end of the task was asked for: stop, and report [`Report::Cancelled`].
    CancelRequested,
    /// The task has come to its end, or belongs to somebody else: stop, and report nothing.
    Lost,
}

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq)]
pub enum Report {
    /// A result.
    Completed(Value),
    /// An error that another attempt would meet again.
    Failed(Value),
    /// An error that another attempt may not meet: the task waits (see [`Backoff`](super::Backoff)), then is started again,
    /// unless it has had all its attempts.
    Retry(Value),
    /// The attempt was stopped because the end of the task was asked for.
    Cancelled,
    /// The worker gives the task back unharmed, because it shuts down for instance. That is no attempt.
    Released,
}

/// What came of asking for the end of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancellation {
    /// It had not started, and never will.
    Cancelled,
    /// It is running: its worker learns it with its next heartbeat.
    Requested,
    /// It had come to its end already.
    TooLate(Status),
}

/// How many tasks of a group are how far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Counts {
    /// [`Status::Queued`].
    pub queued: u64,
    /// [`Status::Running`].
    pub running: u64,
    /// [`Status::Completed`].
    pub completed: u64,
    /// [`Status::Failed`].
    pub failed: u64,
    /// [`Status::Cancelled`].
    pub cancelled: u64,
    /// [`Status::Expired`].
    pub expired: u64,
}

impl Counts {
    /// The count of one status.
    pub const fn of(&mut self, status: Status) -> &mut u64 {
        match status {
            Status::Queued => &mut self.queued,
            Status::Running => &mut self.running,
            Status::Completed => &mut self.completed,
            Status::Failed => &mut self.failed,
            Status::Cancelled => &mut self.cancelled,
            Status::Expired => &mut self.expired,
        }
    }
}

/// What waits and runs in a pool at one level of priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Backlog {
    /// The level.
    pub priority: i32,
    /// How many tasks wait, those that wait for another attempt included.
    pub queued: u64,
    /// How many tasks workers have.
    pub running: u64,
    /// When the oldest waiting one was submitted.
    pub oldest_queued: Option<Timestamp>,
}

/// What [`Store::reap`](super::Store::reap) found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reaped {
    /// Tasks that their workers let go, and that wait for another attempt.
    pub requeued: u64,
    /// Tasks that their workers let go on their last attempt.
    pub failed: u64,
    /// Tasks that their workers let go after their end was asked for.
    pub cancelled: u64,
    /// Tasks whose deadline has come.
    pub expired: u64,
}

/// Which tasks a list has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only of this tenant.
    pub tenant: Option<String>,
    /// Only of this group.
    pub group: Option<String>,
    /// Only for this endpoint.
    pub endpoint: Option<String>,
    /// Only those; empty: all.
    pub status: Vec<Status>,
}

/// Which part of a list is wanted: tasks have ids of type [`TaskId`], records text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paging<K = TaskId> {
    /// Begin after what has this id, which need not exist any more.
    pub after: Option<K>,
    /// At most so many; 1 ..= [`MAX_PAGE`](super::MAX_PAGE); default 20.
    pub limit: usize,
    /// Whether the list begins with the lowest id, which is the oldest, instead of the highest.
    pub oldest_first: bool,
}

impl<K> Default for Paging<K> {
    fn default() -> Self {
        Self {
            after: None,
            limit: 20,
            oldest_first: false,
        }
    }
}

/// A part of a list.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Page<T = TaskInfo> {
    /// In order of their ids.
    pub items: Vec<T>,
    /// Whether there are more after the last of these.
    pub has_more: bool,
}
