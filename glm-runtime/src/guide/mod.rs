//! Structured output: what an answer must look like, as masks over the next token.
//!
//! [`Grammar`] is what a request asks for. [`GuideFactory`] compiles it over the model's vocabulary, once for all requests that
//! ask for the same. [`Guide`] follows one answer: before a token is chosen it says which ones the grammar allows, and
//! afterwards it goes on by the one that was.
//!
//! Parser and lexer are `llguidance`'s. A guide works on the bytes of tokens, so any split of the text into tokens will do;
//! added tokens (`<|user|>`, `<think>`) are never text, and only a Lark grammar that names them lets them in. Each guide has
//! caches of its own, because a shared one would count what other requests did against a request's limits.

mod ahead;
mod arguments;
mod error;
mod factory;
mod grammar;
mod limit;
mod sequence;
#[cfg(test)]
mod tests;
mod thinking;
#[cfg(test)]
mod tool_tests;
mod tools;
mod vocabulary;

pub(crate) use ahead::MaskThreads;
pub use error::GrammarError;
pub(crate) use factory::GuideFactory;
pub use grammar::Grammar;
pub(crate) use limit::ThoughtLimit;
pub(crate) use sequence::{EndRules, Guide};
pub use tools::ToolCalls;
pub(crate) use vocabulary::TokenMask;
