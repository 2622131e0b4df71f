//! `/debug/pprof/`: profiles of the process, under the names that pprof's tools know.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::blocking;
use crate::http::error::{Refusal, error};
use crate::http::profile::{self, Profile, ProfileError};
use crate::http::query::Params;
use crate::http::state::Service;
use crate::openai::ApiError;

/// How long a profile takes that does not say so, as Go's do.
const USUAL_SECONDS: u64 = 30;
const SECONDS: RangeInclusive<u64> = 1..=300;

/// How long to watch.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    seconds: Option<u64>,
}

pub(super) async fn cpu(
    State(service): State<Arc<Service>>,
    Params(wanted): Params<Wanted>,
) -> Result<Response, Refusal> {
    let seconds = wanted.seconds.unwrap_or(USUAL_SECONDS);
    if !SECONDS.contains(&seconds) {
        let (least, most) = (SECONDS.start(), SECONDS.end());
        let message = format!("`seconds` must be between {least} and {most}, found {seconds}");
        return Err(ApiError::invalid("seconds", message).into());
    }
    if !profile::IS_THERE {
        return Err(not_here("no profiler of the processor").into());
    }
    let time = Duration::from_secs(seconds);
    // A client that goes away drops this, and that ends the profile.
    let turn = service.profiles.begin(time).map_err(|left| {
        let message = "a profile is being taken: there is one at a time";
        let error = ApiError {
            kind: "rate_limit_error",
            ..error(StatusCode::TOO_MANY_REQUESTS, "profile_running", message)
        };
        Refusal::from(error).retry_after(left)
    })?;
    let profile = profile::cpu(time, turn).await.map_err(ApiError::from)?;
    Ok(file("profile.pb.gz", profile))
}

pub(super) async fn heap(State(service): State<Arc<Service>>) -> Result<Response, Refusal> {
    let Some(take) = service.options.heap_profile else {
        return Err(not_here("no record of its heap").into());
    };
    let profile = blocking(take).await?;
    let profile = profile.map_err(|error| ProfileError(error.to_string()));
    Ok(file("heap.pb.gz", profile.map_err(ApiError::from)?))
}

fn file(name: &str, profile: Profile) -> Response {
    let disposition = format!("attachment; filename=\"{name}\"");
    let headers = [
        (CONTENT_TYPE, "application/octet-stream".to_owned()),
        (CONTENT_DISPOSITION, disposition),
    ];
    (headers, profile).into_response()
}

fn not_here(what: &str) -> ApiError {
    let message = format!(
        "this program has {what}: docs/how-to/profiling.md says where there is one, and how it is started"
    );
    error(StatusCode::NOT_IMPLEMENTED, "not_supported", message)
}

impl From<ProfileError> for ApiError {
    fn from(failure: ProfileError) -> Self {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        error(status, "profile_failed", failure.to_string())
    }
}
