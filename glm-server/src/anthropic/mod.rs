//! Anthropic's dialect: bodies of `/v1/messages` to chats, and answers to messages made of content blocks.
//!
//! A body is rewritten as the chat that asks for the same, and goes the way of every chat from there; only the form of the answer is its
//! own. Events of a stream carry their names, errors have Anthropic's shape, and no `[DONE]` ends anything.

mod content;
mod error;
mod partial_json;
mod request;
mod response;
mod stream;
#[cfg(test)]
mod tests;

pub(crate) use error::body as error_body;
pub(crate) use request::{COUNT_FIELDS, FIELDS, count_tokens, read};
pub(crate) use response::MessageForm;
pub(crate) use stream::MessageEvents;
