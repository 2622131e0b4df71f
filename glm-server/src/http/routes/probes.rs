//! Probes: is it started, is it alive, does it take work, and how is it.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use crate::http::error;
use crate::http::health::Health;
use crate::http::score::{self, Score, UNHEALTHY};
use crate::http::state::{Phase, Service};

/// The model has been loaded, at some time.
pub(super) async fn started(State(service): State<Arc<Service>>) -> Response {
    probe(service.engine().is_ok(), &service)
}

/// The engine makes progress, or has nothing to do: a restart would not help.
pub(super) async fn live(State(service): State<Arc<Service>>) -> Response {
    probe(service.health() == Health::Well, &service)
}

/// Requests are taken now.
pub(super) async fn ready(State(service): State<Arc<Service>>) -> Response {
    let takes_work = service.phase() == Phase::Ready && service.health() == Health::Well;
    probe(takes_work, &service)
}

fn probe(is_so: bool, service: &Service) -> Response {
    let (status, text) = match is_so {
        true => (StatusCode::OK, "ok"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
    };
    let phase = service.phase().name();
    error::json(status, &json!({"status": text, "phase": phase}))
}

/// Everything at once, for people and dashboards.
pub(super) async fn health(State(service): State<Arc<Service>>) -> Response {
    let score = Score::of(&service);
    let status = score::status(&service, &score);
    let (queue, storage) = tasks(&service);
    let code = match status {
        UNHEALTHY => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::OK,
    };
    let body = json!({
        "status": status,
        "phase": service.phase().name(),
        "score": score.of_100,
        "signals": score.signals(),
        "components": {
            "llm-router": router(&service),
            "task-queue": queue,
            "storage-engine": storage,
            "engine": engine(&service),
        },
    });
    error::json(code, &body)
}

/// What stands before the engine.
fn router(service: &Service) -> Value {
    let (waiting, waiting_tokens) = service.fair.waiting();
    json!({
        "status": match service.phase() {
            Phase::Ready => "healthy",
            Phase::Starting | Phase::Draining { .. } => "degraded",
        },
        "waiting": waiting,
        "waiting_tokens": waiting_tokens,
        "tokens_per_second": service.backlog.throughput().map(f64::round),
    })
}

/// The queue of tasks, and what keeps it: the one is no better than the other.
fn tasks(service: &Service) -> (Value, Value) {
    let Ok(jobs) = service.jobs() else {
        let none = json!({"status": "healthy", "reason": "no tasks are kept"});
        return (none.clone(), none);
    };
    let health = jobs.health();
    let status = match health.reason {
        None => "healthy",
        Some(_) => "degraded",
    };
    let queue = json!({
        "status": status,
        "queued": health.queued,
        "running": health.running,
        "oldest_queued_seconds": health.oldest_queued,
    });
    (queue, json!({"status": status, "reason": health.reason}))
}

fn engine(service: &Service) -> Value {
    let Ok(engine) = service.engine() else {
        return json!({"status": "degraded", "reason": "the model is being loaded"});
    };
    let problem = service.health().problem();
    let stats = engine.stats();
    json!({
        "status": if problem.is_none() { "healthy" } else { UNHEALTHY },
        "reason": problem,
        "running": stats.running,
        "waiting": stats.waiting,
        "kv_blocks_free": stats.kv_blocks_free,
        "kv_blocks_total": stats.kv_blocks_total,
    })
}
