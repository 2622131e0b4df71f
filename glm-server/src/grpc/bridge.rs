//! [`Bridge`]: calls to requests of the HTTP interface, and its responses to results of calls.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use futures_util::{Stream, StreamExt, stream};
use serde_json::{Map, Value};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Response, Status};
use tower::ServiceExt;

use crate::http::Inside;

/// What a call's metadata and a request's headers have in common.
const FORWARDED: [HeaderName; 5] = [
    AUTHORIZATION,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
];
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The way from one interface to the other. Responses have with them that their request is [`Inside`].
#[derive(Debug, Clone)]
pub(super) struct Bridge(Router);

impl Bridge {
    pub(super) fn new(http: Router) -> Self {
        Self(http)
    }

    /// Asks under a path, and waits for the whole response.
    ///
    /// # Errors
    /// The error of the HTTP interface, with the status that gRPC has for it.
    pub(super) async fn ask(
        &self,
        metadata: &MetadataMap,
        path: &'static str,
        body: Map<String, Value>,
    ) -> Result<Response<Value>, Status> {
        let response = self.send(metadata, path, body).await?;
        let (metadata, body, extensions) = response.into_parts();
        let answer = json(body).await?;
        Ok(Response::from_parts(metadata, answer, extensions))
    }

    /// Asks under a path for the events of a stream: their JSON, up to `[DONE]`. Dropping them cancels the request.
    ///
    /// # Errors
    /// As for [`Self::ask`]; what goes wrong later is an item.
    pub(super) async fn ask_for_events(
        &self,
        metadata: &MetadataMap,
        path: &'static str,
        body: Map<String, Value>,
    ) -> Result<Response<impl Stream<Item = Result<Value, Status>> + Send + use<>>, Status> {
        let response = self.send(metadata, path, body).await?;
        Ok(response.map(|body| {
            let events = Events {
                bytes: body.into_data_stream(),
                unread: Vec::new(),
                has_ended: false,
            };
            stream::unfold(events, async |mut events| {
                let event = events.next().await?;
                Some((event, events))
            })
        }))
    }

    /// The body of a response that is no error.
    async fn send(
        &self,
        metadata: &MetadataMap,
        path: &'static str,
        body: Map<String, Value>,
    ) -> Result<Response<Body>, Status> {
        let body = Body::from(Value::Object(body).to_string());
        let mut request = Request::post(path)
            .body(body)
            .map_err(|_| Status::internal("no request could be made of the call"))?;
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let given = metadata.clone().into_headers();
        for name in FORWARDED {
            // All of them: who sends two keys is refused.
            for value in given.get_all(&name) {
                headers.append(&name, value.clone());
            }
        }
        let response = match self.0.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        let (mut head, body) = response.into_parts();
        if head.status != StatusCode::OK {
            return Err(refusal(head.status, &head.headers, json(body).await.ok()));
        }
        let mut response = Response::new(body);
        if let Some(inside) = head.extensions.remove::<Arc<Inside>>() {
            response.extensions_mut().insert(inside);
        }
        Ok(response)
    }
}

/// The JSON of a body.
async fn json(body: Body) -> Result<Value, Status> {
    let bytes = axum::body::to_bytes(body, usize::MAX).await;
    let read = bytes
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok());
    read.ok_or_else(|| Status::internal("the answer could not be read"))
}

/// What gRPC calls an error of the HTTP interface. Its code, and when to come back, are in the metadata.
fn refusal(status: StatusCode, headers: &HeaderMap, body: Option<Value>) -> Status {
    let error = body.unwrap_or_default();
    let text = |name: &str| error["error"][name].as_str();
    let message = text("message").map_or_else(|| status.to_string(), str::to_owned);
    let mut metadata = MetadataMap::new();
    if let Some(code) = text("code").and_then(|code| MetadataValue::try_from(code).ok()) {
        metadata.insert("error-code", code);
    }
    let retry_after = headers.get(RETRY_AFTER).and_then(|time| time.to_str().ok());
    if let Some(time) = retry_after.and_then(|time| MetadataValue::try_from(time).ok()) {
        metadata.insert("retry-after", time);
    }
    Status::with_metadata(code(status.as_u16()), message, metadata)
}

fn code(status: u16) -> Code {
    match status {
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::NotFound,
        408 | 504 => Code::DeadlineExceeded,
        413 | 429 => Code::ResourceExhausted,
        400..=499 => Code::InvalidArgument,
        503 => Code::Unavailable,
        _ => Code::Internal,
    }
}

/// How long the client will wait, as gRPC writes it: a number and its unit.
pub(super) fn deadline(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(TIMEOUT)?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    // At most 8 digits, says the protocol.
    let number: u64 = Some(number).filter(|n| n.len() <= 8)?.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// The events of a body.
struct Events {
    bytes: axum::body::BodyDataStream,
    unread: Vec<u8>,
    has_ended: bool,
}

impl Events {
    /// `None` after `[DONE]`. A body that ends without it has broken off, which is the last thing that is said.
    async fn next(&mut self) -> Option<Result<Value, Status>> {
        while !self.has_ended {
            if let Some(event) = self.take() {
                let data = match data(&event) {
                    // A comment, that the connection is alive.
                    None => continue,
                    Some(b"[DONE]") => break,
                    Some(data) => serde_json::from_slice::<Value>(data),
                };
                return Some(match data {
                    Ok(event) if event.get("error").is_some() => {
                        self.has_ended = true;
                        Err(failure(&event))
                    }
                    Ok(event) => Ok(event),
                    Err(_) => Err(Status::internal("an event could not be read")),
                });
            }
            match self.bytes.next().await {
                Some(Ok(bytes)) => self.unread.extend_from_slice(&bytes),
                Some(Err(_)) | None => {
                    self.has_ended = true;
                    return Some(Err(Status::unavailable("the answer has broken off")));
                }
            }
        }
        self.has_ended = true;
        None
    }

    /// The next event that is whole.
    fn take(&mut self) -> Option<Vec<u8>> {
        let end = self.unread.windows(2).position(|pair| pair == b"\n\n")?;
        let rest = self.unread.split_off(end + 2);
        Some(std::mem::replace(&mut self.unread, rest))
    }
}

/// The data of an event, which this service writes on one line.
fn data(event: &[u8]) -> Option<&[u8]> {
    let mut lines = event.split(|byte| *byte == b'\n');
    lines.find_map(|line| line.strip_prefix(b"data: "))
}

/// An error in the middle of a stream.
fn failure(event: &Value) -> Status {
    let error = &event["error"];
    let message = error["message"].as_str().unwrap_or("the answer failed");
    let code = match error["code"].as_str() {
        Some("timeout") => Code::DeadlineExceeded,
        Some("draining" | "starting") => Code::Unavailable,
        _ => Code::Internal,
    };
    Status::new(code, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_a_number_and_a_unit() {
        let read = |text: &'static str| {
            let value = HeaderValue::from_static(text);
            deadline(&HeaderMap::from_iter([(TIMEOUT, value)]))
        };
        assert_eq!(read("250m"), Some(Duration::from_millis(250)));
        assert_eq!(read("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(read("7u"), Some(Duration::from_micros(7)));
        for wrong in ["", "m", "12", "-1S", "1.5S", "123456789S", "1\u{e4}"] {
            assert_eq!(
                HeaderValue::from_str(wrong)
                    .ok()
                    .and_then(|value| deadline(&HeaderMap::from_iter([(TIMEOUT, value)]))),
                None,
                "{wrong}"
            );
        }
        assert_eq!(deadline(&HeaderMap::new()), None);
    }

    #[tokio::test]
    async fn a_body_without_an_end_has_broken_off() {
        let read = async |text: &'static str| {
            let mut events = Events {
                bytes: Body::from(text).into_data_stream(),
                unread: Vec::new(),
                has_ended: false,
            };
            let mut read = Vec::new();
            while let Some(event) = events.next().await {
                read.push(event.map_err(|status| status.code()));
            }
            read
        };
        let one = Ok(serde_json::json!(1));
        assert_eq!(
            read(": alive\n\ndata: 1\n\ndata: [DONE]\n\n").await,
            std::slice::from_ref(&one)
        );
        for cut in ["data: 1\n\n", "data: 1\n\ndata: [DO"] {
            assert_eq!(read(cut).await, [one.clone(), Err(Code::Unavailable)]);
        }
        let failed = "data: {\"error\": {\"code\": \"timeout\"}}\n\n";
        assert_eq!(read(failed).await, [Err(Code::DeadlineExceeded)]);
    }

    #[test]
    fn errors_keep_their_meaning() {
        for (status, wanted) in [
            (400, Code::InvalidArgument),
            (415, Code::InvalidArgument),
            (401, Code::Unauthenticated),
            (403, Code::PermissionDenied),
            (404, Code::NotFound),
            (429, Code::ResourceExhausted),
            (500, Code::Internal),
            (503, Code::Unavailable),
            (504, Code::DeadlineExceeded),
        ] {
            assert_eq!(code(status), wanted, "{status}");
        }
        let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static("7"))]);
        let body = serde_json::json!({"error": {"message": "full", "code": "engine_overloaded"}});
        let status = refusal(StatusCode::TOO_MANY_REQUESTS, &headers, Some(body));
        assert_eq!(status.message(), "full");
        assert_eq!(status.metadata().get("retry-after").unwrap(), "7");
        assert_eq!(
            status.metadata().get("error-code").unwrap(),
            "engine_overloaded"
        );
        assert_eq!(
            refusal(StatusCode::BAD_GATEWAY, &headers, None).code(),
            Code::Internal
        );
    }
}
