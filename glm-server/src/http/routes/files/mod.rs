//! `/v1/files`: files as OpenAI has them, for batches above all.

mod allowance;
#[cfg(test)]
pub(in crate::http) mod tests;
mod upload;

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Deserialize;
use serde_json::json;
use tokio::fs::File;
use tokio::io::AsyncReadExt;

pub(super) use self::upload::upload;
use crate::http::error::{self, Refusal, error};
use crate::http::query::{self, Params};
use crate::http::state::Service;
use crate::http::tenant::Owner;
use crate::jobs::FileInfo;
use crate::openai::ApiError;
use crate::queue::Paging;

/// Longest list, and also the default, as at OpenAI's.
const MAX_LIST: usize = 10_000;
/// How much of a file is read at a time, in bytes.
const PART: usize = 64 << 10;

/// Which part of the list of files is wanted.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    purpose: Option<String>,
    limit: Option<usize>,
    after: Option<String>,
    order: Option<String>,
}

pub(super) async fn list(
    State(service): State<Arc<Service>>,
    Owner(tenant): Owner,
    Params(wanted): Params<Wanted>,
) -> Result<Response, Refusal> {
    let paging = Paging {
        after: wanted.after,
        limit: query::limit(wanted.limit, MAX_LIST, MAX_LIST)?,
        oldest_first: query::oldest_first(wanted.order.as_deref())?,
    };
    let purpose = wanted.purpose.as_deref();
    let is_wanted = |file: &FileInfo| purpose.is_none_or(|purpose| file.purpose == purpose);
    let found = service.jobs()?.files(&tenant, paging, is_wanted).await;
    let (files, has_more) = found.map_err(ApiError::from)?;
    let views = files.iter().map(FileInfo::view).collect();
    Ok(error::json(StatusCode::OK, &query::list(views, has_more)))
}

pub(super) async fn get(
    State(service): State<Arc<Service>>,
    Owner(tenant): Owner,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    let file = find(&service, &tenant, &id).await?;
    Ok(error::json(StatusCode::OK, &file.view()))
}

pub(super) async fn delete(
    State(service): State<Arc<Service>>,
    Owner(tenant): Owner,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    let removed = service.jobs()?.remove_file(&tenant, &id).await;
    match removed.map_err(ApiError::from)? {
        true => {
            let body = json!({"id": id, "object": "file", "deleted": true});
            Ok(error::json(StatusCode::OK, &body))
        }
        false => Err(no_file(&id).into()),
    }
}

pub(super) async fn content(
    State(service): State<Arc<Service>>,
    Owner(tenant): Owner,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    let info = find(&service, &tenant, &id).await?;
    let file = service.jobs()?.content(&info).await;
    let file = file.map_err(ApiError::from)?;
    // Never shown by a browser as a page of this service.
    let headers = [
        (
            CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        ),
        (CONTENT_DISPOSITION, HeaderValue::from_static("attachment")),
        (CONTENT_LENGTH, HeaderValue::from(info.bytes)),
    ];
    Ok((headers, Body::from_stream(parts(file))).into_response())
}

fn parts(file: File) -> impl futures_util::Stream<Item = std::io::Result<Bytes>> {
    stream::try_unfold(file, |mut file| async {
        let mut part = vec![0; PART];
        let read = file.read(&mut part).await?;
        part.truncate(read);
        Ok((read > 0).then(|| (Bytes::from(part), file)))
    })
}

pub(super) async fn find(service: &Service, tenant: &str, id: &str) -> Result<FileInfo, ApiError> {
    let found = service.jobs()?.file(tenant, id).await?;
    found.ok_or_else(|| no_file(id))
}

fn no_file(id: &str) -> ApiError {
    let message = format!("there is no file `{id}`");
    ApiError {
        param: Some("id".to_owned()),
        ..error(StatusCode::NOT_FOUND, "file_not_found", message)
    }
}
