//! The dialect of `/v1/responses`: items to chats, and answers to items.
//!
//! A body is rewritten as the chat that asks for the same, and goes the way of every chat from there; only the form of the answer is its
//! own. What [`Store`] keeps of an answer lets the next request go on from it.

mod items;
mod request;
mod response;
mod store;
mod stream;
#[cfg(test)]
mod tests;

pub(crate) use request::{FIELDS, read, read_after};
pub(crate) use response::{ResponseForm, Unanswered};
pub(crate) use store::{Store, Stored};
pub(crate) use stream::ResponseEvents;
