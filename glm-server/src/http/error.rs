//! What goes wrong: [`ServeError`] for the service, [`Refusal`] for one request.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use glm_runtime::EngineError;
use serde_json::Value;

use super::auth::{JwtError, KeyError};
use super::tls::TlsError;
use crate::jobs::{JobsError, NotTaken, refusal};
use crate::openai::ApiError;

/// Why the service does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address is not one of this machine's own.
    #[error(
        "{0} can be reached from other machines, and anybody there could use the model: ask for keys with --api-key-file, listen on 127.0.0.1, or allow it with --insecure"
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
    /// The process was started with a socket that is none to listen on.
    #[error("cannot listen on the socket that this process was started with")]
    Inherited(#[source] io::Error),
    /// Certificate or key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Tokens cannot be checked.
    #[error(transparent)]
    Jwt(#[from] JwtError),
    /// The keys cannot be used.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The queue of tasks cannot be opened.
    #[error(transparent)]
    Jobs(#[from] JobsError),
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

/// Beside a response that should say when to come back, and does not know it: admission does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Busy;

impl Refusal {
    /// Asks the client to come back after this time.
    pub(super) fn retry_after(mut self, time: Duration) -> Self {
        self.retry_after = Some(time);
        self
    }
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self {
            error,
            retry_after: None,
        }
    }
}

impl From<NotTaken> for Refusal {
    fn from(reason: NotTaken) -> Self {
        match &reason {
            NotTaken::Full { again, .. } => {
                let message = reason.to_string();
                let error = ApiError {
                    kind: "rate_limit_error",
                    ..error(StatusCode::TOO_MANY_REQUESTS, "queue_full", message)
                };
                Self::from(error).retry_after(*again)
            }
            NotTaken::Store(error) => refusal(error).into(),
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
        match self.retry_after {
            Some(time) => come_back_after(&mut response, time),
            None if matches!(self.error.status, 429 | 503) => {
                response.extensions_mut().insert(Busy);
            }
            None => {}
        }
        // For dialects that write errors in another shape.
        response.extensions_mut().insert(self.error);
        response
    }
}

/// `Retry-After`, in whole seconds.
pub(super) fn come_back_after(response: &mut Response, time: Duration) {
    let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    let headers = response.headers_mut();
    headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
}
