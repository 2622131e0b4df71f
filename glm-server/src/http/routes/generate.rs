//! `POST /v1/chat/completions` and `POST /v1/completions`.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use glm_runtime::EngineError;
use serde_json::{Map, Value};

use crate::http::admission::in_time;
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
    let call = blocking(move || Call::read_unscored(&engine, endpoint, &body)).await??;
    answer_call(service, id, call, |_| None).await
}

/// Answers what has been read; `watch` sees the response, or every chunk of it, and may have something done before it goes out.
pub(super) async fn answer_call(
    service: &Arc<Service>,
    RequestId(id): RequestId,
    call: Call,
    mut watch: impl FnMut(&Value) -> Option<Keeping> + Send + 'static,
) -> Result<Response, Refusal> {
    let call = in_time(service, scored(service, call)).await??;
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

/// Waits until it is known how likely the prompts are that a call says again, if it asks for that. Whoever goes away gives it up.
///
/// # Errors
/// The engine's; the prompts that come after it are not scored.
pub(in crate::http) async fn scored(service: &Arc<Service>, call: Call) -> Result<Call, ApiError> {
    if !call.wants_scores() {
        return Ok(call);
    }
    let engine = service.engine()?.clone();
    let begun = blocking(move || call.begin_scores(&engine).map(|scores| (call, scores)));
    let (mut call, scores) = begun.await??;
    for (index, score) in scores.into_iter().enumerate() {
        let score = score.await.inspect_err(|error| service.note(error))?;
        call.form.score(index, score);
    }
    Ok(call)
}

/// Hands a call to the engine. A grammar may have to be compiled for it, which takes time.
fn submit(service: &Arc<Service>, call: Call) -> Result<Answers, ApiError> {
    let engine = service.engine()?;
    let timeout = time_left(service)?;
    let mut streams = Vec::new();
    for mut request in call.requests {
        request.options.timeout = timeout;
        let submitted = engine.submit_n(request, call.n);
        streams.extend(submitted.inspect_err(|error| service.note(error))?);
    }
    Ok(Answers::new(service, streams))
}

/// The time that the engine has for an answer.
///
/// # Errors
/// [`EngineError::TimedOut`]: it is over.
fn time_left(service: &Service) -> Result<Option<Duration>, EngineError> {
    let Some(timeout) = service.options.request_timeout else {
        return Ok(None);
    };
    match Caller::current().time_left(timeout) {
        Duration::ZERO => Err(EngineError::TimedOut {
            timeout,
            completion_tokens: 0,
        }),
        left => Ok(Some(left)),
    }
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use axum::body::Body;
    use axum::http::Request;
    use glm_runtime::testing::FakeModel;
    use serde_json::{Value, json};
    use tokio::runtime::Runtime;

    use crate::http::limits::Wish;
    use crate::http::options::ServeOptions;
    use crate::http::tests::{ask, engine, post, send, service, started};
    use crate::http::working::{begun, held};

    /// Longer than any test takes.
    const LONG: Duration = Duration::from_secs(120);

    fn completion(fields: Value) -> Request<Body> {
        let mut body = json!({"prompt": "Hi", "max_tokens": 2});
        let fields = fields.as_object().unwrap().clone();
        body.as_object_mut().unwrap().extend(fields);
        post("/v1/completions", body.to_string())
    }

    #[test]
    fn a_client_that_leaves_has_no_more_prompts_scored() {
        const PROMPTS: usize = 500;
        let (go, asked, fake) = held();
        let (service, router) = started(fake);
        let prompts = vec![vec![1, 2, 3]; PROMPTS];
        let scored = json!({"echo": true, "max_tokens": 0, "logprobs": 1});
        let mut echoed = scored.clone();
        echoed["prompt"] = json!(prompts);
        let (here, there) = (Runtime::new().unwrap(), Runtime::new().unwrap());
        let client = {
            let router = router.clone();
            there.spawn(async move { send(&router, completion(echoed)).await })
        };
        let asked = here.block_on(begun(asked));
        client.abort();
        assert!(here.block_on(client).unwrap_err().is_cancelled());
        // Its places are free although the model has not gone on.
        here.block_on(async {
            let tenant = Default::default();
            let turn = service.fair.turn(&tenant, Wish::default());
            let turn = tokio::time::timeout(LONG, turn).await;
            drop(turn.expect("its places are held").unwrap());
        });
        // It waits for the thread that may just have asked for all of them.
        drop(there);
        drop(go);
        // Prompts are scored one after the other: this one after all that came before.
        let (status, answer) = here.block_on(ask(&router, completion(scored)));
        assert_eq!(status, 200, "{answer}");
        let steps = 1 + asked.try_iter().count();
        assert!(steps < PROMPTS / 10, "{steps} steps for {PROMPTS} prompts");
    }

    #[tokio::test]
    async fn prompts_that_nobody_waits_for_are_not_scored() {
        let scored = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&scored);
        let fake = FakeModel::next_token(move |_, _| {
            counter.fetch_add(1, Ordering::Relaxed);
            65
        });
        let (service, router) = started(fake);
        let body = json!({"prompt": "Hi", "echo": true, "max_tokens": 0, "logprobs": 1});
        let fields = body.as_object().unwrap().clone();
        crate::http::runner::check(&service, "/v1/completions", &fields).unwrap();
        assert_eq!(scored.load(Ordering::Relaxed), 0);
        let (status, answer) = ask(&router, completion(body)).await;
        assert_eq!(status, 200, "{answer}");
        let logprobs = &answer["choices"][0]["logprobs"]["token_logprobs"];
        assert!(logprobs[1].is_number(), "{answer}");
    }

    #[tokio::test]
    async fn the_time_for_an_answer_has_the_wait_for_a_place_in_it() {
        let (service, router) = service(ServeOptions {
            request_timeout: Some(Duration::from_millis(200)),
            ..ServeOptions::default()
        });
        service.start(engine(FakeModel::next_token(|_, _| 65)));
        let tenant = Default::default();
        let all = Wish {
            places: usize::MAX,
            ..Wish::default()
        };
        let held = service.fair.turn(&tenant, all).await.unwrap();
        for request in [
            completion(json!({})),
            post("/v1/embeddings", json!({"input": "Hi"}).to_string()),
        ] {
            let answer = tokio::time::timeout(LONG, ask(&router, request)).await;
            let (status, answer) = answer.expect("it waits for ever");
            assert_eq!(status, 504, "{answer}");
            let message = answer["error"]["message"].as_str().unwrap();
            assert!(message.contains("200ms"), "{message}");
        }
        drop(held);
    }

    #[tokio::test]
    async fn places_are_free_when_the_engine_is_done_and_not_when_the_response_is_read() {
        let (service, router) = started(FakeModel::next_token(|_, _| 65));
        let whole = send(&router, completion(json!({"n": 128}))).await;
        let tenant = Default::default();
        let turn = service.fair.turn(&tenant, Wish::default());
        let turn = tokio::time::timeout(LONG, turn).await;
        drop(turn.expect("its places are held").unwrap());
        drop(whole);
    }
}
