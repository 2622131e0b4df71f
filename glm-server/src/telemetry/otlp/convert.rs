//! Spans of the service as those of OpenTelemetry.

use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use super::super::spans::{Attribute, Span};

pub(super) fn span(span: Span) -> SpanData {
    let context = SpanContext::new(
        TraceId::from(span.trace_id),
        SpanId::from(span.span_id),
        // Others are not made.
        TraceFlags::SAMPLED,
        false,
        TraceState::default(),
    );
    let scope = InstrumentationScope::builder(env!("CARGO_PKG_NAME"));
    SpanData {
        span_context: context,
        parent_span_id: span.parent.map_or(SpanId::INVALID, SpanId::from),
        parent_span_is_remote: span.is_server && span.parent.is_some(),
        span_kind: match span.is_server {
            true => SpanKind::Server,
            false => SpanKind::Internal,
        },
        name: span.name.into(),
        start_time: span.start,
        end_time: span.end,
        attributes: span.attributes.into_iter().map(attribute).collect(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: match span.is_error {
            true => Status::error(""),
            false => Status::Unset,
        },
        instrumentation_scope: scope.with_version(env!("CARGO_PKG_VERSION")).build(),
    }
}

fn attribute((name, value): (&'static str, Attribute)) -> KeyValue {
    match value {
        Attribute::Text(text) => KeyValue::new(name, text),
        Attribute::Number(number) => KeyValue::new(name, number),
    }
}
