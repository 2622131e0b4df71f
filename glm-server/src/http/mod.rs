//! The service: OpenAI's interface over HTTP.
//!
//! [`Server::bind`] opens the port, before a model is loaded: from then on the probes answer. [`Server::start`] hands it the engine
//! that answers requests, and [`Server::join`] waits until it has been told to stop and every stream has ended. A [`Stopper`] tells
//! it, from any thread.
//!
//! A request goes through `request_id` (its name in responses), `auth` (who asks), `admission` (nothing new while the service starts or
//! drains), `limits` (how much the key has left, and who is next), a handler in `routes` (one file for what belongs together), `openai` (bodies to requests) and `answers` (what the engine says). A
//! client that goes away drops its answers, and that cancels them.
//!
//! Handlers run on a few threads that must never wait: reading a body through a chat template or a grammar is done on others.

mod admission;
mod answers;
mod auth;
mod body;
mod caller;
mod companion;
mod connections;
mod dashboard;
mod error;
mod health;
mod limits;
mod metrics;
mod options;
mod patience;
mod profile;
mod query;
mod request_id;
mod routes;
#[cfg(feature = "grpc")]
mod rpc;
mod runner;
mod score;
mod server;
mod spans;
mod sse;
mod state;
mod systemd;
mod tenant;
#[cfg(test)]
mod tests;
mod tls;
mod trace;
#[cfg(test)]
mod working;

#[cfg(feature = "grpc")]
pub(crate) use admission::Inside;
pub use auth::{AuthOptions, JwtError, JwtOptions, KeyError, Scope, hash_key, new_key};
pub use error::ServeError;
pub use limits::RateLimits;
pub use options::{HeapProfile, LiveOptions, ServeOptions};
pub use score::HealthWeights;
pub use server::{Reloader, Server, Stopper};
pub use tls::{TlsError, TlsOptions};

pub use crate::jobs::{JobsError, JobsOptions, QueuePlace};

/// What the log says about the request that is being worked on.
pub(crate) fn request_fields() -> impl Iterator<Item = (String, String)> {
    let fields = caller::Caller::log_fields().into_iter().flatten();
    fields.map(|(name, value)| (name.to_owned(), value))
}
