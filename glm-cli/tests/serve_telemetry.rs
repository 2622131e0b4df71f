//! `serve`: what it writes down about requests, and what it does not.
#![cfg(unix)]

mod common;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use common::service::{Service, completion};
use common::{arg, command, glm};
use flate2::read::GzDecoder;
use serde_json::{Value, json};
use tempfile::TempDir;

const TRACEPARENT: &str =
    "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n";

/// The lines of a log, each an object.
fn lines(log: &str) -> Vec<Value> {
    let line =
        |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    log.lines().map(line).collect()
}

fn stop(service: Service) {
    service.signal("TERM");
    assert_eq!(service.end().code, Some(0));
}

#[test]
fn a_request_is_a_line_and_its_prompt_is_not_in_it() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("glm.log");
    for bodies in [false, true] {
        let mut args = vec!["--log-file", arg(&file), "--service-name", "mine"];
        args.extend(bodies.then_some("--log-bodies"));
        let service = Service::start(&args);
        let headers = format!("{TRACEPARENT}x-request-id: mine-1\r\n");
        let response = service.ask(
            "POST",
            "/v1/completions",
            &headers,
            &completion().to_string(),
        );
        assert_eq!(response.status, 200);
        assert!(
            response
                .head
                .contains("traceparent: 00-0af7651916cd43dd8448eb211c80319c-"),
            "{}",
            response.head
        );
        assert_eq!(service.get("/livez").status, 200);
        stop(service);
        let log = fs::read_to_string(&file).unwrap();
        let lines = lines(&log);
        for line in &lines {
            for field in ["timestamp", "level", "service_name", "message"] {
                assert!(line[field].is_string(), "{field}: {line}");
            }
        }
        let request = lines
            .iter()
            .find(|line| line["path"] == "/v1/completions")
            .unwrap();
        for (field, expected) in [
            ("level", "INFO"),
            ("service_name", "mine"),
            ("request_id", "mine-1"),
            ("trace_id", "0af7651916cd43dd8448eb211c80319c"),
            ("method", "POST"),
            ("tenant", "default"),
        ] {
            assert_eq!(request[field], expected, "{request}");
        }
        assert_eq!(
            (&request["status"], &request["completion_tokens"]),
            (&json!(200), &json!(8))
        );
        assert_eq!(request["complete"], true, "{request}");
        // Probes come all the time.
        assert!(!log.contains("/livez"), "{log}");
        assert_eq!(log.contains("Once"), bodies, "{log}");
        fs::remove_file(&file).unwrap();
    }
}

#[test]
fn sighup_changes_what_is_logged() {
    let dir = TempDir::new().unwrap();
    let (config, file) = (dir.path().join("glm.toml"), dir.path().join("glm.log"));
    fs::write(&config, "log_level = \"warn\"\n").unwrap();
    let service = Service::start(&["--config", arg(&config), "--log-file", arg(&file)]);
    assert_eq!(service.get("/v1/models").status, 200);
    assert_eq!(fs::read_to_string(&file).unwrap(), "");
    fs::write(
        &config,
        "log_level = \"debug\"\nhealth_weights = \"engine=0,queue=0,memory=0,errors=1\"\n",
    )
    .unwrap();
    service.signal("HUP");
    let deadline = Instant::now() + Duration::from_secs(60);
    while !fs::read_to_string(&file).unwrap().contains("/livez") {
        assert!(Instant::now() < deadline, "the level never changes");
        assert_eq!(service.get("/livez").status, 200);
    }
    let health = service.get("/healthz").json();
    assert_eq!(
        (&health["score"], &health["status"]),
        (&json!(100), &json!("healthy")),
        "{health}"
    );
    for component in ["llm-router", "task-queue", "storage-engine", "engine"] {
        assert_eq!(
            health["components"][component]["status"], "healthy",
            "{health}"
        );
    }
    stop(service);
    let refused = glm(&["serve", "--health-weights", "luck=3"]);
    assert!(
        refused.code == Some(2) && refused.stderr.contains("engine, queue, memory or errors"),
        "{refused:?}"
    );
}

/// A field of protobuf: its number, and its bytes or its value.
fn fields(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        value
    }
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let len = match key & 7 {
            0 => {
                found.push((key >> 3, varint(&mut bytes).to_le_bytes().to_vec()));
                continue;
            }
            1 => 8,
            2 => varint(&mut bytes) as usize,
            5 => 4,
            other => panic!("wire type {other}"),
        };
        found.push((key >> 3, bytes[..len].to_vec()));
        bytes = &bytes[len..];
    }
    found
}

fn field(bytes: &[u8], number: u64) -> Vec<u8> {
    let found = fields(bytes)
        .into_iter()
        .find(|(found, _)| *found == number);
    found.map(|(_, bytes)| bytes).unwrap_or_default()
}

/// One request to a collector: its head and body.
fn take(mut socket: TcpStream) -> (String, Vec<u8>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    socket.read_exact(&mut body).unwrap();
    socket
        .write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        .unwrap();
    (head, body)
}

/// The next connection; only a failure takes so long.
fn accepted(collector: &TcpListener) -> TcpStream {
    let deadline = Instant::now() + Duration::from_secs(120);
    collector.set_nonblocking(true).unwrap();
    loop {
        match collector.accept() {
            Ok((socket, _)) => {
                socket.set_nonblocking(false).unwrap();
                return socket;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("{error}"),
        }
        assert!(Instant::now() < deadline, "no span comes");
        thread::sleep(Duration::from_millis(5));
    }
}

/// So many spans as a collector gets them, of what the environment of the service says.
fn received(collector: &TcpListener, count: usize) -> Vec<Vec<u8>> {
    let mut spans = Vec::new();
    // They may come in several requests.
    while spans.len() < count {
        let (head, packed) = take(accepted(collector));
        assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
        for line in [
            "content-type: application/x-protobuf",
            "content-encoding: gzip",
            "api-key: secret one",
        ] {
            assert!(head.contains(&format!("{line}\r\n")), "{line}: {head}");
        }
        let mut body = Vec::new();
        GzDecoder::new(&*packed).read_to_end(&mut body).unwrap();
        let resource_spans = field(&body, 1);
        let resource = fields(&field(&resource_spans, 1));
        for (name, value) in [("service.name", "mine"), ("zone", "a")] {
            let says = |(number, attribute): &(u64, Vec<u8>)| {
                *number == 1
                    && field(attribute, 1) == name.as_bytes()
                    && field(&field(attribute, 2), 1) == value.as_bytes()
            };
            assert!(resource.iter().any(says), "{name}: {resource:x?}");
        }
        let scope_spans = fields(&field(&resource_spans, 2)).into_iter();
        let found = scope_spans.filter(|(number, _)| *number == 2);
        spans.extend(found.map(|(_, span)| span));
    }
    spans
}

#[test]
fn spans_of_a_request_reach_a_collector() {
    let collector = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", collector.local_addr().unwrap());
    let receiving = thread::spawn(move || received(&collector, 4));
    let mut command = command(&["serve", "--port", "0", "--service-name", "mine"]);
    command
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &url)
        .env("OTEL_EXPORTER_OTLP_HEADERS", "api-key=secret%20one")
        .env("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
        .env("OTEL_RESOURCE_ATTRIBUTES", "zone=a");
    let service = Service::start_with(command);
    let response = service.ask(
        "POST",
        "/v1/completions",
        TRACEPARENT,
        &completion().to_string(),
    );
    assert_eq!(response.status, 200);
    // What is not to be sampled is not sent.
    let unsampled = TRACEPARENT.replace("-01\r\n", "-00\r\n");
    assert_eq!(service.ask("GET", "/v1/models", &unsampled, "").status, 200);
    stop(service);
    let spans = receiving.join().unwrap();
    let named = |name: &str| {
        let mut found = spans
            .iter()
            .filter(|span| field(span, 5) == name.as_bytes());
        let span = found
            .next()
            .unwrap_or_else(|| panic!("no span {name}"))
            .clone();
        assert!(found.next().is_none(), "{name}");
        span
    };
    let request = named("POST /v1/completions");
    assert_eq!(field(&request, 4), 0xb7ad_6b71_6920_3331_u64.to_be_bytes());
    let time = |span: &[u8], number| u64::from_le_bytes(field(span, number).try_into().unwrap());
    let [queue, prefill, decode] = ["queue", "prefill", "decode"].map(named);
    for span in [&request, &queue, &prefill, &decode] {
        assert_eq!(
            field(span, 1),
            0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes()
        );
        assert!(time(span, 7) <= time(span, 8));
    }
    for part in [&queue, &prefill, &decode] {
        assert_eq!(field(part, 4), field(&request, 2));
    }
    assert_eq!(
        (time(&queue, 8), time(&prefill, 8)),
        (time(&prefill, 7), time(&decode, 7))
    );
    assert!(time(&decode, 8) > time(&decode, 7));
}
