//! [`OtlpExporter`]: spans to a collector of OpenTelemetry, over HTTP or HTTPS in protobuf.
//!
//! OpenTelemetry's own crates do it: a bounded line of spans, a thread that sends some together, tries again, and is flushed at the end. What
//! the specification has environment variables for is set by them: `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_EXPORTER_OTLP_COMPRESSION`,
//! `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_BSP_*`.

mod client;
mod convert;

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::http::Uri;
use opentelemetry_otlp::{
    ExporterBuildError, Protocol, SpanExporter as OtlpSpans, WithExportConfig, WithHttpConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{BatchSpanProcessor, SpanData, SpanExporter, SpanProcessor};

use self::client::Client;
use super::spans::{Span, SpanSink};

/// How long the end of the process waits for spans.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the collector is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtlpEndpoint(String);

/// Why spans cannot be sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OtlpError {
    /// Not a URL of a collector.
    #[error("expected the URL of a collector, such as http://127.0.0.1:4318, found `{0}`")]
    Url(String),
    /// The certificates that collectors are to have cannot be read.
    #[error("{} has no certificates in PEM that can be read", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What the environment says about the exporter cannot be done.
    #[error("the exporter of spans cannot be set up: see the variables OTEL_EXPORTER_OTLP_*")]
    Exporter(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl std::str::FromStr for OtlpEndpoint {
    type Err = OtlpError;

    /// `http[s]://HOST[:PORT][/PATH]`; `/v1/traces` is put behind it, as the specification of OTLP's exporters has it.
    fn from_str(url: &str) -> Result<Self, OtlpError> {
        let wrong = || OtlpError::Url(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
        let authority = uri.authority().ok_or_else(wrong)?;
        let names_a_host = !authority.host().is_empty()
            && (authority.port().is_some() || authority.as_str() == authority.host());
        if !is_http || !names_a_host || uri.query().is_some() {
            return Err(wrong());
        }
        Ok(Self(format!("{}/v1/traces", url.trim_end_matches('/'))))
    }
}

/// Sends spans from a thread of its own, some together. Nobody waits for it: what the line has no room for is dropped and counted, and
/// what a collector does not take is dropped in the end; the log says so.
#[derive(Debug)]
pub struct OtlpExporter(BatchSpanProcessor);

impl OtlpExporter {
    /// Sends spans of the service of this name from now on. With `certificates`, a file in PEM, collectors behind TLS must have one of
    /// these or one that is signed by them; else whom the system trusts.
    ///
    /// # Errors
    /// [`OtlpError::Certificates`] and [`OtlpError::Exporter`].
    pub fn start(
        endpoint: OtlpEndpoint,
        service_name: &str,
        certificates: Option<PathBuf>,
    ) -> Result<Self, OtlpError> {
        let failed = |error: ExporterBuildError| OtlpError::Exporter(error.into());
        let spans = OtlpSpans::builder()
            .with_http()
            .with_http_client(Client::new(certificates)?)
            .with_endpoint(endpoint.0)
            .with_protocol(Protocol::HttpBinary)
            .build()
            .map_err(failed)?;
        let resource = Resource::builder().with_service_name(service_name.to_owned());
        let mut processor = BatchSpanProcessor::builder(Reported::new(spans)).build();
        processor.set_resource(&resource.build());
        Ok(Self(processor))
    }

    /// Waits until the spans that are there have been sent, for a while: to be called once, before the process ends. What is exported later is lost.
    pub fn flush(&self) {
        // What goes wrong is in the log.
        let _ = self.0.shutdown_with_timeout(FLUSH_TIMEOUT);
    }
}

impl SpanSink for OtlpExporter {
    fn export(&self, span: Span) {
        self.0.on_end(convert::span(span));
    }
}

/// Says that a collector is away once, and not for each batch.
struct Reported<E> {
    exporter: E,
    is_away: AtomicBool,
}

impl<E> Reported<E> {
    fn new(exporter: E) -> Self {
        Self {
            exporter,
            is_away: AtomicBool::new(false),
        }
    }

    fn report(&self, spans: usize, sent: &OTelSdkResult) {
        let was_away = self.is_away.swap(sent.is_err(), Ordering::Relaxed);
        match (sent, was_away) {
            (Err(error), false) => {
                tracing::warn!(
                    error = error as &dyn std::error::Error,
                    spans,
                    "spans are dropped: the collector does not take them"
                );
            }
            (Ok(()), true) => tracing::info!("the collector takes spans again"),
            _ => {}
        }
    }
}

impl<E: fmt::Debug> fmt::Debug for Reported<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.exporter.fmt(f)
    }
}

impl<E: SpanExporter> SpanExporter for Reported<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let sent = self.exporter.export(batch).await;
        self.report(spans, &sent);
        // It has been reported.
        Ok(())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_those_of_collectors() {
        let read = |url: &str| url.parse::<OtlpEndpoint>().map(|found| found.0);
        for (url, expected) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("https://collector/", "https://collector/v1/traces"),
            ("http://[::1]:1/a/b/", "http://[::1]:1/a/b/v1/traces"),
        ] {
            assert_eq!(read(url).unwrap(), expected);
        }
        for wrong in [
            "",
            "collector:4318",
            "http://",
            "http://a:b",
            "http://a\r\nb",
            "http://a/?b",
            "ftp://a",
        ] {
            assert!(matches!(read(wrong), Err(OtlpError::Url(_))), "{wrong}");
        }
    }
}
