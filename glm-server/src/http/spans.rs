//! Spans of a request: itself, and for each of its answers the time in the engine's queue, prefill and decoding.

use std::sync::Arc;
use std::time::SystemTime;

use axum::http::Method;
use glm_runtime::Finished;

use super::caller::Caller;
use super::trace::new_span_id;
use crate::telemetry::{Attribute, Span, SpanSink};

/// Where the spans of the service go, if anywhere.
#[derive(Debug, Default)]
pub(super) struct Spans(pub(super) Option<Arc<dyn SpanSink>>);

impl Spans {
    /// A request whose response is out.
    pub(super) fn request(
        &self,
        method: &Method,
        path: &str,
        status: u16,
        start: SystemTime,
        caller: &Caller,
    ) {
        let Some(sink) = self.0.as_ref().filter(|_| caller.trace.is_sampled) else {
            return;
        };
        let (prompt, completion) = caller.tokens();
        let number = |count: u64| Attribute::Number(i64::try_from(count).unwrap_or(i64::MAX));
        sink.export(Span {
            name: format!("{method} {path}"),
            trace_id: caller.trace.trace_id,
            span_id: caller.trace.span_id,
            parent: caller.trace.parent,
            is_server: true,
            start,
            end: SystemTime::now(),
            attributes: vec![
                ("http.request.method", Attribute::Text(method.to_string())),
                ("http.route", Attribute::Text(path.to_owned())),
                (
                    "http.response.status_code",
                    Attribute::Number(status.into()),
                ),
                ("gen_ai.usage.input_tokens", number(prompt)),
                ("gen_ai.usage.output_tokens", number(completion)),
                ("request.id", Attribute::Text(caller.shown_id.to_string())),
                ("tenant", Attribute::Text(caller.tenant().0.to_string())),
            ],
            is_error: status >= 500,
        });
    }

    /// An answer that has just ended, by the engine's own clock.
    pub(super) fn answer(&self, finished: &Finished, caller: &Caller) {
        let Some(sink) = self.0.as_ref().filter(|_| caller.trace.is_sampled) else {
            return;
        };
        let timings = &finished.timings;
        let end = SystemTime::now();
        let Some(submitted) = end.checked_sub(timings.total) else {
            return;
        };
        let (begun, first) = (
            submitted + timings.queued,
            submitted + timings.time_to_first_token,
        );
        for (name, start, end) in [
            ("queue", submitted, begun),
            ("prefill", begun, first),
            ("decode", first, end),
        ] {
            sink.export(Span {
                name: name.to_owned(),
                trace_id: caller.trace.trace_id,
                span_id: new_span_id(),
                parent: Some(caller.trace.span_id),
                is_server: false,
                start,
                // Cancelled before it had begun, say.
                end: end.max(start),
                attributes: Vec::new(),
                is_error: false,
            });
        }
    }
}
