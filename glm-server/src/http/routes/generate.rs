//! `POST /v1/chat/completions` and `POST /v1/completions`.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value};

use crate::http::answers::Answers;
use crate::http::body::JsonObject;
use crate::http::caller::Caller;
use crate::http::error::{Refusal, error, json};
use crate::http::request_id::RequestId;
use crate::http::sse::{self, Keeping};
use crate::http::state::{Service, unix_now};
use crate::openai::{ApiError, Call, Chunks, Endpoint, Stamp};

pub(super) async fn chat_completions(
    State(service): State<Arc<Service>>,
    Extension(id): Extension<RequestId>,
    JsonObject(body): JsonObject,
) -> Result<Response, Refusal> {
    answer(&service, Endpoint::ChatCompletions, id, body).await
}

pub(super) async fn completions(
    State(service): State<Arc<Service>>,
    Extension(id): Extension<RequestId>,
    JsonObject(body): JsonObject,
) -> Result<Response, Refusal> {
    answer(&service, Endpoint::Completions, id, body).await
}

pub(super) async fn answer(
    service: &Arc<Service>,
    endpoint: Endpoint,
    id: RequestId,
    body: Map<String, Value>,
) -> Result<Response, Refusal> {
    let engine = service.engine()?.clone();
    let call = blocking(move || Call::read(&engine, endpoint, &body)).await??;
    answer_call(service, id, call, |_| None).await
}

/// Answers what has been read; `watch` sees the response, or every chunk of it, and may have something done before it goes out.
pub(super) async fn answer_call(
    service: &Arc<Service>,
    RequestId(id): RequestId,
    call: Call,
    mut watch: impl FnMut(&Value) -> Option<Keeping> + Send + 'static,
) -> Result<Response, Refusal> {
    let stamp = Stamp {
        id: id.to_string(),
        created: unix_now(),
    };
    let (form, stream) = (call.form.clone(), call.stream);
    let answers = {
        let service = Arc::clone(service);
        blocking(move || submit(&service, call)).await??
    };
    let engine = service.engine()?;
    if stream {
        let chunks = Chunks::new(engine, form, stamp, answers.len());
        let keep_alive = service.options.keep_alive;
        return Ok(sse::response(answers, chunks, keep_alive, watch));
    }
    let answers = answers.whole().await?;
    let response = form.response(engine, &stamp, &answers);
    if let Some(keeping) = watch(&response) {
        keeping.await;
    }
    Ok(json(StatusCode::OK, &response))
}

/// Hands a call to the engine. A grammar may have to be compiled for it, which takes time.
fn submit(service: &Arc<Service>, call: Call) -> Result<Answers, ApiError> {
    let engine = service.engine()?;
    let mut streams = Vec::new();
    for mut request in call.requests {
        request.options.timeout = service.options.request_timeout;
        let submitted = engine.submit_n(request, call.n);
        streams.extend(submitted.inspect_err(|error| service.note(error))?);
    }
    Ok(Answers::new(service, streams))
}

/// Does what takes time, such as rendering a template, where nobody else has to wait for it.
pub(in crate::http) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    let caller = Caller::current();
    let done = tokio::task::spawn_blocking(|| caller.within(work)).await;
    done.map_err(|_| {
        let message = "the request could not be read: this is a defect of the service";
        error(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message)
    })
}
