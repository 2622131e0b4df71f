//! Probes: is it started, is it alive, does it take work, and how is it.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use crate::http::error;
use crate::http::health::Health;
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
    let phase = service.phase();
    let (engine, is_well) = engine(&service);
    let status = match (is_well, phase) {
        (false, _) => "unhealthy",
        (true, Phase::Ready) => "healthy",
        (true, Phase::Starting | Phase::Draining { .. }) => "degraded",
    };
    let code = match is_well {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let body = json!({
        "status": status,
        "phase": phase.name(),
        "components": {"engine": engine},
    });
    error::json(code, &body)
}

fn engine(service: &Service) -> (Value, bool) {
    let Ok(engine) = service.engine() else {
        return (
            json!({"status": "degraded", "reason": "the model is being loaded"}),
            true,
        );
    };
    let reason = match service.health() {
        Health::Well => None,
        Health::Stalled(time) => Some(format!("no step for {} s", time.as_secs())),
        Health::Gone(reason) => Some(reason),
    };
    let stats = engine.stats();
    let report = json!({
        "status": if reason.is_none() { "healthy" } else { "unhealthy" },
        "reason": reason,
        "running": stats.running,
        "waiting": stats.waiting,
        "kv_blocks_free": stats.kv_blocks_free,
        "kv_blocks_total": stats.kv_blocks_total,
    });
    (report, reason.is_none())
}
