//! [`Target`]: what a task, or a line of a batch, asks for.

use std::fmt;

use super::{ApiError, Endpoint};

/// What is asked for where somebody does not wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// Answers of the model.
    Answers(Endpoint),
    /// `/v1/embeddings`: nothing is generated.
    Embeddings,
}

impl Target {
    /// The path of embeddings.
    pub(crate) const EMBEDDINGS: &str = "/v1/embeddings";

    /// # Errors
    /// Those of [`Endpoint::from_path`].
    pub(crate) fn from_path(path: &str) -> Result<Self, ApiError> {
        match path {
            Self::EMBEDDINGS => Ok(Self::Embeddings),
            _ => Endpoint::from_path(path).map(Self::Answers),
        }
    }

    /// The same, where a path stands in this field of a body: then it is the body that is wrong.
    ///
    /// # Errors
    /// 400.
    pub(crate) fn from_field(field: &str, path: &str) -> Result<Self, ApiError> {
        Self::from_path(path).map_err(|error| ApiError {
            status: 400,
            param: Some(field.to_owned()),
            ..error
        })
    }

    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Answers(endpoint) => endpoint.path(),
            Self::Embeddings => Self::EMBEDDINGS,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.path())
    }
}
