//! [`Owner`]: whose tasks, files and batches a request is about.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use super::caller::Caller;

/// The tenant that a request belongs to. Tenants do not see each other's things.
#[derive(Debug, Clone)]
pub(super) struct Owner(pub(super) Arc<str>);

impl<S: Send + Sync> FromRequestParts<S> for Owner {
    type Rejection = Infallible;

    async fn from_request_parts(_: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(Caller::current().tenant().0))
    }
}
