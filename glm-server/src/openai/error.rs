//! Errors as OpenAI's clients understand them.

use glm_runtime::{BeamError, EngineError, ErrorKind};
use serde_json::{Value, json};

/// Why a request has no answer: a status, and what the body of the response says about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
#[non_exhaustive]
pub struct ApiError {
    /// HTTP status code.
    pub status: u16,
    /// `type`: the coarse class.
    pub kind: &'static str,
    /// The field that is to blame.
    pub param: Option<String>,
    /// For programs to tell errors of one class apart.
    pub code: Option<&'static str>,
    /// For people.
    pub message: String,
}

impl ApiError {
    /// 400: the request is wrong, `param` being the field to blame.
    pub fn invalid(param: &str, message: impl Into<String>) -> Self {
        Self {
            status: 400,
            kind: "invalid_request_error",
            param: Some(param.to_owned()),
            code: Some("invalid_value"),
            message: message.into(),
        }
    }

    /// 400: a field that must be there is not.
    pub fn missing(param: &str) -> Self {
        Self {
            code: Some("missing_required_parameter"),
            ..Self::invalid(param, format!("`{param}` is missing"))
        }
    }

    /// 400: a field that is right, but asks for something that this version does not do.
    pub fn not_supported(param: &str, message: impl Into<String>) -> Self {
        Self {
            code: Some("unsupported_parameter"),
            ..Self::invalid(param, message)
        }
    }

    /// 404.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self {
            status: 404,
            kind: "invalid_request_error",
            param: None,
            code: Some("unknown_url"),
            message: message.into(),
        }
    }

    /// The body of the response: `{"error": {…}}`.
    pub fn body(&self) -> Value {
        json!({"error": {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }})
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        let (status, kind, code) = match error.kind() {
            ErrorKind::InvalidRequest => (400, "invalid_request_error", "invalid_value"),
            ErrorKind::ContextLength => (400, "invalid_request_error", "context_length_exceeded"),
            ErrorKind::Overloaded => (429, "rate_limit_error", "engine_overloaded"),
            ErrorKind::Unavailable => (503, "server_error", "engine_unavailable"),
            ErrorKind::Timeout => (504, "server_error", "timeout"),
            _ => (500, "server_error", "engine_failed"),
        };
        let param = match &error {
            EngineError::Sampling(wrong) => Some(wrong.name),
            EngineError::MaxTokens => Some("max_tokens"),
            EngineError::MinTokens { .. } => Some("min_tokens"),
            EngineError::EmptyStop => Some("stop"),
            EngineError::Priority(_) => Some("priority"),
            EngineError::Adapter(_) => Some("adapter"),
            EngineError::Beam(BeamError::Combined(name)) => Some(*name),
            EngineError::Beam(BeamError::LengthPenalty(_)) => Some("length_penalty"),
            EngineError::Beam(_) => Some("use_beam_search"),
            EngineError::Template(_) => Some("messages"),
            _ => None,
        };
        Self {
            status,
            kind,
            param: param.map(str::to_owned),
            code: Some(code),
            message: error.to_string(),
        }
    }
}
