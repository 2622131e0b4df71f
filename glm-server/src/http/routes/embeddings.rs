//! `POST /v1/embeddings`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use glm_runtime::{EngineError, PendingEmbedding};

use super::generate::blocking;
use crate::http::admission::in_time;
use crate::http::body::JsonObject;
use crate::http::caller::Caller;
use crate::http::error::{Refusal, json};
use crate::http::state::Service;
use crate::openai::{ApiError, EmbeddingCall};

pub(super) async fn embeddings(
    State(service): State<Arc<Service>>,
    JsonObject(body): JsonObject,
) -> Result<Response, Refusal> {
    service.check_model(&body)?;
    let engine = service.engine()?.clone();
    let submitted = blocking(move || {
        let call = EmbeddingCall::read(&engine, &body)?;
        let pending = call.submit(&engine)?;
        Ok::<_, ApiError>((call, pending))
    });
    let (call, pending) = submitted.await??;
    Caller::current().prompt(call.num_tokens());
    let means = in_time(&service, all(pending)).await.flatten();
    let means = means.inspect_err(|error| service.note(error))?;
    Caller::current().lets_go();
    let engine = service.engine()?;
    Ok(json(StatusCode::OK, &call.response(engine, &means)))
}

/// Waits for all of them. Whoever goes away drops them, and that gives them up.
async fn all(pending: Vec<PendingEmbedding>) -> Result<Vec<Vec<f32>>, EngineError> {
    let mut means = Vec::with_capacity(pending.len());
    for mean in pending {
        means.push(mean.await?);
    }
    Ok(means)
}
