//! What the dashboard shows: the service at this moment, and the last minute of it.

mod latency;
mod requests;

use serde_json::{Value, json};

use super::health::Health;
use super::state::{Phase, Service};

pub(super) use latency::Recent;
pub(super) use requests::{Requests, Running};

/// Most requests of a list; how many there are besides is said.
const MAX_LISTED: usize = 50;

/// An event of `GET /dashboard/events`; `docs/how-to/web-page.md` says what is in it.
pub(super) fn snapshot(service: &Service) -> Value {
    let engine = service.engine().ok();
    let stats = engine.map(|engine| engine.stats()).unwrap_or_default();
    let (count, listed) = service.requests.list(MAX_LISTED);
    json!({
        "uptime_s": service.born.elapsed().as_secs_f64(),
        "model": engine.map(|engine| &engine.model_info().name),
        "phase": service.phase().name(),
        "health": health(service),
        "engine": {
            "running": stats.running,
            "waiting": stats.waiting,
            "waiting_tokens": stats.waiting_tokens,
            "kv_blocks_total": stats.kv_blocks_total,
            "kv_blocks_free": stats.kv_blocks_free,
            "kv_blocks_cached": stats.kv_blocks_cached,
        },
        "counters": {
            "generated_tokens": stats.generated_tokens,
            "prompt_tokens": stats.prefill_tokens,
            "steps": stats.steps,
            "preemptions": stats.preemptions,
            "prefix_cache_hits": stats.prefix_cache_hits,
            "prefix_cache_queries": stats.prefix_cache_queries,
        },
        "latency": {
            "time_to_first_token_s": service.metrics.first_tokens.quantiles(),
            "inter_token_s": service.metrics.between_tokens.quantiles(),
        },
        "requests": {"count": count, "list": listed},
    })
}

fn health(service: &Service) -> Value {
    let problem = match service.health() {
        Health::Well => None,
        Health::Stalled(time) => Some(format!(
            "the engine has done no step for {} s",
            time.as_secs()
        )),
        Health::Gone(reason) => Some(format!("the engine has ended: {reason}")),
    };
    let status = match (&problem, service.phase()) {
        (Some(_), _) => "unhealthy",
        (None, Phase::Ready) => "healthy",
        (None, Phase::Starting | Phase::Draining { .. }) => "degraded",
    };
    json!({"status": status, "score": null, "alerts": Vec::from_iter(problem)})
}
