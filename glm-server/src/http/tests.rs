//! The service without a port: requests to the router, answered by a model that says what the test wants.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Request, Response, StatusCode};
use futures_util::stream;
use glm_runtime::testing::FakeModel;
use glm_runtime::{Engine, EngineHandle};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::options::ServeOptions;
use super::routes::router;
use super::state::Service;

pub(super) fn engine(fake: FakeModel) -> EngineHandle {
    Engine::builder("demo").fake(fake).build().unwrap()
}

/// Says `Hello, world!`, and calls a tool if it is offered one.
pub(super) fn polite() -> FakeModel {
    FakeModel::replying(|prompt| match prompt.contains("weather") {
        true => CALLS.concat(),
        false => "Hello, world!".to_owned(),
    })
}

/// A call in each of the ways that models write it, so that one is that of the model.
const CALLS: [&str; 2] = [
    "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Rome</arg_value>\n</tool_call>",
    "\nweather\n{\"city\": \"Rome\"}",
];

fn weather() -> Value {
    let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    json!([{"type": "function", "function": {"name": "weather", "parameters": parameters}}])
}

pub(super) fn service(options: ServeOptions) -> (Arc<Service>, Router) {
    let service = Arc::new(Service::new(options));
    (Arc::clone(&service), router(service))
}

pub(super) fn started(fake: FakeModel) -> (Arc<Service>, Router) {
    let (service, router) = service(ServeOptions::default());
    service.start(engine(fake));
    (service, router)
}

pub(super) fn post(path: &str, body: impl Into<Body>) -> Request<Body> {
    let request = Request::post(path).header("content-type", "application/json");
    request.body(body.into()).unwrap()
}

pub(super) fn chat(fields: Value) -> Request<Body> {
    let mut body = json!({"messages": [{"role": "user", "content": "Hi"}]});
    let fields = fields.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(fields);
    post("/v1/chat/completions", body.to_string())
}

pub(super) fn get(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

pub(super) async fn send(router: &Router, request: Request<Body>) -> Response<Body> {
    router.clone().oneshot(request).await.unwrap()
}

pub(super) async fn text(response: Response<Body>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Longer than anything takes.
const LONG: Duration = Duration::from_secs(120);

/// Looks again and again until something holds, but not for ever.
pub(super) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !holds().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::task::yield_now().await;
    }
}

/// Status and JSON of a response.
pub(super) async fn ask(router: &Router, request: Request<Body>) -> (u16, Value) {
    let response = send(router, request).await;
    let status = response.status().as_u16();
    assert_eq!(response.headers()["content-type"], "application/json");
    (status, serde_json::from_str(&text(response).await).unwrap())
}

/// The data of a stream's events.
fn events(stream: &str) -> Vec<&str> {
    let events = stream
        .split_terminator("\n\n")
        .filter(|event| !event.starts_with(':'));
    events
        .map(|event| event.strip_prefix("data: ").unwrap())
        .collect()
}

#[tokio::test]
async fn a_chat_is_answered() {
    let (_, router) = started(polite());
    let (status, body) = ask(&router, chat(json!({"model": "demo"}))).await;
    assert_eq!(
        (status, &body["object"]),
        (200, &json!("chat.completion")),
        "{body}"
    );
    let choice = &body["choices"][0];
    assert_eq!(choice["message"]["content"], "Hello, world!");
    assert_eq!(choice["finish_reason"], "stop");
    let prompts = json!({"prompt": ["a", "b"], "n": 2, "max_tokens": 3});
    let (_, body) = ask(&router, post("/v1/completions", prompts.to_string())).await;
    assert_eq!(body["choices"].as_array().unwrap().len(), 4, "{body}");
    assert_eq!(body["usage"]["completion_tokens"], 12);
}

#[tokio::test]
async fn requests_have_names() {
    let (_, router) = started(polite());
    let name = async |given: Option<&str>| {
        let mut request = get("/v1/models");
        if let Some(given) = given {
            request
                .headers_mut()
                .insert("x-request-id", given.parse().unwrap());
        }
        let response = send(&router, request).await;
        response.headers()["x-request-id"]
            .to_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(name(Some("mine-1")).await, "mine-1");
    let (first, second) = (name(None).await, name(None).await);
    assert!(first.len() == 32 && first != second, "{first} {second}");
    assert_eq!(name(Some("no spaces")).await.len(), 32);
    assert_eq!(name(Some(&"x".repeat(200))).await.len(), 32);
    let response = send(&router, get("/nowhere")).await;
    assert!(response.headers().contains_key("x-request-id"));
}

#[tokio::test]
async fn a_stream_says_what_the_whole_answer_says_and_is_done() {
    let (_, router) = started(polite());
    for fields in [
        json!({}),
        json!({"tools": weather(), "n": 2}),
        json!({"max_tokens": 2}),
    ] {
        let (_, whole) = ask(&router, chat(fields.clone())).await;
        let mut fields = fields;
        fields["stream"] = json!(true);
        fields["stream_options"] = json!({"include_usage": true});
        let response = send(&router, chat(fields)).await;
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let stream = text(response).await;
        let mut events = events(&stream);
        assert_eq!(events.pop(), Some("[DONE]"));
        let chunks: Vec<Value> = events
            .iter()
            .map(|e| serde_json::from_str(e).unwrap())
            .collect();
        let usage = &chunks.last().unwrap()["usage"];
        assert_eq!(
            usage["completion_tokens"],
            whole["usage"]["completion_tokens"]
        );
        for whole in whole["choices"].as_array().unwrap() {
            let choices = chunks
                .iter()
                .flat_map(|chunk| chunk["choices"].as_array().unwrap());
            let choices: Vec<_> = choices.filter(|c| c["index"] == whole["index"]).collect();
            let said = |pointer: &str| -> String {
                choices
                    .iter()
                    .filter_map(|choice| choice.pointer(pointer)?.as_str())
                    .collect()
            };
            let message = &whole["message"];
            assert_eq!(
                said("/delta/content"),
                message["content"].as_str().unwrap_or_default()
            );
            let function = &message["tool_calls"][0]["function"];
            let calls = "/delta/tool_calls/0/function";
            assert_eq!(
                said(&format!("{calls}/name")),
                function["name"].as_str().unwrap_or_default()
            );
            let arguments = function["arguments"].as_str().unwrap_or_default();
            assert_eq!(said(&format!("{calls}/arguments")), arguments);
            assert_eq!(
                said("/finish_reason"),
                whole["finish_reason"].as_str().unwrap()
            );
        }
    }
}

#[tokio::test]
async fn tools_are_called() {
    let (_, router) = started(polite());
    let (_, body) = ask(&router, chat(json!({"tools": weather()}))).await;
    let choice = &body["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls", "{body}");
    assert_eq!(
        choice["message"]["tool_calls"][0]["function"]["name"],
        "weather"
    );
}

#[tokio::test]
async fn errors_are_openais() {
    let (_, router) = started(polite());
    let long = "word ".repeat(20_000);
    let plain = Request::post("/v1/chat/completions").header("content-type", "text/plain");
    for (request, status, code) in [
        (get("/nowhere"), 404, "unknown_url"),
        (get("/v1/chat/completions"), 405, "method_not_allowed"),
        (post("/v1/models", "{}"), 405, "method_not_allowed"),
        (
            post("/v1/completions", "{\"prompt\": "),
            400,
            "invalid_json",
        ),
        (post("/v1/completions", "[]"), 400, "invalid_json"),
        (
            post("/v1/completions", "[".repeat(100_000)),
            400,
            "invalid_json",
        ),
        (
            post("/v1/completions", "{}"),
            400,
            "missing_required_parameter",
        ),
        (
            plain.body(Body::from("{}")).unwrap(),
            415,
            "unsupported_media_type",
        ),
        (chat(json!({"model": "gpt-5"})), 404, "model_not_found"),
        (chat(json!({"temperature": -1})), 400, "invalid_value"),
        (chat(json!({"store": true})), 400, "unsupported_parameter"),
        (
            chat(json!({"messages": [{"role": "user", "content": long}]})),
            400,
            "context_length_exceeded",
        ),
        (get("/v1/models/gpt-5"), 404, "model_not_found"),
        (
            post("/detokenize", "{\"tokens\": [4000000000]}"),
            400,
            "invalid_value",
        ),
    ] {
        let what = format!("{} {}", request.method(), request.uri());
        let (found, body) = ask(&router, request).await;
        assert_eq!(
            (found, &body["error"]["code"]),
            (status, &json!(code)),
            "{what}: {body}"
        );
        assert!(body["error"]["message"].is_string() && body["error"]["type"].is_string());
    }
    let response = send(&router, get("/v1/chat/completions")).await;
    assert_eq!(response.headers()["allow"], "POST");
}

#[tokio::test]
async fn bodies_are_limited_in_size_and_time() {
    let options = ServeOptions {
        max_body_bytes: 100,
        body_timeout: Duration::from_secs(5),
        ..ServeOptions::default()
    };
    let (service, router) = service(options);
    service.start(engine(polite()));
    let (status, body) = ask(&router, post("/tokenize", " ".repeat(101))).await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (413, &json!("body_too_large"))
    );
    // One that does not say how long it is.
    let parts = stream::iter((0..30).map(|_| Ok::<_, Infallible>(Bytes::from("     "))));
    let (status, _) = ask(&router, post("/tokenize", Body::from_stream(parts))).await;
    assert_eq!(status, 413);
    let (status, _) = ask(
        &router,
        post("/tokenize", format!("{:100}", "{\"prompt\": \"a\"}")),
    )
    .await;
    assert_eq!(status, 200);
    // Nobody waits for real: when there is nothing else to do, time goes on by itself.
    tokio::time::pause();
    let never = stream::pending::<Result<Bytes, Infallible>>();
    let (status, body) = ask(&router, post("/tokenize", Body::from_stream(never))).await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (408, &json!("body_timeout"))
    );
}

#[tokio::test]
async fn models_are_listed() {
    let (_, router) = started(polite());
    let (_, list) = ask(&router, get("/v1/models")).await;
    assert_eq!(list["object"], "list");
    let model = &list["data"][0];
    assert_eq!(
        (&model["id"], &model["object"]),
        (&json!("demo"), &json!("model"))
    );
    assert!(model["max_model_len"].as_u64().is_some() && model["parent"].is_null());
    assert_eq!(
        ask(&router, get("/v1/models/demo")).await,
        (200, model.clone())
    );
}

#[tokio::test]
async fn text_becomes_tokens_and_text_again() {
    let (service, router) = started(polite());
    let engine = service.engine().unwrap();
    let tokens = async |body: Value| {
        let (status, body) = ask(&router, post("/tokenize", body.to_string())).await;
        assert_eq!(status, 200, "{body}");
        assert_eq!(body["count"], body["tokens"].as_array().unwrap().len());
        assert_eq!(body["max_model_len"], engine.model_info().max_model_len);
        serde_json::from_value::<Vec<u32>>(body["tokens"].clone()).unwrap()
    };
    let whole = tokens(json!({"model": "demo", "prompt": "Hello 世界"})).await;
    assert_eq!(whole, engine.encode("Hello 世界").unwrap());
    let bare = tokens(json!({"prompt": "Hello 世界", "add_special_tokens": false})).await;
    assert!(
        whole.ends_with(&bare)
            && bare.len() + engine.tokenizer().unwrap().prefix().len() == whole.len()
    );
    let body = json!({"tokens": bare}).to_string();
    assert_eq!(
        ask(&router, post("/detokenize", body)).await,
        (200, json!({"prompt": "Hello 世界"}))
    );

    let messages = json!([{"role": "user", "content": "Hi"}]);
    let chat_tokens = tokens(json!({"messages": messages})).await;
    let (_, answered) = ask(&router, chat(json!({}))).await;
    assert_eq!(answered["usage"]["prompt_tokens"], chat_tokens.len());
    let open = tokens(json!({"messages": messages, "add_generation_prompt": false})).await;
    assert!(open.len() < chat_tokens.len() && chat_tokens.starts_with(&open));
    let both = json!({"messages": messages, "prompt": "a"}).to_string();
    assert_eq!(ask(&router, post("/tokenize", both)).await.0, 400);
}

#[tokio::test]
async fn probes_tell_the_phases_apart() {
    let (service, router) = service(ServeOptions::default());
    let probes = async || {
        let mut found = Vec::new();
        for path in ["/startupz", "/livez", "/readyz", "/healthz"] {
            found.push(ask(&router, get(path)).await.0);
        }
        let (_, health) = ask(&router, get("/healthz")).await;
        (found, health["status"].clone(), health["phase"].clone())
    };
    assert_eq!(
        probes().await,
        (
            vec![503, 200, 503, 200],
            json!("degraded"),
            json!("starting")
        )
    );
    let (status, body) = ask(&router, chat(json!({}))).await;
    assert_eq!((status, &body["error"]["code"]), (503, &json!("starting")));

    service.start(engine(polite()));
    assert_eq!(
        probes().await,
        (vec![200; 4], json!("healthy"), json!("ready"))
    );

    service.drain();
    assert_eq!(
        probes().await,
        (
            vec![200, 200, 503, 200],
            json!("degraded"),
            json!("draining")
        )
    );
    let response = send(&router, chat(json!({}))).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    let seconds: u64 = response.headers()["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=30).contains(&seconds), "{seconds}");
}

/// A model that says a token each time that it is told to, and all at once when nobody can tell it any more.
struct Held {
    go: mpsc::Sender<()>,
    /// Told whenever the model is asked for a token.
    asked: mpsc::Receiver<()>,
}

fn held() -> (Held, FakeModel) {
    let ((go, told), (ask, asked)) = (mpsc::channel(), mpsc::channel());
    let told = Mutex::new(told);
    let fake = FakeModel::next_token(move |_, _| {
        let _ = ask.send(());
        let _ = told.lock().unwrap().recv();
        65
    });
    (Held { go, asked }, fake)
}

fn never_ending(stream: bool) -> Request<Body> {
    chat(json!({"stream": stream, "ignore_eos": true, "max_tokens": 200}))
}

#[tokio::test]
async fn a_drain_waits_for_streams() {
    let (held, fake) = held();
    let (service, router) = started(fake);
    let stream = send(&router, never_ending(true)).await;
    service.drain();
    let drained = tokio::spawn({
        let service = Arc::clone(&service);
        async move { service.drained().await }
    });
    assert_eq!(ask(&router, chat(json!({}))).await.0, 503);
    assert!(!drained.is_finished());
    drop(held);
    assert!(text(stream).await.ends_with("data: [DONE]\n\n"));
    assert_eq!(drained.await.unwrap(), 0);
}

#[tokio::test]
async fn a_drain_does_not_wait_for_ever() {
    let (held, fake) = held();
    let options = ServeOptions {
        drain_timeout: Duration::ZERO,
        ..ServeOptions::default()
    };
    let (service, router) = service(options);
    service.start(engine(fake));
    let stream = send(&router, never_ending(true)).await;
    service.drain();
    assert_eq!(service.drained().await, 1);
    drop((stream, held));
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_request() {
    for streams in [true, false] {
        let (Held { go, asked }, fake) = held();
        let (service, router) = started(fake);
        let asking = router.clone();
        let client = tokio::spawn(async move {
            let response = send(&asking, never_ending(streams)).await;
            response.into_body().collect().await
        });
        let in_first_step = tokio::task::spawn_blocking(move || asked.recv());
        in_first_step.await.unwrap().unwrap();
        client.abort();
        assert!(client.await.unwrap_err().is_cancelled());
        // The answers may be with a thread that has yet to see that nobody wants them.
        let counted = r#"inference_requests_total{outcome="cancelled"} 1"#;
        until(counted, async || {
            let metrics = text(send(&router, get("/metrics")).await).await;
            metrics.contains(counted)
        })
        .await;
        let engine = service.engine().unwrap().clone();
        let drained = tokio::task::spawn_blocking(move || {
            // Step by step, for they tell the engine only after they are counted.
            let deadline = Instant::now() + LONG;
            while engine.stats().cancelled == 0 && go.send(()).is_ok() {
                assert!(Instant::now() < deadline, "the engine is never told");
                std::thread::sleep(Duration::from_millis(10));
            }
            drop(go);
            engine.drain();
            engine.stats()
        });
        let stats = drained.await.unwrap();
        assert_eq!((stats.accepted, stats.cancelled), (1, 1), "{stats:?}");
        assert_eq!(stats.kv_blocks_free, stats.kv_blocks_total);
    }
}

#[tokio::test]
async fn a_failure_ends_a_stream() {
    let fails_at = |ids: &[u32]| ids.iter().filter(|id| **id == 65).count() >= 2;
    let fake = FakeModel::next_token(|_, _| 65).failing(fails_at);
    let (_, router) = started(fake);
    let body =
        json!({"prompt": [1, 2], "stream": true, "max_tokens": 9, "ignore_eos": true, "n": 2});
    let stream = text(send(&router, post("/v1/completions", body.to_string())).await).await;
    let events = events(&stream);
    let error: Value = serde_json::from_str(events.last().unwrap()).unwrap();
    assert_eq!(error["error"]["code"], "engine_failed", "{stream}");
    assert!(!stream.contains("[DONE]"));
}

#[tokio::test]
async fn a_stream_says_that_it_is_alive_while_nothing_comes() {
    let (held, fake) = held();
    let options = ServeOptions {
        keep_alive: Duration::from_millis(1),
        ..ServeOptions::default()
    };
    let (service, router) = service(options);
    service.start(engine(fake));
    let mut stream = send(&router, never_ending(true)).await.into_body();
    let mut next = async || stream.frame().await.unwrap().unwrap().into_data().unwrap();
    let role = String::from_utf8(next().await.to_vec()).unwrap();
    assert!(role.contains(r#""role":"assistant""#), "{role}");
    assert_eq!(next().await, ": keep-alive\n\n");
    drop(held);
    let rest = stream.collect().await.unwrap().to_bytes();
    assert!(rest.ends_with(b"data: [DONE]\n\n"));
}

#[tokio::test]
async fn an_engine_that_is_gone_is_not_healthy() {
    let (_, router) = started(FakeModel::next_token(|_, _| panic!("on purpose")));
    assert_eq!(ask(&router, get("/livez")).await.0, 200);
    assert_eq!(ask(&router, chat(json!({}))).await.0, 500);
    assert_eq!(ask(&router, get("/livez")).await.0, 503);
    assert_eq!(ask(&router, get("/readyz")).await.0, 503);
    let (status, health) = ask(&router, get("/healthz")).await;
    assert_eq!((status, &health["status"]), (503, &json!("unhealthy")));
    let reason = health["components"]["engine"]["reason"].as_str().unwrap();
    assert!(reason.contains("on purpose"), "{reason}");
}

#[tokio::test]
async fn metrics_count_what_happened() {
    let (_, router) = started(polite());
    let prompts = json!({"prompt": ["a", "b"], "max_tokens": 3}).to_string();
    assert_eq!(ask(&router, post("/v1/completions", prompts)).await.0, 200);
    let dropped = send(&router, never_ending(true)).await;
    drop(dropped);
    let patch = Request::patch("/made/up").body(Body::empty()).unwrap();
    send(&router, patch).await;
    let response = send(&router, get("/metrics")).await;
    let media_type = response.headers()["content-type"].to_str().unwrap();
    assert!(media_type.starts_with("application/openmetrics-text"));
    let metrics = text(response).await;
    for line in [
        r#"http_requests_total{method="POST",endpoint="/v1/completions",status="200"} 1"#,
        r#"http_requests_total{method="other",endpoint="unknown",status="404"} 1"#,
        r#"inference_requests_total{outcome="length"} 2"#,
        r#"inference_requests_total{outcome="cancelled"} 1"#,
        "inference_request_latency_seconds_count 2",
        "inference_time_to_first_token_seconds_count 2",
        "inference_inter_token_latency_seconds_count 4",
        "engine_kv_blocks ",
        "engine_generated_tokens_total ",
        "# EOF",
    ] {
        assert!(
            metrics.lines().any(|found| found.starts_with(line)),
            "{line}: {metrics}"
        );
    }
}
