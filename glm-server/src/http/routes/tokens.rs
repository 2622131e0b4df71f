//! `POST /tokenize` and `POST /detokenize`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use glm_runtime::EngineHandle;
use serde_json::{Map, Value};

use super::generate::blocking;
use crate::http::body::JsonObject;
use crate::http::error::{Refusal, json};
use crate::http::state::Service;
use crate::openai::{self, ApiError};

type Convert = fn(&EngineHandle, &Map<String, Value>) -> Result<Value, ApiError>;

pub(super) async fn tokenize(
    State(service): State<Arc<Service>>,
    body: JsonObject,
) -> Result<Response, Refusal> {
    convert(&service, body, openai::tokenize).await
}

pub(super) async fn detokenize(
    State(service): State<Arc<Service>>,
    body: JsonObject,
) -> Result<Response, Refusal> {
    convert(&service, body, openai::detokenize).await
}

async fn convert(
    service: &Service,
    JsonObject(body): JsonObject,
    convert: Convert,
) -> Result<Response, Refusal> {
    service.check_model(&body)?;
    let engine = service.engine()?.clone();
    let converted = blocking(move || convert(&engine, &body)).await??;
    Ok(json(StatusCode::OK, &converted))
}
