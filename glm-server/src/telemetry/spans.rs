//! [`Span`]: what took how long, in a trace.

use std::fmt;
use std::time::SystemTime;

/// A part of the work on a request that is over.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// What was done.
    pub name: String,
    /// The trace it belongs to.
    pub trace_id: u128,
    /// Its own name in it.
    pub span_id: u64,
    /// The span that it is a part of.
    pub parent: Option<u64>,
    /// Whether that is of another service, which asked this one.
    pub is_server: bool,
    /// When it began.
    pub start: SystemTime,
    /// When it ended.
    pub end: SystemTime,
    /// What is known about it, by the names of OpenTelemetry's conventions where there are some.
    pub attributes: Vec<(&'static str, Attribute)>,
    /// It failed.
    pub is_error: bool,
}

/// What is known about a span.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Attribute {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
}

/// Where spans go. It must not make whoever hands one over wait.
pub trait SpanSink: fmt::Debug + Send + Sync {
    /// Takes a span that is over.
    fn export(&self, span: Span);
}
