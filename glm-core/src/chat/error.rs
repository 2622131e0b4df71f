//! Why a chat could not be turned into a prompt.

use std::path::PathBuf;

use crate::tokenizer::TokenizerError;

/// Why a chat template could not be read, or a chat not be rendered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// `tokenizer_config.json` does not parse.
    #[error("{file} is not valid JSON: {source}", file = file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// Position and reason.
        source: serde_json::Error,
    },
    /// The template is not valid Jinja.
    #[error("{file}: chat template, line {line}: {reason}", file = file.display())]
    Syntax {
        /// The file that holds the template.
        file: PathBuf,
        /// Line of the template, from 1.
        line: usize,
        /// The template engine's reason.
        reason: String,
    },
    /// The template failed on this chat.
    #[error("{file}: chat template, line {line}: {reason}", file = file.display())]
    Render {
        /// The file that holds the template.
        file: PathBuf,
        /// Line of the template, from 1; 0 if unknown.
        line: usize,
        /// The template engine's reason.
        reason: String,
    },
    /// The template refused this chat with `raise_exception`.
    #[error("the chat template refuses this chat: {message}")]
    Raised {
        /// The template's own words.
        message: String,
    },
    /// The template ran longer than any chat needs; it loops for ever.
    #[error("{file}: the chat template did not end within {limit} instructions; it loops for ever or the chat is absurdly long", file = file.display())]
    Endless {
        /// The file that holds the template.
        file: PathBuf,
        /// Instructions allowed.
        limit: u64,
    },
    /// The rendered prompt is larger than any model can read.
    #[error("{file}: the chat template writes more than {limit} bytes", file = file.display())]
    TooLong {
        /// The file that holds the template.
        file: PathBuf,
        /// Bytes allowed.
        limit: usize,
    },
    /// The chat format has no such role.
    #[error("message {index}: role `{role}` is not known to this model (known: {known})")]
    Role {
        /// Position of the message, from 0.
        index: usize,
        /// The role given.
        role: String,
        /// The roles there are.
        known: &'static str,
    },
    /// The chat format is text only.
    #[error(
        "message {index}: content of type `{kind}` is not supported by this model's chat format; send text"
    )]
    Content {
        /// Position of the message, from 0.
        index: usize,
        /// The type of the content part.
        kind: String,
    },
    /// The tokenizer cannot encode the prompt.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}
