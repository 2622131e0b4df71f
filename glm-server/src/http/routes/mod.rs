//! Which path leads where.

mod batches;
mod dashboard;
mod debug;
mod embeddings;
mod files;
mod generate;
mod messages;
mod metrics;
mod models;
mod openapi;
mod probes;
mod responses;
mod tasks;
mod tokens;

use std::sync::Arc;

pub(super) use generate::{blocking, scored};

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};

use super::error::{Refusal, error};
use super::metrics::count;
use super::state::Service;
use super::{admission, auth, caller, limits, request_id, trace};
use crate::openai::ApiError;
use crate::web;

/// The whole service. Probes and the files of the page answer everybody and in every phase; everything else goes through authentication, and what asks the engine
/// through admission and limits.
pub(super) fn router(service: Arc<Service>) -> Router {
    let interface = Router::new()
        .route("/v1/chat/completions", post(generate::chat_completions))
        .route("/v1/completions", post(generate::completions))
        .route("/v1/messages", post(messages::messages))
        .route("/v1/messages/count_tokens", post(messages::count_tokens))
        .route("/v1/embeddings", post(embeddings::embeddings))
        .route("/v1/responses", post(responses::create))
        .route(
            "/v1/responses/{id}",
            get(responses::get).delete(responses::delete),
        )
        .route("/v1/responses/{id}/cancel", post(responses::cancel))
        .route(
            "/v1/responses/{id}/input_items",
            get(responses::input_items),
        )
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::one))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/v1/tasks", post(tasks::submit).get(tasks::list))
        .route("/v1/tasks/{id}", get(tasks::get).delete(tasks::cancel))
        .route("/v1/tasks/{id}/events", get(tasks::events))
        // Files go to the disk as they come, and have a limit of their own.
        .route(
            "/v1/files",
            post(files::upload)
                .get(files::list)
                .layer(DefaultBodyLimit::disable()),
        )
        .route("/v1/files/{id}", get(files::get).delete(files::delete))
        .route("/v1/files/{id}/content", get(files::content))
        .route("/v1/batches", post(batches::create).get(batches::list))
        .route("/v1/batches/{id}", get(batches::get))
        .route("/v1/batches/{id}/cancel", post(batches::cancel))
        .route_layer(from_fn_with_state(Arc::clone(&service), limits::apply))
        .route_layer(from_fn_with_state(Arc::clone(&service), admission::admit))
        .route("/metrics", get(metrics::metrics))
        .route("/dashboard/events", get(dashboard::events))
        .route("/debug/pprof/profile", get(debug::cpu))
        .route("/debug/pprof/heap", get(debug::heap))
        .fallback(unknown)
        .layer(from_fn_with_state(Arc::clone(&service), auth::check));
    let probes = Router::new()
        .route("/healthz", get(probes::health))
        .route("/livez", get(probes::live))
        .route("/readyz", get(probes::ready))
        .route("/startupz", get(probes::started))
        .route("/openapi.json", get(openapi::document))
        .route("/docs", get(openapi::page))
        .merge(web::routes());
    interface
        .merge(probes)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(Arc::clone(&service), count))
        .layer(from_fn_with_state(Arc::clone(&service), trace::follow))
        .layer(from_fn(caller::know))
        .layer(from_fn(messages::in_their_shape))
        .layer(from_fn(request_id::name))
        .with_state(service)
}

async fn unknown(uri: Uri) -> Refusal {
    let message = format!("`{}` is not an endpoint of this service", uri.path());
    ApiError::not_found(message).into()
}

async fn wrong_method(method: Method, uri: Uri) -> Refusal {
    let message = format!("`{}` does not take {method}", uri.path());
    let status = StatusCode::METHOD_NOT_ALLOWED;
    error(status, "method_not_allowed", message).into()
}
