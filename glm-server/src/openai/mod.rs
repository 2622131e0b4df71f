//! OpenAI's dialect: JSON bodies to requests for the engine, and its answers to JSON bodies.
//!
//! [`Call::read`] takes the body of a request; [`Form::response`] makes the body of the response, or [`Chunks`] those of a stream;
//! [`ApiError::body`] is that of an error. No transport is involved: lines of a batch file and HTTP requests go the same way.
//!
//! A field that OpenAI does not have is ignored, unless it is one of the extensions that vLLM made common (`top_k`, `min_p`,
//! `repetition_penalty`, …). A field that OpenAI has and this version cannot honour is an error that names it, unless its
//! value asks for nothing. `model` must be a name of the
//! engine's model ([`check_model`]); if it is that of a LoRA adapter, the adapter answers; `adapter` asks for one in so many words.

mod echo;
mod embeddings;
mod error;
pub(crate) mod fields;
mod format;
pub(crate) mod known;
mod models;
mod request;
mod response;
mod stream;
#[cfg(test)]
mod stream_tests;
#[cfg(test)]
mod structured_tests;
mod target;
#[cfg(test)]
mod tests;
mod tokens;
mod tools;

use std::fmt;

pub use embeddings::embeddings;
pub(crate) use embeddings::{EMBEDDING_FIELDS, EmbeddingCall};
pub use error::ApiError;
pub use models::check_model;
pub(crate) use models::{no_model, serves};
pub use request::{Call, MAX_N, MAX_PROMPTS};
pub(crate) use response::Dialect;
pub use response::{Form, Stamp};
pub use stream::Chunks;
pub(crate) use target::Target;
pub(crate) use tokens::TOKENIZE_FIELDS;
pub use tokens::{detokenize, tokenize};

/// What is asked for, by the path that it is asked under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Endpoint {
    /// `/v1/chat/completions`
    ChatCompletions,
    /// `/v1/completions`
    Completions,
    /// `/v1/messages`: Anthropic's dialect.
    Messages,
    /// `/v1/responses`
    Responses,
}

/// Paths of OpenAI's interface that this version does not serve.
const NOT_YET: [&str; 2] = ["/v1/moderations", "/v1/images/generations"];

impl Endpoint {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::ChatCompletions,
        Self::Completions,
        Self::Messages,
        Self::Responses,
    ];

    /// The endpoint of a path.
    ///
    /// # Errors
    /// 404 for any other path; the message says whether it is one of OpenAI's.
    pub fn from_path(path: &str) -> Result<Self, ApiError> {
        let found = Self::ALL
            .into_iter()
            .find(|endpoint| endpoint.path() == path);
        found.ok_or_else(|| {
            let problem = match path {
                Target::EMBEDDINGS => "generates nothing",
                _ if NOT_YET.contains(&path) => "is not supported yet",
                _ => "is not an endpoint",
            };
            let known = Self::ALL.map(Self::path).join(", ");
            ApiError::not_found(format!(
                "`{path}` {problem}; supported: {known}, {}",
                Target::EMBEDDINGS
            ))
        })
    }

    /// Its path.
    pub fn path(self) -> &'static str {
        match self {
            Self::ChatCompletions => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Messages => "/v1/messages",
            Self::Responses => "/v1/responses",
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.path())
    }
}
