//! What goes wrong: [`ServeError`] for the service, [`Refusal`] for one request.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use glm_runtime::EngineError;
use serde_json::Value;

use crate::openai::ApiError;

/// When to come back to a service that is busy. Places come free with every answer that ends.
const RETRY_AFTER_BUSY: Duration = Duration::from_secs(1);

/// Why the service does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address is not one of this machine's own.
    #[error(
        "{0} can be reached from other machines, and anybody there could use the model: listen on 127.0.0.1, or allow it with --insecure"
    )]
    Unprotected(SocketAddr),
    /// The host is no name or address.
    #[error("cannot find the address of host `{host}`")]
    Host {
        /// What was asked for.
        host: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The port cannot be opened: another program has it, for one.
    #[error("cannot listen on {host}:{port}")]
    Bind {
        /// The host asked for.
        host: String,
        /// The port asked for.
        port: u16,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The operating system refused threads or timers.
    #[error("cannot start the service")]
    Runtime(#[source] io::Error),
}

/// A response of JSON.
pub(super) fn json(status: StatusCode, value: &Value) -> Response {
    let content_type = HeaderValue::from_static("application/json");
    (status, [(CONTENT_TYPE, content_type)], value.to_string()).into_response()
}

/// An error of this status and code that names no field.
pub(super) fn error(
    status: StatusCode,
    code: &'static str,
    message: impl Into<String>,
) -> ApiError {
    ApiError {
        status: status.as_u16(),
        kind: match status.is_server_error() {
            true => "server_error",
            false => "invalid_request_error",
        },
        param: None,
        code: Some(code),
        message: message.into(),
    }
}

/// A request that gets an error for an answer. It is no [`ApiError`] itself, so that this crate's public types know no version of
/// axum.
#[derive(Debug)]
pub(super) struct Refusal {
    error: ApiError,
    retry_after: Option<Duration>,
}

impl Refusal {
    /// Asks the client to come back after this time.
    pub(super) fn retry_after(mut self, time: Duration) -> Self {
        self.retry_after = Some(time);
        self
    }
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        let busy = matches!(error.status, 429 | 503);
        Self {
            error,
            retry_after: busy.then_some(RETRY_AFTER_BUSY),
        }
    }
}

impl From<EngineError> for Refusal {
    fn from(error: EngineError) -> Self {
        ApiError::from(error).into()
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.error.status);
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = json(status, &self.error.body());
        if let Some(time) = self.retry_after {
            let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
            let headers = response.headers_mut();
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        response
    }
}
