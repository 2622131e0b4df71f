//! Who asks, and what they may do: API keys and tokens on every route but the probes.
//!
//! A request brings a credential as `Authorization: Bearer …` or `x-api-key: …`, and the middleware [`check`] turns it into an
//! [`Identity`], which the [`Caller`] carries; handlers find its [`Tenant`] among the request's extensions. Which [`Scope`] a path needs is
//! one table, [`Scope::of`]. Without keys everybody is the tenant `default` and may do everything but [`Scope::Admin`].

mod jwt;
#[cfg(test)]
mod jwt_tests;
mod keys;
mod ring_provider;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::caller::Caller;
use super::error::{Refusal, ServeError, error};
use super::limits::RateLimits;
use super::state::Service;
use crate::openai::ApiError;

use jwt::Jwt;
pub use jwt::{JwtError, JwtOptions};
use keys::Keys;
pub use keys::{KeyError, hash_key, new_key};

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// Longer credentials are refused unread: hashing and parsing must not be work that strangers can order.
const MAX_CREDENTIAL: usize = 16 << 10;

/// Whose request it is. Tenants share the service fairly and do not see each other's tasks and files.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Tenant(pub Arc<str>);

impl Default for Tenant {
    fn default() -> Self {
        Self("default".into())
    }
}

/// What a credential allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// To ask the model.
    Inference,
    /// Tasks, batches and files.
    Tasks,
    /// To read the metrics.
    Metrics,
    /// To look into the process.
    Admin,
}

impl Scope {
    /// What there is for everybody whose key says nothing else.
    pub(super) const USUAL: [Self; 3] = [Self::Inference, Self::Tasks, Self::Metrics];
    pub(super) const ALL: [Self; 4] = [Self::Inference, Self::Tasks, Self::Metrics, Self::Admin];

    /// The scope that a path needs.
    pub(super) fn of(path: &str) -> Self {
        const TABLE: [(&str, Scope); 7] = [
            ("/metrics", Scope::Metrics),
            ("/dashboard/", Scope::Metrics),
            ("/debug/", Scope::Admin),
            ("/v1/tasks", Scope::Tasks),
            ("/v1/batches", Scope::Tasks),
            ("/v1/files", Scope::Tasks),
            ("/", Scope::Inference),
        ];
        let found = TABLE.iter().find(|(prefix, _)| path.starts_with(prefix));
        found.map_or(Self::Inference, |(_, scope)| *scope)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Inference => "inference",
            Self::Tasks => "tasks",
            Self::Metrics => "metrics",
            Self::Admin => "admin",
        }
    }
}

/// Where credentials come from. Without any, nobody has to say who they are.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct AuthOptions {
    /// One key, with every scope.
    pub api_key: Option<String>,
    /// A file of keys; read again by [`Reloader::reload`](crate::http::Reloader::reload), and within seconds of a change.
    pub api_key_file: Option<PathBuf>,
    /// Tokens besides keys.
    pub jwt: Option<JwtOptions>,
}

impl AuthOptions {
    /// Whether anybody has to say who they are.
    pub fn is_required(&self) -> bool {
        self.has_keys() || self.jwt.is_some()
    }

    fn has_keys(&self) -> bool {
        self.api_key.is_some() || self.api_key_file.is_some()
    }

    /// The files that are read.
    pub(super) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let jwt = self.jwt.iter();
        let jwt = jwt.flat_map(|jwt| jwt.secret_file.iter().chain(&jwt.jwks_file));
        self.api_key_file.iter().chain(jwt)
    }
}

impl fmt::Debug for AuthOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthOptions")
            .field("api_key", &self.api_key.as_ref().map(|_| "***"))
            .field("api_key_file", &self.api_key_file)
            .field("jwt", &self.jwt)
            .finish()
    }
}

/// Who asks.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    /// The key's or subject's name, for logs; limits are counted by it.
    pub(super) name: Arc<str>,
    pub(super) tenant: Tenant,
    pub(super) scopes: Arc<[Scope]>,
    /// Limits of its own, instead of those for everybody.
    pub(super) limits: Option<RateLimits>,
}

impl Identity {
    fn anonymous() -> Self {
        Self {
            name: "anonymous".into(),
            tenant: Tenant::default(),
            scopes: Scope::USUAL.into(),
            limits: None,
        }
    }
}

/// Who may come in.
#[derive(Debug, Default)]
pub(super) struct Access {
    keys: Option<Keys>,
    jwt: Option<Jwt>,
}

impl Access {
    /// Reads what the options name.
    ///
    /// # Errors
    /// [`ServeError::Keys`] and [`ServeError::Jwt`].
    pub(super) fn open(options: &AuthOptions) -> Result<Self, ServeError> {
        let keys = options.has_keys().then(|| Keys::open(options));
        let jwt = options.jwt.as_ref().map(Jwt::open);
        Ok(Self {
            keys: keys.transpose()?,
            jwt: jwt.transpose()?,
        })
    }

    /// Who sent this.
    ///
    /// # Errors
    /// Why nobody can be told: there is no credential, it is not known, or there are two.
    pub(super) fn identify(&self, headers: &HeaderMap) -> Result<Identity, Denied> {
        if self.keys.is_none() && self.jwt.is_none() {
            return Ok(Identity::anonymous());
        }
        let credential = credential(headers)?;
        let key = self.keys.as_ref().and_then(|keys| keys.find(credential));
        let token = || {
            let token = std::str::from_utf8(credential).ok()?;
            self.jwt.as_ref()?.find(token)
        };
        key.or_else(token).ok_or(Denied::Unknown)
    }
}

/// Why a request is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Denied {
    #[error("no API key: send it as `Authorization: Bearer KEY` or `x-api-key: KEY`")]
    Missing,
    #[error("the API key or token is not one that this service accepts")]
    Unknown,
    #[error("the request brings several different credentials: send one")]
    Ambiguous,
    #[error("this key may not be used here: it lacks the scope `{}`", .0.name())]
    Scope(Scope),
}

impl From<Denied> for ApiError {
    fn from(denied: Denied) -> Self {
        let (status, code) = match denied {
            Denied::Scope(_) => (StatusCode::FORBIDDEN, "insufficient_scope"),
            _ => (StatusCode::UNAUTHORIZED, "invalid_api_key"),
        };
        error(status, code, denied.to_string())
    }
}

/// The one credential of a request.
fn credential(headers: &HeaderMap) -> Result<&[u8], Denied> {
    let bearers = headers.get_all(AUTHORIZATION).iter().map(bearer);
    let keys = headers.get_all(X_API_KEY).iter();
    let keys = keys.map(|key| Ok(key.as_bytes().trim_ascii()));
    let mut found = None;
    for credential in bearers.chain(keys) {
        let credential = credential?;
        // Proxies and this service must not choose different ones.
        if found.is_some_and(|found| found != credential) {
            return Err(Denied::Ambiguous);
        }
        found = Some(credential);
    }
    match found {
        None | Some([]) => Err(Denied::Missing),
        Some(long) if long.len() > MAX_CREDENTIAL => Err(Denied::Unknown),
        Some(credential) => Ok(credential),
    }
}

fn bearer(value: &HeaderValue) -> Result<&[u8], Denied> {
    let value = value.as_bytes();
    let (scheme, rest) = value.split_at(value.len().min(7));
    match scheme.eq_ignore_ascii_case(b"bearer ") {
        true => Ok(rest.trim_ascii()),
        false => Err(Denied::Missing),
    }
}

/// Lets a request in whose sender is known and may use the path.
pub(super) async fn check(
    State(service): State<Arc<Service>>,
    mut request: Request,
    next: Next,
) -> Response {
    let scope = Scope::of(request.uri().path());
    let identity = service.access().identify(request.headers());
    let identity = identity.and_then(|identity| match identity.scopes.contains(&scope) {
        true => Ok(identity),
        false => Err(Denied::Scope(scope)),
    });
    match identity {
        Ok(identity) => {
            let extensions = request.extensions_mut();
            extensions.insert(identity.tenant.clone());
            Caller::current().is(identity);
            next.run(request).await
        }
        Err(denied) => refuse(denied),
    }
}

fn refuse(denied: Denied) -> Response {
    let mut response = Refusal::from(ApiError::from(denied)).into_response();
    if response.status() == StatusCode::UNAUTHORIZED {
        let bearer = HeaderValue::from_static("Bearer");
        response.headers_mut().insert(WWW_AUTHENTICATE, bearer);
    }
    response
}
