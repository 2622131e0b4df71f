//! Spans in the wire format of OTLP: `ExportTraceServiceRequest` in protobuf (opentelemetry-proto 1.x, `trace_service.proto`).
//!
//! Written out, for it is five messages: the generated code and its run time are many times the rest of this crate.

use std::time::{SystemTime, UNIX_EPOCH};

use super::super::spans::{Attribute, Span};

const KIND_INTERNAL: u64 = 1;
const KIND_SERVER: u64 = 2;
const STATUS_ERROR: u64 = 2;
/// W3C trace flags: sampled.
const SAMPLED: u32 = 1;

/// One message of protobuf.
#[derive(Debug, Default)]
struct Message(Vec<u8>);

impl Message {
    fn key(&mut self, field: u64, wire_type: u64) {
        self.varint(field << 3 | wire_type);
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn number(mut self, field: u64, value: u64) -> Self {
        self.key(field, 0);
        self.varint(value);
        self
    }

    fn fixed64(mut self, field: u64, value: u64) -> Self {
        self.key(field, 1);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn fixed32(mut self, field: u64, value: u32) -> Self {
        self.key(field, 5);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn bytes(mut self, field: u64, bytes: &[u8]) -> Self {
        self.key(field, 2);
        self.varint(bytes.len() as u64);
        self.0.extend(bytes);
        self
    }

    fn text(self, field: u64, text: &str) -> Self {
        self.bytes(field, text.as_bytes())
    }

    fn message(self, field: u64, message: &Self) -> Self {
        self.bytes(field, &message.0)
    }

    fn messages(self, field: u64, messages: impl Iterator<Item = Self>) -> Self {
        messages.fold(self, |all, message| all.message(field, &message))
    }
}

/// The body of a request to the collector.
pub(super) fn request(service_name: &str, spans: &[Span]) -> Vec<u8> {
    let name = Attribute::Text(service_name.to_owned());
    let resource = Message::default().message(1, &attribute("service.name", &name));
    let scope = Message::default()
        .text(1, env!("CARGO_PKG_NAME"))
        .text(2, env!("CARGO_PKG_VERSION"));
    let scope_spans = Message::default()
        .message(1, &scope)
        .messages(2, spans.iter().map(span));
    let resource_spans = Message::default()
        .message(1, &resource)
        .message(2, &scope_spans);
    Message::default().message(1, &resource_spans).0
}

fn span(span: &Span) -> Message {
    let mut message = Message::default()
        .bytes(1, &span.trace_id.to_be_bytes())
        .bytes(2, &span.span_id.to_be_bytes());
    if let Some(parent) = span.parent {
        message = message.bytes(4, &parent.to_be_bytes());
    }
    let kind = if span.is_server {
        KIND_SERVER
    } else {
        KIND_INTERNAL
    };
    let attributes = span.attributes.iter();
    message = message
        .text(5, &span.name)
        .number(6, kind)
        .fixed64(7, nanoseconds(span.start))
        .fixed64(8, nanoseconds(span.end))
        .messages(9, attributes.map(|(name, value)| attribute(name, value)));
    if span.is_error {
        message = message.message(15, &Message::default().number(3, STATUS_ERROR));
    }
    message.fixed32(16, SAMPLED)
}

fn attribute(name: &str, value: &Attribute) -> Message {
    let value = match value {
        Attribute::Text(text) => Message::default().text(1, text),
        Attribute::Number(number) => Message::default().number(3, number.cast_unsigned()),
    };
    Message::default().text(1, name).message(2, &value)
}

/// Since 1970.
fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Against the bytes that the specification asks for, put together by hand.
    #[test]
    fn messages_are_those_of_the_specification() {
        let start = UNIX_EPOCH + Duration::from_nanos(1);
        let example = Span {
            name: "a".to_owned(),
            trace_id: 1,
            span_id: 2,
            parent: Some(3),
            is_server: true,
            start,
            end: start + Duration::from_nanos(299),
            attributes: vec![("n", Attribute::Number(300))],
            is_error: true,
        };
        let span = [
            &[0x0a, 16][..],
            &1_u128.to_be_bytes(),
            &[0x12, 8],
            &2_u64.to_be_bytes(),
            &[0x22, 8],
            &3_u64.to_be_bytes(),
            &[0x2a, 1, b'a', 0x30, 2],
            &[0x39],
            &1_u64.to_le_bytes(),
            &[0x41],
            &300_u64.to_le_bytes(),
            &[0x4a, 8, 0x0a, 1, b'n', 0x12, 3, 0x18, 0xac, 0x02],
            &[0x7a, 2, 0x18, 2],
            &[0x85, 0x01, 1, 0, 0, 0],
        ]
        .concat();
        assert_eq!(super::span(&example).0, span);
        let body = request("glm", &[example]);
        // resource_spans, its resource, the one attribute of that.
        assert_eq!(body[0], 0x0a);
        let resource = b"\x0a\x17\x0a\x15\x0a\x0cservice.name\x12\x05\x0a\x03glm";
        assert!(
            body.windows(resource.len()).any(|bytes| bytes == resource),
            "{body:x?}"
        );
        assert!(body.ends_with(&span));
    }
}
