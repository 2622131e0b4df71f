//! What the service counts and times, in OpenMetrics' text: `GET /metrics`. Names are explained in `docs/how-to/serve.md`.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use glm_runtime::{EngineHandle, EngineStats, FinishReason, Finished};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::caller::Caller;
use super::dashboard::Recent;
use super::state::Service;
use crate::jobs::{Depth, Jobs};

/// Media type of [`Metrics::text`].
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Debug)]
pub(super) struct Metrics {
    registry: Mutex<Registry>,
    http_requests: Family<HttpLabels, Counter>,
    answers: Family<AnswerLabels, Counter>,
    latency: Histogram,
    queue_time: Histogram,
    time_to_first_token: Histogram,
    inter_token_latency: Histogram,
    pub(super) first_tokens: Recent,
    pub(super) between_tokens: Recent,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HttpLabels {
    method: &'static str,
    endpoint: Arc<str>,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AnswerLabels {
    outcome: &'static str,
}

impl Metrics {
    pub(super) fn new() -> Self {
        // From a step of a small model to an answer of many thousand tokens.
        let seconds = || Histogram::new(exponential_buckets(0.001, 2.0, 20));
        let metrics = Self {
            registry: Mutex::default(),
            http_requests: Family::default(),
            answers: Family::default(),
            latency: seconds(),
            queue_time: seconds(),
            time_to_first_token: seconds(),
            inter_token_latency: seconds(),
            first_tokens: Recent::new(),
            between_tokens: Recent::new(),
        };
        let mut registry = metrics.registry();
        registry.register(
            "http_requests",
            "Responses begun, by path and status",
            metrics.http_requests.clone(),
        );
        registry.register(
            "inference_requests",
            "Answers that have ended, by the way they did",
            metrics.answers.clone(),
        );
        for (name, help, histogram) in [
            (
                "inference_request_latency_seconds",
                "From submission to the end of an answer",
                &metrics.latency,
            ),
            (
                "inference_queue_time_seconds",
                "From submission to the first step that worked on it",
                &metrics.queue_time,
            ),
            (
                "inference_time_to_first_token_seconds",
                "From submission to the first token",
                &metrics.time_to_first_token,
            ),
            (
                "inference_inter_token_latency_seconds",
                "Between two tokens of an answer",
                &metrics.inter_token_latency,
            ),
        ] {
            registry.register(name, help, histogram.clone());
        }
        drop(registry);
        metrics
    }

    /// Reports the engine's own numbers from now on.
    pub(super) fn watch(&self, engine: EngineHandle) {
        self.registry()
            .register_collector(Box::new(EngineNumbers(engine)));
    }

    /// Reports what is answered later from now on.
    pub(super) fn watch_tasks(&self, jobs: Arc<Jobs>) {
        let mut registry = self.registry();
        jobs.metrics().register(&mut registry);
        registry.register_collector(Box::new(Depth(jobs)));
    }

    /// Everything, as a scraper reads it.
    ///
    /// # Errors
    /// None, for text has no end of room; the encoder's signature says otherwise.
    pub(super) fn text(&self) -> Result<String, fmt::Error> {
        let mut all = String::new();
        text::encode(&mut all, &self.registry())?;
        Ok(all)
    }

    pub(super) fn between_tokens(&self, time: Duration) {
        self.inter_token_latency.observe(time.as_secs_f64());
        self.between_tokens.observe(time);
    }

    pub(super) fn finished(&self, finished: &Finished) {
        let timings = &finished.timings;
        self.latency.observe(timings.total.as_secs_f64());
        self.queue_time.observe(timings.queued.as_secs_f64());
        let first = timings.time_to_first_token;
        self.time_to_first_token.observe(first.as_secs_f64());
        self.first_tokens.observe(first);
        self.ended(match finished.reason {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::Cancelled => "cancelled",
        });
    }

    /// Counts an answer that ended in this way.
    pub(super) fn ended(&self, outcome: &'static str) {
        self.answers.get_or_create(&AnswerLabels { outcome }).inc();
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a response when it begins.
pub(super) async fn count(
    State(service): State<Arc<Service>>,
    request: Request,
    next: Next,
) -> Response {
    let endpoint = Arc::clone(&Caller::current().route);
    let method = match *request.method() {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        _ => "other",
    };
    let response = next.run(request).await;
    let labels = HttpLabels {
        method,
        endpoint,
        status: response.status().as_u16(),
    };
    service.metrics.http_requests.get_or_create(&labels).inc();
    response
}

/// The statistics of an engine, read when they are asked for.
#[derive(Debug)]
struct EngineNumbers(EngineHandle);

impl Collector for EngineNumbers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let stats = self.0.stats();
        for (name, help, value) in gauges(&stats) {
            let gauge = ConstGauge::new(value as i64);
            let named = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(named)?;
        }
        for (name, help, value) in counters(&stats) {
            let counter = ConstCounter::new(value);
            let named = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
            counter.encode(named)?;
        }
        Ok(())
    }
}

fn gauges(stats: &EngineStats) -> [(&'static str, &'static str, usize); 6] {
    [
        ("engine_running", "Requests that hold blocks", stats.running),
        (
            "engine_waiting",
            "Requests that wait for a step",
            stats.waiting,
        ),
        (
            "engine_waiting_tokens",
            "Tokens of the waiting requests",
            stats.waiting_tokens,
        ),
        (
            "engine_kv_blocks",
            "Blocks of the KV cache",
            stats.kv_blocks_total,
        ),
        (
            "engine_kv_blocks_free",
            "Blocks that nobody holds",
            stats.kv_blocks_free,
        ),
        (
            "engine_kv_blocks_cached",
            "Free blocks that hold the beginning of a text that may come again",
            stats.kv_blocks_cached,
        ),
    ]
}

fn counters(stats: &EngineStats) -> [(&'static str, &'static str, u64); 8] {
    [
        ("engine_steps", "Forward passes", stats.steps),
        (
            "engine_prompt_tokens",
            "Prompt tokens computed",
            stats.prefill_tokens,
        ),
        (
            "engine_generated_tokens",
            "Tokens generated",
            stats.generated_tokens,
        ),
        (
            "engine_prefix_cache_queries",
            "Tokens looked up in the prefix cache",
            stats.prefix_cache_queries,
        ),
        (
            "engine_prefix_cache_hits",
            "Tokens found there and not computed",
            stats.prefix_cache_hits,
        ),
        (
            "engine_preemptions",
            "Requests that lost their blocks to others",
            stats.preemptions,
        ),
        (
            "engine_drafted_tokens",
            "Tokens guessed ahead",
            stats.drafted_tokens,
        ),
        (
            "engine_accepted_tokens",
            "Guesses that were right",
            stats.accepted_tokens,
        ),
    ]
}
