//! Spans to a collector behind TLS.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;
use std::time::SystemTime;

use glm_server::telemetry::{Attribute, OtlpEndpoint, OtlpError, OtlpExporter, Span, SpanSink};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tempfile::TempDir;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};

fn span(name: &str) -> Span {
    let now = SystemTime::now();
    Span {
        name: name.to_owned(),
        trace_id: 1,
        span_id: 2,
        parent: None,
        is_server: true,
        start: now,
        end: now,
        attributes: vec![("answer", Attribute::Number(42))],
        is_error: true,
    }
}

/// Head and body of one request, which is answered.
fn take(mut stream: impl Read + Write) -> (String, Vec<u8>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    stream
        .write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        .unwrap();
    stream.flush().unwrap();
    (head, body)
}

#[test]
fn a_collector_behind_tls_gets_spans_if_its_certificate_is_trusted() {
    let dir = TempDir::new().unwrap();
    let certificates = dir.path().join("collector.pem");
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    fs::write(&certificates, cert.pem()).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let collector = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint: OtlpEndpoint = format!("https://{}", collector.local_addr().unwrap())
        .parse()
        .unwrap();
    let receiving = thread::spawn(move || {
        let (socket, _) = collector.accept().unwrap();
        let connection = ServerConnection::new(Arc::new(config)).unwrap();
        take(StreamOwned::new(connection, socket))
    });
    let exporter = OtlpExporter::start(endpoint.clone(), "mine", Some(certificates)).unwrap();
    exporter.export(span("over tls"));
    exporter.flush();
    let (head, body) = receiving.join().unwrap();
    assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
    for expected in ["over tls", "answer", "service.name", "mine"] {
        let expected = expected.as_bytes();
        assert!(
            body.windows(expected.len()).any(|bytes| bytes == expected),
            "{body:x?}"
        );
    }
    let none = dir.path().join("none.pem");
    fs::write(&none, "nothing").unwrap();
    for path in [none, dir.path().join("missing.pem")] {
        let refused = OtlpExporter::start(endpoint.clone(), "mine", Some(path));
        assert!(matches!(refused, Err(OtlpError::Certificates { .. })));
    }
}
