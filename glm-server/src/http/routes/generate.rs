//! `POST /v1/chat/completions` and `POST /v1/completions`.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use glm_runtime::{EngineHandle, RequestStream};
use serde_json::{Map, Value};

use crate::http::answers::Answers;
use crate::http::body::JsonObject;
use crate::http::caller::Caller;
use crate::http::error::{Refusal, error, json};
use crate::http::request_id::RequestId;
use crate::http::sse;
use crate::http::state::{Service, unix_now};
use crate::openai::{ApiError, Call, Chunks, Endpoint, Form, Stamp};

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
    RequestId(id): RequestId,
    body: Map<String, Value>,
) -> Result<Response, Refusal> {
    service.check_model(&body)?;
    let stamp = Stamp {
        id: id.to_string(),
        created: unix_now(),
    };
    let asked = {
        let service = Arc::clone(service);
        blocking(move || ask(&service, endpoint, &body)).await??
    };
    let engine = service.engine()?;
    if asked.stream {
        let chunks = Chunks::new(engine, asked.form, stamp, asked.answers.len());
        return Ok(sse::response(
            asked.answers,
            chunks,
            service.options.keep_alive,
        ));
    }
    let answers = asked.answers.whole().await?;
    Ok(json(
        StatusCode::OK,
        &asked.form.response(engine, &stamp, &answers),
    ))
}

/// A request that the engine works on.
struct Asked {
    answers: Answers,
    form: Form,
    stream: bool,
}

fn ask(
    service: &Arc<Service>,
    endpoint: Endpoint,
    body: &Map<String, Value>,
) -> Result<Asked, ApiError> {
    let engine = service.engine()?;
    let call = Call::read(engine, endpoint, body)?;
    let (form, stream) = (call.form.clone(), call.stream);
    let streams = submit(service, engine, call).map_err(|error| {
        service.note(&error);
        ApiError::from(error)
    })?;
    Ok(Asked {
        answers: Answers::new(service, streams),
        form,
        stream,
    })
}

fn submit(
    service: &Service,
    engine: &EngineHandle,
    call: Call,
) -> Result<Vec<RequestStream>, glm_runtime::EngineError> {
    let mut streams = Vec::new();
    for mut request in call.requests {
        request.options.timeout = service.options.request_timeout;
        streams.extend(engine.submit_n(request, call.n)?);
    }
    Ok(streams)
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
