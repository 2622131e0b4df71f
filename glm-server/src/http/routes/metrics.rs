//! `GET /metrics`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

use crate::http::error::{Refusal, error};
use crate::http::metrics;
use crate::http::state::Service;
use crate::openai::ApiError;

pub(super) async fn metrics(State(service): State<Arc<Service>>) -> Result<Response, Refusal> {
    if !service.options.metrics {
        return Err(
            ApiError::not_found("this service shows no metrics: --metrics is false").into(),
        );
    }
    let text = service.metrics.text().map_err(|_| {
        let message = "the metrics could not be written: this is a defect of the service";
        error(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message)
    })?;
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}
