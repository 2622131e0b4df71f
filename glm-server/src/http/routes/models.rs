//! `GET /v1/models` and `GET /v1/models/{id}`: the model and its adapters.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use glm_runtime::EngineHandle;
use serde_json::{Value, json};

use crate::http::error::{self, Refusal};
use crate::http::state::Service;
use crate::openai;

pub(super) async fn list(State(service): State<Arc<Service>>) -> Result<Response, Refusal> {
    let engine = service.engine()?;
    let adapters = engine.adapters();
    // Those that are still in use after they were unloaded are listed too.
    let adapters = adapters
        .iter()
        .filter(|adapter| engine.has_adapter(&adapter.name));
    let names = adapters.map(|adapter| Some(adapter.name.as_str()));
    let data: Vec<_> = [None].into_iter().chain(names).collect();
    let data = data.into_iter().map(|name| model(&service, engine, name));
    let body = json!({"object": "list", "data": data.collect::<Vec<_>>()});
    Ok(error::json(StatusCode::OK, &body))
}

pub(super) async fn one(
    State(service): State<Arc<Service>>,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    let engine = service.engine()?;
    if !openai::serves(engine, &id) {
        return Err(openai::no_model(&id).into());
    }
    let adapter = engine.has_adapter(&id).then_some(id.as_str());
    Ok(error::json(
        StatusCode::OK,
        &model(&service, engine, adapter),
    ))
}

/// The model, or one of its adapters.
fn model(service: &Service, engine: &EngineHandle, adapter: Option<&str>) -> Value {
    let info = engine.model_info();
    json!({
        "id": adapter.unwrap_or(&info.name),
        "object": "model",
        "created": service.started,
        "owned_by": "glm",
        "root": info.name,
        "parent": adapter.map(|_| &info.name),
        "max_model_len": info.max_model_len,
    })
}
