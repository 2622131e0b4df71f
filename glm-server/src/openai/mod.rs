//! OpenAI's dialect: JSON bodies to requests for the engine, and its answers to JSON bodies.
//!
//! [`Call::read`] takes the body of a request; [`Form::response`] makes the body of the response, or [`Chunks`] those of a stream;
//! [`ApiError::body`] is that of an error. No transport is involved: lines of a batch file and HTTP requests go the same way.
//!
//! A field that OpenAI does not have is ignored, unless it is one of the extensions that vLLM made common (`top_k`, `min_p`,
//! `repetition_penalty`, …). A field that OpenAI has and this version cannot honour is an error that names it, unless its
//! value asks for nothing. `model` may be any name: an engine has one
//! model. If it is that of a LoRA adapter, the adapter answers; `adapter` asks for one in so many words.

mod error;
mod fields;
mod format;
mod request;
mod response;
mod stream;
#[cfg(test)]
mod stream_tests;
#[cfg(test)]
mod structured_tests;
#[cfg(test)]
mod tests;
mod tokens;
mod tools;

use std::fmt;

pub use error::ApiError;
pub use request::{Call, MAX_N, MAX_PROMPTS};
pub use response::{Form, Stamp};
pub use stream::Chunks;
pub use tokens::{detokenize, tokenize};

/// What is asked for, by the path that it is asked under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Endpoint {
    /// `/v1/chat/completions`
    ChatCompletions,
    /// `/v1/completions`
    Completions,
}

/// Paths of OpenAI's interface that this version does not serve.
const NOT_YET: [&str; 4] = [
    "/v1/embeddings",
    "/v1/responses",
    "/v1/moderations",
    "/v1/images/generations",
];

impl Endpoint {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::ChatCompletions, Self::Completions];

    /// The endpoint of a path.
    ///
    /// # Errors
    /// 404 for any other path; the message says whether it is one of OpenAI's.
    pub fn from_path(path: &str) -> Result<Self, ApiError> {
        let found = Self::ALL
            .into_iter()
            .find(|endpoint| endpoint.path() == path);
        found.ok_or_else(|| {
            let problem = if NOT_YET.contains(&path) {
                "is not supported yet"
            } else {
                "is not an endpoint"
            };
            let known = Self::ALL.map(Self::path).join(", ");
            ApiError::not_found(format!("`{path}` {problem}; supported: {known}"))
        })
    }

    /// Its path.
    pub fn path(self) -> &'static str {
        match self {
            Self::ChatCompletions => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.path())
    }
}
