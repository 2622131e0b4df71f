//! [`Client`]: the requests of the exporter, over the HTTP client that downloads checkpoints too.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use ureq::Agent;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

use super::OtlpError;

/// How long a collector may take for a request (the specification's value).
const TIMEOUT: Duration = Duration::from_secs(10);

/// It waits on the thread of the exporter, which does nothing else.
#[derive(Debug)]
pub(super) struct Client(Agent);

impl Client {
    /// # Errors
    /// [`OtlpError::Certificates`].
    pub(super) fn new(certificates: Option<PathBuf>) -> Result<Self, OtlpError> {
        let roots = match certificates {
            Some(path) => read(&path).map_err(|source| OtlpError::Certificates { path, source })?,
            None => RootCerts::PlatformVerifier,
        };
        let tls = TlsConfig::builder().root_certs(roots).build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .timeout_global(Some(TIMEOUT))
            // The exporter knows what each status means.
            .http_status_as_error(false)
            .max_redirects(0)
            .build();
        Ok(Self(config.new_agent()))
    }
}

fn read(path: &Path) -> Result<RootCerts, HttpError> {
    let pem = fs::read(path)?;
    let mut found = Vec::new();
    for item in parse_pem(&pem) {
        if let PemItem::Certificate(certificate) = item? {
            found.push(certificate);
        }
    }
    match found.is_empty() {
        true => Err("there is none".into()),
        false => Ok(RootCerts::Specific(Arc::new(found))),
    }
}

#[async_trait::async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (head, body) = request.into_parts();
        let response = self.0.run(Request::from_parts(head, &body[..]))?;
        let (head, mut body) = response.into_parts();
        // It bounds what it reads.
        let body = body.read_to_vec()?;
        Ok(Response::from_parts(head, body.into()))
    }
}
