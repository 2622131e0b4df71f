//! What the dashboard shows: the service at this moment, and the last minute of it.

mod latency;
mod requests;

use glm_runtime::EngineStats;
use serde_json::{Value, json};

use super::score::{self, Score};
use super::state::Service;

pub(super) use latency::Recent;
pub(super) use requests::{Requests, Running};

/// Most requests of a list; how many there are besides is said.
const MAX_LISTED: usize = 50;

/// An event of `GET /dashboard/events`; `docs/how-to/web-page.md` says what is in it.
pub(super) fn snapshot(service: &Service) -> Value {
    let engine = service.engine().ok();
    let stats = engine.map(|engine| engine.stats()).unwrap_or_default();
    let (waiting, waiting_tokens) = service.fair.waiting();
    let (count, listed) = service.requests.list(MAX_LISTED);
    json!({
        "uptime_s": service.born.elapsed().as_secs_f64(),
        "model": engine.map(|engine| &engine.model_info().name),
        "phase": service.phase().name(),
        "health": health(service, &stats),
        "engine": {
            "running": stats.running,
            "waiting": stats.waiting + waiting,
            "waiting_tokens": stats.waiting_tokens as u64 + waiting_tokens,
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

fn health(service: &Service, stats: &EngineStats) -> Value {
    let score = Score::of(service);
    let status = score::status(service, &score);
    let mut alerts = Vec::from_iter(service.health().problem());
    alerts.extend(shortages(service, stats));
    json!({"status": status, "score": score.of_100, "alerts": alerts})
}

/// What there may soon be too little of.
fn shortages(service: &Service, stats: &EngineStats) -> Vec<String> {
    let mut found = Vec::new();
    let (waiting, max) = (service.fair.waiting().0, service.options.max_waiting);
    if waiting > 0 && waiting * 2 >= max {
        found.push(format!(
            "{waiting} requests wait: {max} are the most, further ones are refused"
        ));
    }
    let (free, total) = (stats.kv_blocks_free, stats.kv_blocks_total);
    if free * 20 < total {
        found.push(format!(
            "{free} of {total} blocks of the KV cache are free: requests may lose their places and be computed again"
        ));
    }
    found
}
