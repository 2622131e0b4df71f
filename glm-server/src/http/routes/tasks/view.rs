//! Tasks as clients see them.

use serde_json::{Value, json};

use crate::queue::{Status, Task, TaskInfo, Timestamp};

/// A task without its result.
pub(super) fn info(info: &TaskInfo) -> Value {
    json!({
        "id": info.id,
        "object": "task",
        "endpoint": info.endpoint,
        "model": info.pool,
        "status": status(info.status),
        "priority": info.priority,
        "attempts": info.attempts,
        "max_retries": info.max_retries,
        "cancel_requested": info.cancel_requested,
        "idempotency_key": info.idempotency_key,
        "batch_id": info.group,
        "custom_id": info.label,
        "created_at": seconds(info.created),
        "started_at": info.started.map(seconds),
        "finished_at": info.finished.map(seconds),
        "deadline": info.deadline.map(seconds),
        "retry_at": info.not_before.map(seconds),
        "expires_at": info.purge_at.map(seconds),
        "error": error(info),
    })
}

/// A task with its result.
pub(super) fn whole(task: &Task) -> Value {
    let mut value = info(&task.info);
    value["body"] = task.body.clone();
    value["result"] = task.result.clone().into();
    value
}

/// A deadline that has passed is a way to fail.
pub(super) fn status(status: Status) -> &'static str {
    match status {
        Status::Expired => Status::Failed.as_str(),
        other => other.as_str(),
    }
}

fn error(info: &TaskInfo) -> Value {
    match info.status {
        Status::Expired => json!({
            "message": "the deadline came before there was a result",
            "type": "server_error",
            "param": null,
            "code": "deadline_exceeded",
            "status": 504,
        }),
        _ => info.error.clone().into(),
    }
}

/// Seconds since 1970, to the millisecond.
fn seconds(time: Timestamp) -> f64 {
    time.as_millis() as f64 / 1000.0
}
