//! Why an answer cannot be held to a grammar.

use std::sync::Arc;

/// Why a request's [`Grammar`](crate::Grammar) cannot be used, or could not be followed to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GrammarError {
    /// It is malformed, asks for something unsupported, or nothing satisfies it.
    #[error("the {kind} cannot be used: {reason}")]
    Invalid {
        /// Kind of grammar, in words.
        kind: &'static str,
        /// What is wrong and, as far as it is known, where.
        reason: Arc<str>,
    },
    /// It is longer, or nested deeper, than is accepted.
    #[error("the {kind} has {found} {unit}; at most {limit} are accepted")]
    TooLarge {
        /// Kind of grammar, in words.
        kind: &'static str,
        /// What was counted.
        unit: &'static str,
        /// How many were found.
        found: usize,
        /// How many are accepted.
        limit: usize,
    },
    /// A list of choices without one.
    #[error("the list of choices is empty")]
    NoChoice,
    /// The model has no id that ends an answer, so a complete one could not end.
    #[error(
        "the model names no end-of-sequence id: an answer could not end where the grammar does"
    )]
    NoEndOfSequence,
    /// The bytes of the vocabulary are more than the parser's tables hold.
    #[error("the vocabulary has {found} bytes; grammars work with at most {limit}")]
    Vocabulary {
        /// Bytes of all tokens.
        found: usize,
        /// The most that the tables hold.
        limit: usize,
    },
    /// In the middle of an answer no token led on, or finding out took more work than is allowed.
    #[error("the {kind} could not be followed after {tokens} tokens: {reason}")]
    Stuck {
        /// Kind of grammar, in words.
        kind: &'static str,
        /// Tokens of the answer until then.
        tokens: usize,
        /// What happened.
        reason: Arc<str>,
    },
}

impl GrammarError {
    pub(super) fn invalid(kind: &'static str, error: impl std::fmt::Display) -> Self {
        let reason = reason(&error.to_string());
        Self::Invalid { kind, reason }
    }

    pub(super) fn stuck(kind: &'static str, tokens: usize, error: impl std::fmt::Display) -> Self {
        let reason = reason(&error.to_string());
        Self::Stuck {
            kind,
            tokens,
            reason,
        }
    }
}

/// Longest reason in characters: a grammar of a megabyte on one line would be quoted whole.
const MAX_REASON: usize = 400;

/// The message of the parser on one line, without the dump of its state that it appends in pointed brackets.
fn reason(text: &str) -> Arc<str> {
    let ends = ["\n<state>", "\n<non-verbose/>", "\n<backtrace>"];
    let end = ends.iter().filter_map(|end| text.find(end)).min();
    let words = text[..end.unwrap_or(text.len())].split_whitespace();
    let line = words.collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MAX_REASON) {
        Some((at, _)) => format!("{} …", &line[..at]).into(),
        None => line.into(),
    }
}
