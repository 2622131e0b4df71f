//! Tokenizers.

/// A tokenizer.
#[derive(Debug, Clone)]
pub struct Tokenizer;

/// Why text could not be tokenized, or a tokenizer not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {}
