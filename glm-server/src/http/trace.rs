//! Where a request belongs in a trace (W3C Trace Context), and the line that the log has for it.

use std::fmt;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use ring::rand::{SecureRandom, SystemRandom};

use super::caller::{Caller, UNKNOWN};
use super::companion::{Companion, accompany};
use super::state::Service;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// A request's place in a trace: the client's, or one that begins here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct TraceContext {
    pub(super) trace_id: u128,
    /// The client's span.
    pub(super) parent: Option<u64>,
    /// The span of this request.
    pub(super) span_id: u64,
    /// Whether whoever began the trace wants it kept.
    pub(super) is_sampled: bool,
}

impl TraceContext {
    /// What the headers say, or a new trace.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let trace_id = u128::from_be_bytes(random());
        let given = headers
            .get(TRACEPARENT)
            .and_then(|value| value.to_str().ok())
            .and_then(read);
        let (trace_id, parent, is_sampled) = given
            .map_or((trace_id, None, true), |(trace, parent, sampled)| {
                (trace, Some(parent), sampled)
            });
        Self {
            trace_id,
            parent,
            span_id: new_span_id(),
            is_sampled,
        }
    }
}

/// A name for a span that no other has.
pub(super) fn new_span_id() -> u64 {
    u64::from_be_bytes(random())
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // Without random numbers traces are mixed up, and nothing else is.
    let _ = SystemRandom::new().fill(&mut bytes);
    bytes
}

/// `traceparent` as this span writes it.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = u8::from(self.is_sampled);
        write!(
            f,
            "00-{:032x}-{:016x}-{flags:02x}",
            self.trace_id, self.span_id
        )
    }
}

/// Trace, parent and whether it is sampled; `None` for what is not a `traceparent` (W3C Trace Context, 3.2.2).
fn read(text: &str) -> Option<(u128, u64, bool)> {
    let mut parts = text.split('-');
    let (version, trace, parent, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |text: &str, len| {
        text.len() == len
            && text
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let is_well = is_hex(version, 2) && is_hex(trace, 32) && is_hex(parent, 16) && is_hex(flags, 2);
    // Later versions may go on behind these parts; this one does not.
    if !is_well || version == "ff" || (version == "00" && parts.next().is_some()) {
        return None;
    }
    let trace = u128::from_str_radix(trace, 16).ok().filter(|id| *id != 0)?;
    let parent = u64::from_str_radix(parent, 16).ok().filter(|id| *id != 0)?;
    let flags = u8::from_str_radix(flags, 16).ok()?;
    Some((trace, parent, flags & 1 == 1))
}

/// Says in the response where the request is in its trace, and logs it when the response is out.
pub(super) async fn follow(
    State(service): State<Arc<Service>>,
    request: Request,
    next: Next,
) -> Response {
    let caller = Caller::current();
    // What clients make up is shown in one place only, and cut.
    let path = match &*caller.route {
        UNKNOWN => {
            let cut: String = request.uri().path().chars().take(100).collect();
            cut.into()
        }
        _ => Arc::clone(&caller.route),
    };
    let mut seen = Seen {
        method: request.method().clone(),
        path,
        status: 0,
        began: Instant::now(),
        began_at: SystemTime::now(),
        is_whole: false,
        caller,
        service,
    };
    let mut response = next.run(request).await;
    seen.status = response.status().as_u16();
    if let Ok(place) = HeaderValue::try_from(seen.caller.trace.to_string()) {
        response.headers_mut().insert(TRACEPARENT, place);
    }
    accompany(response, seen)
}

/// A request, logged when it is over.
struct Seen {
    method: Method,
    path: Arc<str>,
    status: u16,
    began: Instant,
    began_at: SystemTime,
    /// The response went out to its end.
    is_whole: bool,
    caller: Arc<Caller>,
    service: Arc<Service>,
}

impl Drop for Seen {
    fn drop(&mut self) {
        let Self {
            caller,
            path,
            status,
            ..
        } = self;
        self.service.failures.saw(*status);
        self.service
            .spans
            .request(&self.method, path, *status, self.began_at, caller);
        // Probes and scrapers come every few seconds and say nothing.
        let is_probe = matches!(
            &**path,
            "/livez" | "/readyz" | "/startupz" | "/healthz" | "/metrics"
        );
        let (prompt_tokens, completion_tokens) = caller.tokens();
        let tenant = caller.tenant();
        let key = caller.identity().map_or("", |identity| &*identity.name);
        let duration_ms = self.began.elapsed().as_secs_f64() * 1e3;
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    target: "request",
                    request_id = &*caller.shown_id,
                    trace_id = format!("{:032x}", caller.trace.trace_id),
                    method = self.method.as_str(),
                    path = &**path,
                    status = *status,
                    duration_ms,
                    tenant = &*tenant.0,
                    key,
                    prompt_tokens,
                    completion_tokens,
                    complete = self.is_whole,
                    "request"
                )
            };
        }
        match (is_probe, *status) {
            (_, 500..) => line!(warn),
            (true, _) => line!(debug),
            (false, _) => line!(info),
        }
    }
}

impl Companion for Seen {
    fn is_whole(&mut self) {
        self.is_whole = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_trace_goes_on_or_begins() {
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(TRACEPARENT, text.parse().unwrap());
            TraceContext::of(&headers)
        };
        let context = of("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        assert_eq!(context.parent, Some(0xb7ad_6b71_6920_3331));
        let text = context.to_string();
        assert!(
            text.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && text.ends_with("-01"),
            "{text}"
        );
        assert_ne!(context.span_id, 0xb7ad_6b71_6920_3331);
        assert!(!of("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00").is_sampled);
        // A later version may have more to say.
        assert!(
            of("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x")
                .parent
                .is_some()
        );
        for wrong in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            let begun = of(wrong);
            assert!(
                begun.parent.is_none() && begun.trace_id != 0 && begun.is_sampled,
                "{wrong}"
            );
        }
    }

    proptest! {
        #[test]
        fn whatever_is_sent_is_no_panic(text in "\\PC{0,80}") {
            let _ = read(&text);
        }
    }
}
