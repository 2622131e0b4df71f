//! [`Batch`]: what is known of a batch.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// How far a batch is, in OpenAI's words.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum BatchStatus {
    /// Its lines are looked at.
    #[default]
    Validating,
    /// They were not what a batch is made of.
    Failed,
    /// Its lines are tasks.
    InProgress,
    /// All of them have ended, and the files of results are written.
    Finalizing,
    Completed,
    /// Its time was over before all lines were answered.
    Expired,
    /// Its end was asked for.
    Cancelling,
    Cancelled,
}

impl BatchStatus {
    pub(crate) fn is_final(self) -> bool {
        matches!(
            self,
            Self::Failed | Self::Completed | Self::Expired | Self::Cancelled
        )
    }
}

/// What is wrong with a line of the input, or with all of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BatchError {
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) param: Option<String>,
    pub(crate) line: Option<u64>,
}

/// A batch. Times are seconds since 1970.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Batch {
    pub(crate) id: String,
    pub(crate) endpoint: String,
    pub(crate) model: String,
    pub(crate) input_file_id: String,
    pub(crate) completion_window: String,
    pub(crate) status: BatchStatus,
    pub(crate) errors: Vec<BatchError>,
    pub(crate) output_file_id: Option<String>,
    pub(crate) error_file_id: Option<String>,
    pub(crate) created_at: u64,
    pub(crate) expires_at: u64,
    pub(crate) in_progress_at: Option<u64>,
    pub(crate) finalizing_at: Option<u64>,
    pub(crate) completed_at: Option<u64>,
    pub(crate) failed_at: Option<u64>,
    pub(crate) expired_at: Option<u64>,
    pub(crate) cancelling_at: Option<u64>,
    pub(crate) cancelled_at: Option<u64>,
    pub(crate) total: u64,
    /// Of a batch that is over.
    pub(crate) completed: u64,
    /// Of a batch that is over.
    pub(crate) failed: u64,
    pub(crate) metadata: Option<Map<String, Value>>,
    /// How long the files of results are kept.
    pub(crate) output_seconds: Option<u64>,
    /// The line up to which all lines are tasks.
    pub(crate) submitted: u64,
    /// There are no more lines behind that one.
    #[serde(default)]
    pub(crate) all_submitted: bool,
    /// Whose limits its tasks use up.
    pub(crate) payer: Option<String>,
}

impl Batch {
    /// Moves it on.
    pub(super) fn enter(&mut self, status: BatchStatus, now: u64) {
        self.status = status;
        let time = match status {
            BatchStatus::Validating => return,
            BatchStatus::Failed => &mut self.failed_at,
            BatchStatus::InProgress => &mut self.in_progress_at,
            BatchStatus::Finalizing => &mut self.finalizing_at,
            BatchStatus::Completed => &mut self.completed_at,
            BatchStatus::Expired => &mut self.expired_at,
            BatchStatus::Cancelling => &mut self.cancelling_at,
            BatchStatus::Cancelled => &mut self.cancelled_at,
        };
        *time = Some(now);
    }

    /// Whether its end was asked for in time.
    pub(crate) fn is_cancelled(&self) -> bool {
        matches!(
            self.status,
            BatchStatus::Cancelling | BatchStatus::Cancelled
        )
    }

    /// As OpenAI writes it.
    pub(crate) fn view(&self) -> Value {
        let errors =
            (!self.errors.is_empty()).then(|| json!({"object": "list", "data": self.errors}));
        json!({
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "model": self.model,
            "errors": errors,
            "input_file_id": self.input_file_id,
            "completion_window": self.completion_window,
            "status": self.status,
            "output_file_id": self.output_file_id,
            "error_file_id": self.error_file_id,
            "created_at": self.created_at,
            "in_progress_at": self.in_progress_at,
            "expires_at": self.expires_at,
            "finalizing_at": self.finalizing_at,
            "completed_at": self.completed_at,
            "failed_at": self.failed_at,
            "expired_at": self.expired_at,
            "cancelling_at": self.cancelling_at,
            "cancelled_at": self.cancelled_at,
            "request_counts": {
                "total": self.total,
                "completed": self.completed,
                "failed": self.failed,
            },
            "metadata": self.metadata,
        })
    }
}
