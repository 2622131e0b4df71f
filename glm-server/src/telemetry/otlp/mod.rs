//! [`OtlpExporter`]: spans to a collector of OpenTelemetry, over HTTP in protobuf.

mod encode;

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use super::spans::{Span, SpanSink};

/// Spans that may wait to be sent; what comes on top of them is dropped.
const MAX_WAITING: usize = 4096;
/// Spans in one request.
const MAX_BATCH: usize = 512;
/// How long a span waits for others to be sent with.
const MAX_DELAY: Duration = Duration::from_secs(1);
/// How long the collector may take for anything.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Where the collector is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtlpEndpoint {
    host: String,
    port: u16,
    path: String,
}

/// Why spans cannot be sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OtlpError {
    /// Not a URL of a collector.
    #[error("expected the URL of a collector, such as http://127.0.0.1:4318, found `{0}`")]
    Url(String),
    /// TLS to collectors is not spoken.
    #[error(
        "`{0}`: spans are sent in plain HTTP; let a collector on this machine pass them on over TLS"
    )]
    Https(String),
    /// The system gives no thread.
    #[error("cannot start the thread that sends spans")]
    Thread(#[source] io::Error),
}

impl std::str::FromStr for OtlpEndpoint {
    type Err = OtlpError;

    /// `http://HOST[:PORT][/PATH]`; `/v1/traces` is put behind it, as the specification of OTLP's exporters has it.
    fn from_str(url: &str) -> Result<Self, OtlpError> {
        let wrong = || OtlpError::Url(url.to_owned());
        if url.starts_with("https://") {
            return Err(OtlpError::Https(url.to_owned()));
        }
        let rest = url.strip_prefix("http://").ok_or_else(wrong)?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().map_err(|_| wrong())?)
            }
            _ => (authority, 4318),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if host.is_empty() || !is_plain(host) || !is_plain(path) {
            return Err(wrong());
        }
        let path = match path.trim_end_matches('/') {
            "" => "/v1/traces".to_owned(),
            path => format!("/{path}/v1/traces"),
        };
        Ok(Self {
            host: host.to_owned(),
            port,
            path,
        })
    }
}

enum Order {
    Take(Span),
    Flush(SyncSender<()>),
}

/// Sends spans from a thread of its own, some together. While the collector is away, spans are dropped, and the log says so.
#[derive(Debug)]
pub struct OtlpExporter {
    orders: SyncSender<Order>,
    dropped: AtomicU64,
}

impl OtlpExporter {
    /// Sends spans of the service of this name from now on.
    ///
    /// # Errors
    /// [`OtlpError::Thread`].
    pub fn start(endpoint: OtlpEndpoint, service_name: &str) -> Result<Self, OtlpError> {
        let (orders, waiting) = mpsc::sync_channel(MAX_WAITING);
        let service_name = service_name.to_owned();
        thread::Builder::new()
            .name("glm-otlp".to_owned())
            .spawn(move || export(&endpoint, &service_name, &waiting))
            .map_err(OtlpError::Thread)?;
        Ok(Self {
            orders,
            dropped: AtomicU64::new(0),
        })
    }

    /// Waits until the spans that are there have been sent, for a while: to be called before the process ends.
    pub fn flush(&self) {
        let (sent, is_sent) = mpsc::sync_channel(1);
        if self.orders.try_send(Order::Flush(sent)).is_ok() {
            let _ = is_sent.recv_timeout(TIMEOUT);
        }
    }
}

impl SpanSink for OtlpExporter {
    fn export(&self, span: Span) {
        if self.orders.try_send(Order::Take(span)).is_err() {
            let before = self.dropped.fetch_add(1, Ordering::Relaxed);
            if before == 0 {
                tracing::warn!("spans are dropped: the collector is too slow");
            }
        }
    }
}

fn export(endpoint: &OtlpEndpoint, service_name: &str, waiting: &Receiver<Order>) {
    let mut is_away = false;
    while let Ok(first) = waiting.recv() {
        let (spans, flushed) = batch(first, waiting);
        if !spans.is_empty() {
            let sent = send(endpoint, &encode::request(service_name, &spans));
            match (&sent, is_away) {
                (Err(error), false) => {
                    tracing::warn!(
                        error = error as &dyn std::error::Error,
                        "spans are dropped: the collector does not take them"
                    );
                }
                (Ok(()), true) => tracing::info!("the collector takes spans again"),
                _ => {}
            }
            is_away = sent.is_err();
        }
        if let Some(flushed) = flushed {
            let _ = flushed.send(());
        }
    }
}

/// Spans to be sent together, and who waits for that.
fn batch(first: Order, waiting: &Receiver<Order>) -> (Vec<Span>, Option<SyncSender<()>>) {
    let until = Instant::now() + MAX_DELAY;
    let (mut spans, mut next) = (Vec::new(), Some(first));
    while let Some(order) = next {
        match order {
            Order::Take(span) => spans.push(span),
            Order::Flush(flushed) => return (spans, Some(flushed)),
        }
        if spans.len() == MAX_BATCH {
            break;
        }
        // What ends the wait ends the batch: the time, or the exporter.
        let left = until.saturating_duration_since(Instant::now());
        next = waiting.recv_timeout(left).ok();
    }
    (spans, None)
}

/// Posts a request, on a connection of its own.
fn send(endpoint: &OtlpEndpoint, body: &[u8]) -> io::Result<()> {
    let OtlpEndpoint { host, port, path } = endpoint;
    let mut addresses = (host.as_str(), *port).to_socket_addrs()?;
    let address = addresses.next().ok_or(io::ErrorKind::NotFound)?;
    let mut socket = TcpStream::connect_timeout(&address, TIMEOUT)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    socket.set_write_timeout(Some(TIMEOUT))?;
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-type: application/x-protobuf\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    );
    socket.write_all(head.as_bytes())?;
    socket.write_all(body)?;
    let mut status = [0; 12];
    socket.read_exact(&mut status)?;
    match status.starts_with(b"HTTP/1.") && status[9] == b'2' {
        true => Ok(()),
        false => Err(io::Error::other(
            String::from_utf8_lossy(&status).into_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_those_of_collectors() {
        let read = |url: &str| {
            url.parse::<OtlpEndpoint>()
                .map(|found| (found.host, found.port, found.path))
        };
        let expect = |host: &str, port, path: &str| (host.to_owned(), port, path.to_owned());
        assert_eq!(
            read("http://127.0.0.1:4318").unwrap(),
            expect("127.0.0.1", 4318, "/v1/traces")
        );
        assert_eq!(
            read("http://collector/").unwrap(),
            expect("collector", 4318, "/v1/traces")
        );
        assert_eq!(
            read("http://[::1]:1/a/b/").unwrap(),
            expect("::1", 1, "/a/b/v1/traces")
        );
        assert_eq!(
            read("http://[::1]").unwrap(),
            expect("::1", 4318, "/v1/traces")
        );
        assert!(matches!(
            read("https://collector"),
            Err(OtlpError::Https(_))
        ));
        for wrong in [
            "",
            "collector:4318",
            "http://",
            "http://a:b",
            "http://a\r\nb",
        ] {
            assert!(matches!(read(wrong), Err(OtlpError::Url(_))), "{wrong}");
        }
    }
}
