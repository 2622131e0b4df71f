//! `POST /v1/files`: a form whose file goes to the disk as it comes.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::multipart::{Field, MultipartError, MultipartRejection};
use axum::extract::{FromRequest, Multipart, Request, State};
use axum::http::StatusCode;
use axum::response::Response;

use super::allowance::{Allowance, MAX_BETWEEN};
use crate::http::error::{Refusal, error, json};
use crate::http::state::Service;
use crate::http::tenant::Owner;
use crate::jobs::{Incoming, Jobs, NewFile, PURPOSES};
use crate::openai::ApiError;

/// Longest field that is not the file, in bytes.
const MAX_FIELD: usize = 4096;
/// More fields than OpenAI has.
const MAX_FIELDS: usize = 16;
/// Longest name of a file, in bytes.
const MAX_NAME: usize = 255;
/// How long a file may be asked to be kept, in seconds: OpenAI's range.
const EXPIRY: std::ops::RangeInclusive<u64> = 3600..=30 * 24 * 3600;

/// What the form has said so far.
#[derive(Default)]
struct Form {
    file: Option<(String, Incoming)>,
    purpose: Option<String>,
    anchor: Option<String>,
    seconds: Option<u64>,
}

pub(in super::super) async fn upload(
    State(service): State<Arc<Service>>,
    Owner(tenant): Owner,
    request: Request,
) -> Result<Response, Refusal> {
    let jobs = service.jobs()?;
    let allowance = Allowance::default();
    let request = request.map(|body| allowance.meter(body));
    let form = Multipart::from_request(request, &()).await;
    let form = form.map_err(|error: MultipartRejection| not_a_form(error.body_text()))?;
    let patience = Patience {
        time: service.options.body_timeout,
        allowance,
    };
    let form = read(form, jobs, &patience).await?;
    let (filename, incoming) = form.file.ok_or_else(|| ApiError::missing("file"))?;
    let purpose = form.purpose.ok_or_else(|| ApiError::missing("purpose"))?;
    if !PURPOSES.contains(&purpose.as_str()) {
        let known = PURPOSES.join(", ");
        let message = format!("`purpose` must be one of {known}, found `{purpose}`");
        return Err(ApiError::invalid("purpose", message).into());
    }
    let new = NewFile {
        filename,
        purpose,
        expires_after: expiry(form.anchor.as_deref(), form.seconds)?,
    };
    let kept = jobs.keep_file(&tenant, incoming, new).await;
    let file = kept.map_err(ApiError::from)?;
    Ok(json(StatusCode::OK, &file.view()))
}

async fn read(mut form: Multipart, jobs: &Jobs, patience: &Patience) -> Result<Form, ApiError> {
    let mut read = Form::default();
    for _ in 0..MAX_FIELDS {
        let Some(mut field) = patience.with(form.next_field()).await? else {
            return Ok(read);
        };
        match field.name().unwrap_or_default() {
            "file" if read.file.is_none() => {
                let name = filename(field.file_name())?;
                read.file = Some((name, file(&mut field, jobs, patience).await?));
            }
            "purpose" => read.purpose = Some(text(&mut field, patience).await?),
            "expires_after[anchor]" => read.anchor = Some(text(&mut field, patience).await?),
            "expires_after[seconds]" => {
                let seconds = text(&mut field, patience).await?;
                let seconds = seconds.parse().map_err(|_| {
                    let message = format!(
                        "`expires_after.seconds` must be a whole number, found `{seconds}`"
                    );
                    ApiError::invalid("expires_after", message)
                });
                read.seconds = Some(seconds?);
            }
            other => {
                let message =
                    format!("the form has a field `{other}` that is not known here, or twice");
                return Err(ApiError::invalid(other, message));
            }
        }
    }
    Err(not_a_form(format!(
        "the form has more than {MAX_FIELDS} fields"
    )))
}

/// How long is waited for the next part of a form, and how much is read for it.
struct Patience {
    time: Duration,
    allowance: Allowance,
}

impl Patience {
    /// Clients may be slow, but not silent, and what comes must be part of something.
    async fn with<T>(
        &self,
        part: impl Future<Output = Result<T, MultipartError>>,
    ) -> Result<T, ApiError> {
        self.allowance.renew();
        match tokio::time::timeout(self.time, part).await {
            Ok(Ok(part)) => Ok(part),
            Ok(Err(_)) if self.allowance.is_spent() => {
                let message = format!("no field begins in {MAX_BETWEEN} bytes of the form");
                Err(not_a_form(message))
            }
            Ok(Err(error)) => Err(not_a_form(error.body_text())),
            Err(_) => {
                let message = format!("nothing of the body came in {:?}", self.time);
                Err(error(StatusCode::REQUEST_TIMEOUT, "body_timeout", message))
            }
        }
    }
}

fn not_a_form(message: impl Into<String>) -> ApiError {
    error(StatusCode::BAD_REQUEST, "invalid_form", message)
}

async fn text(field: &mut Field<'_>, patience: &Patience) -> Result<String, ApiError> {
    let mut bytes = Vec::new();
    while let Some(part) = patience.with(field.chunk()).await? {
        bytes.extend_from_slice(&part);
        if bytes.len() > MAX_FIELD {
            let message = format!("a field of the form has more than {MAX_FIELD} bytes");
            return Err(not_a_form(message));
        }
    }
    String::from_utf8(bytes).map_err(|_| not_a_form("a field of the form is not text"))
}

/// Keeps a name for its owner. It never becomes part of a path.
fn filename(name: Option<&str>) -> Result<String, ApiError> {
    let name = name.unwrap_or("upload");
    match name.len() <= MAX_NAME && !name.chars().any(char::is_control) {
        true => Ok(name.to_owned()),
        false => {
            let message = format!(
                "the name of the file must have at most {MAX_NAME} bytes and no control characters"
            );
            Err(ApiError::invalid("file", message))
        }
    }
}

async fn file(
    field: &mut Field<'_>,
    jobs: &Jobs,
    patience: &Patience,
) -> Result<Incoming, ApiError> {
    let max = jobs.options().max_file_bytes;
    let mut incoming = jobs.begin_file().await?;
    while let Some(part) = patience.with(field.chunk()).await? {
        if incoming.bytes() + part.len() as u64 > max {
            let message = format!("the file has more than {max} bytes");
            return Err(error(
                StatusCode::PAYLOAD_TOO_LARGE,
                "file_too_large",
                message,
            ));
        }
        incoming
            .write(&part)
            .await
            .map_err(|error| ApiError::from(crate::jobs::JobFailure::from(error)))?;
    }
    Ok(incoming)
}

fn expiry(anchor: Option<&str>, seconds: Option<u64>) -> Result<Option<Duration>, ApiError> {
    const FIELD: &str = "expires_after";
    match (anchor, seconds) {
        (None, None) => Ok(None),
        (Some("created_at"), Some(seconds)) if EXPIRY.contains(&seconds) => {
            Ok(Some(Duration::from_secs(seconds)))
        }
        _ => {
            let (first, last) = (EXPIRY.start(), EXPIRY.end());
            let message = format!(
                "`{FIELD}` must have the anchor `created_at` and {first} to {last} seconds"
            );
            Err(ApiError::invalid(FIELD, message))
        }
    }
}
