//! Over a real port, with a client of tonic's.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request as HttpRequest;
use axum::middleware::from_fn;
use axum::routing::post;
use glm_runtime::testing::FakeModel;
use glm_runtime::{Engine, EngineHandle};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tower::ServiceExt;

use super::proto::generate_event::Event;
use super::proto::generate_request::{Format, Input};
use super::proto::inference_client::InferenceClient;
use super::proto::{
    Conversation, DetokenizeRequest, EmbedRequest, FinishReason, GenerateEvent, GenerateRequest,
    Message, TokenIds, TokenizeRequest, Tool, tokenize_request,
};
use crate::http::{AuthOptions, ServeOptions, Server, TlsOptions};

const CALLS: [&str; 2] = [
    "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Rome</arg_value>\n</tool_call>",
    "\nweather\n{\"city\": \"Rome\"}",
];

/// Says `Hello, world!`, and calls a tool if it is offered one.
fn engine() -> EngineHandle {
    let fake = FakeModel::replying(|prompt| match prompt.contains("weather") {
        true => CALLS.concat(),
        false => "Hello, world!".to_owned(),
    });
    Engine::builder("demo").fake(fake).build().unwrap()
}

struct Service {
    server: Option<Server>,
    address: String,
}

impl Service {
    fn bind(options: ServeOptions) -> Self {
        let options = ServeOptions {
            grpc_port: Some(0),
            ..options
        };
        let is_encrypted = options.tls.is_some();
        let server = Server::bind("127.0.0.1", 0, options).unwrap();
        let scheme = match is_encrypted {
            true => "https",
            false => "http",
        };
        let address = format!("{scheme}://{}", server.grpc_address().unwrap());
        Self {
            server: Some(server),
            address,
        }
    }

    fn start(options: ServeOptions) -> Self {
        let service = Self::bind(options);
        service.server().start(engine()).unwrap();
        service
    }

    fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(self.address.clone()).unwrap();
        endpoint.connect().await.unwrap()
    }

    async fn client(&self) -> InferenceClient<Channel> {
        InferenceClient::new(self.channel().await)
    }

    /// Drains, and waits for the end on a thread that may wait.
    async fn end(mut self) -> usize {
        let server = self.server.take().unwrap();
        server.stopper().drain();
        tokio::task::spawn_blocking(|| server.join()).await.unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // A runtime must not be dropped by a task of another one.
        let server = self.server.take();
        let _ = std::thread::spawn(move || drop(server)).join();
    }
}

fn chat(text: &str) -> GenerateRequest {
    let message = Message {
        role: "user".to_owned(),
        content: text.to_owned(),
        ..Message::default()
    };
    GenerateRequest {
        input: Some(Input::Chat(Conversation {
            messages: vec![message],
            ..Conversation::default()
        })),
        ..GenerateRequest::default()
    }
}

fn weather() -> GenerateRequest {
    let mut request = chat("What is it like in Rome?");
    let Some(Input::Chat(conversation)) = &mut request.input else {
        unreachable!()
    };
    conversation.tools = vec![Tool {
        name: "weather".to_owned(),
        description: "of a city".to_owned(),
        parameters_json: r#"{"type": "object", "properties": {"city": {"type": "string"}}}"#
            .to_owned(),
    }];
    request
}

async fn all(mut stream: Streaming<GenerateEvent>) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some(event) = stream.message().await.unwrap() {
        assert!(event.id.starts_with("c"), "{event:?}");
        events.push(event.event.unwrap());
    }
    events
}

#[tokio::test]
async fn an_answer_comes_whole_or_as_it_is_written() {
    let service = Service::start(ServeOptions::default());
    let mut client = service.client().await;
    for request in [
        chat("Hi"),
        weather(),
        GenerateRequest {
            max_tokens: Some(3),
            ..chat("Hi")
        },
        GenerateRequest {
            input: Some(Input::Prompt("Hi".to_owned())),
            ..GenerateRequest::default()
        },
        GenerateRequest {
            input: Some(Input::PromptTokenIds(TokenIds { ids: vec![5, 6, 7] })),
            ..GenerateRequest::default()
        },
    ] {
        let whole = client.generate(request.clone()).await.unwrap().into_inner();
        let stream = client.generate_stream(request.clone()).await.unwrap();
        let mut events = all(stream.into_inner()).await;
        let Some(Event::Finish(finish)) = events.pop() else {
            panic!("{events:?}")
        };
        assert_eq!(finish.reason(), whole.finish_reason());
        let (usage, others) = (finish.usage.unwrap(), whole.usage.unwrap());
        assert_eq!(usage.completion_tokens, others.completion_tokens);
        assert!(usage.prompt_tokens > 0);
        let (mut text, mut calls) = (String::new(), Vec::new());
        for event in events {
            match event {
                Event::Text(more) => text += &more,
                Event::ToolCall(delta) if delta.index as usize == calls.len() => {
                    calls.push((delta.name, delta.arguments))
                }
                Event::ToolCall(delta) => calls[delta.index as usize].1 += &delta.arguments,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(text, whole.text);
        let wanted = whole
            .tool_calls
            .into_iter()
            .map(|call| (call.name, call.arguments));
        assert_eq!(calls, wanted.collect::<Vec<_>>());
    }
    let whole = client.generate(chat("Hi")).await.unwrap().into_inner();
    assert_eq!(
        (whole.text.as_str(), whole.finish_reason()),
        ("Hello, world!", FinishReason::Stop)
    );
    let calls = client.generate(weather()).await.unwrap().into_inner();
    assert_eq!(calls.finish_reason(), FinishReason::ToolCalls);
    assert_eq!(calls.tool_calls[0].name, "weather");
    assert_eq!(service.end().await, 0);
}

/// Hyper's part in it: it lets go of a body only when its client has room for the last of it.
#[tokio::test]
async fn a_stream_whose_client_has_no_room_is_not_out() {
    let service = Service::start(ServeOptions {
        drain_timeout: Duration::ZERO,
        ..ServeOptions::default()
    });
    let endpoint = Endpoint::from_shared(service.address.clone()).unwrap();
    let narrow = endpoint.initial_stream_window_size(16).connect().await;
    let mut narrow = InferenceClient::new(narrow.unwrap());
    let stream = narrow.generate_stream(chat("Hi")).await.unwrap();
    // What comes later has been answered, so that has been said.
    let mut client = service.client().await;
    for _ in 0..3 {
        client.generate(chat("Hi")).await.unwrap();
    }
    // The last of those may be a moment from being out.
    assert_ne!(service.end().await, 0);
    drop(stream);
}

#[tokio::test]
async fn tokens_and_vectors() {
    let service = Service::start(ServeOptions::default());
    let mut client = service.client().await;
    let request = TokenizeRequest {
        input: Some(tokenize_request::Input::Prompt("Hello".to_owned())),
        add_special_tokens: Some(false),
        ..TokenizeRequest::default()
    };
    let tokens = client.tokenize(request).await.unwrap().into_inner();
    assert!(
        !tokens.ids.is_empty() && tokens.max_model_len > 0,
        "{tokens:?}"
    );
    let request = DetokenizeRequest {
        ids: tokens.ids,
        ..DetokenizeRequest::default()
    };
    assert_eq!(
        client.detokenize(request).await.unwrap().into_inner().text,
        "Hello"
    );
    let request = EmbedRequest {
        inputs: vec!["one".to_owned(), "two".to_owned()],
        ..EmbedRequest::default()
    };
    let vectors = client.embed(request).await.unwrap().into_inner();
    assert_eq!(vectors.embeddings.len(), 2);
    for vector in &vectors.embeddings {
        let length: f32 = vector.values.iter().map(|x| x * x).sum();
        assert!((length - 1.0).abs() < 1e-3, "{length}");
    }
    assert!(vectors.prompt_tokens >= 2);
}

#[tokio::test]
async fn errors_are_those_of_http() {
    let service = Service::start(ServeOptions::default());
    let mut client = service.client().await;
    for (request, code, part) in [
        (
            GenerateRequest::default(),
            Code::InvalidArgument,
            "prompt_token_ids",
        ),
        (
            GenerateRequest {
                temperature: Some(-1.0),
                ..chat("Hi")
            },
            Code::InvalidArgument,
            "temperature",
        ),
        (
            GenerateRequest {
                model: "other".to_owned(),
                ..chat("Hi")
            },
            Code::NotFound,
            "other",
        ),
        (
            GenerateRequest {
                other_fields_json: "[1]".to_owned(),
                ..chat("Hi")
            },
            Code::InvalidArgument,
            "other_fields_json",
        ),
        (
            GenerateRequest {
                other_fields_json: r#"{"logprobs": "many"}"#.to_owned(),
                ..chat("Hi")
            },
            Code::InvalidArgument,
            "logprobs",
        ),
        (
            GenerateRequest {
                format: Some(Format::Regex("(".to_owned())),
                ..chat("Hi")
            },
            Code::InvalidArgument,
            "",
        ),
        (
            chat(&"word ".repeat(20_000)),
            Code::InvalidArgument,
            "context",
        ),
    ] {
        for streams in [false, true] {
            let answered = match streams {
                true => client.generate_stream(request.clone()).await.map(|_| ()),
                false => client.generate(request.clone()).await.map(|_| ()),
            };
            let error = answered.unwrap_err();
            assert_eq!(error.code(), code, "{error}");
            assert!(error.message().contains(part), "{error}");
        }
    }
}

#[tokio::test]
async fn keys_are_asked_for() {
    let auth = AuthOptions {
        api_key: Some("the-key".to_owned()),
        ..AuthOptions::default()
    };
    let service = Service::start(ServeOptions {
        auth,
        ..ServeOptions::default()
    });
    let mut client = service.client().await;
    let with = |key: Option<&'static str>| {
        let mut request = Request::new(chat("Hi"));
        if let Some(key) = key {
            request
                .metadata_mut()
                .insert("authorization", key.parse().unwrap());
        }
        request
    };
    for wrong in [None, Some("Bearer other"), Some("Basic the-key")] {
        let error = client.generate(with(wrong)).await.unwrap_err();
        assert_eq!(error.code(), Code::Unauthenticated, "{wrong:?}");
        let error = client.generate_stream(with(wrong)).await.unwrap_err();
        assert_eq!(error.code(), Code::Unauthenticated, "{wrong:?}");
    }
    assert!(client.generate(with(Some("Bearer the-key"))).await.is_ok());
}

async fn health(client: &mut HealthClient<Channel>, service: &str) -> ServingStatus {
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    client.check(request).await.unwrap().into_inner().status()
}

#[tokio::test]
async fn health_follows_the_service_from_start_to_drain() {
    let service = Service::bind(ServeOptions::default());
    let mut client = HealthClient::new(service.channel().await);
    let mut inference = service.client().await;
    // It is said as soon as the port is served.
    while health(&mut client, "").await != ServingStatus::NotServing {
        tokio::task::yield_now().await;
    }
    assert_eq!(
        inference.generate(chat("Hi")).await.unwrap_err().code(),
        Code::Unavailable
    );
    let watch = HealthCheckRequest {
        service: "glm.v1.Inference".to_owned(),
    };
    let mut watched = client.watch(watch).await.unwrap().into_inner();
    assert_eq!(
        watched.message().await.unwrap().unwrap().status(),
        ServingStatus::NotServing
    );
    service.server().start(engine()).unwrap();
    assert_eq!(
        watched.message().await.unwrap().unwrap().status(),
        ServingStatus::Serving
    );
    // One after the other is said to serve.
    while health(&mut client, "").await != ServingStatus::Serving {
        tokio::task::yield_now().await;
    }
    let unknown = HealthCheckRequest {
        service: "other".to_owned(),
    };
    assert_eq!(
        client.check(unknown).await.unwrap_err().code(),
        Code::NotFound
    );
    service.server().stopper().drain();
    let mut status = ServingStatus::Serving;
    while status == ServingStatus::Serving {
        // The connection may be closed before it is said.
        match watched.message().await {
            Ok(Some(now)) => status = now.status(),
            Ok(None) | Err(_) => break,
        }
    }
    assert_eq!(service.end().await, 0);
}

#[tokio::test]
async fn reflection_shows_what_there_is() {
    let service = Service::start(ServeOptions::default());
    let mut client = ServerReflectionClient::new(service.channel().await);
    let mut ask = async |message| {
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(message),
        };
        let requests = futures_util::stream::iter([request]);
        let stream = client.server_reflection_info(requests).await.unwrap();
        let answer = stream.into_inner().message().await.unwrap().unwrap();
        answer.message_response.unwrap()
    };
    let MessageResponse::ListServicesResponse(list) =
        ask(MessageRequest::ListServices(String::new())).await
    else {
        panic!("no list")
    };
    let mut names: Vec<_> = list
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "glm.v1.Inference",
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection"
        ]
    );
    let symbol = MessageRequest::FileContainingSymbol("glm.v1.Inference.GenerateStream".to_owned());
    let MessageResponse::FileDescriptorResponse(found) = ask(symbol).await else {
        panic!("no file")
    };
    let file = &found.file_descriptor_proto[0];
    assert!(file.windows(10).any(|part| part == b"Detokenize"));
}

/// A client of tonic's looks at the clock as well, so the service is asked without one.
#[tokio::test(start_paused = true)]
async fn a_deadline_ends_the_call() {
    async fn for_ever() {
        std::future::pending().await
    }
    let router = Router::new()
        .route("/call", post(for_ever))
        .layer(from_fn(super::deadline));
    let request = HttpRequest::post("/call").header("grpc-timeout", "50m");
    let request = request.body(Body::empty()).unwrap();
    let response = router.oneshot(request).await.unwrap();
    let wanted = (Code::DeadlineExceeded as i32).to_string();
    assert_eq!(response.headers()["grpc-status"], wanted);
}

#[tokio::test]
async fn a_message_may_not_be_larger_than_a_body() {
    let service = Service::start(ServeOptions {
        max_body_bytes: 1 << 10,
        ..ServeOptions::default()
    });
    let mut client = service.client().await;
    let error = client
        .generate(chat(&"x".repeat(2 << 10)))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::OutOfRange, "{error}");
    assert!(client.generate(chat("Hi")).await.is_ok());
}

#[tokio::test]
async fn calls_come_over_tls() {
    let dir = tempfile::tempdir().unwrap();
    let files = TlsOptions {
        certificate: dir.path().join("cert.pem"),
        key: dir.path().join("key.pem"),
    };
    let pair = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let own = pair();
    std::fs::write(&files.certificate, own.cert.pem()).unwrap();
    std::fs::write(&files.key, own.signing_key.serialize_pem()).unwrap();
    let service = Service::start(ServeOptions {
        tls: Some(files),
        ..ServeOptions::default()
    });
    let connect = async |trusted: &str| {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(trusted))
            .domain_name("localhost");
        let endpoint = Endpoint::from_shared(service.address.clone()).unwrap();
        endpoint.tls_config(tls).unwrap().connect().await
    };
    let channel = connect(&own.cert.pem()).await.unwrap();
    let answer = InferenceClient::new(channel.clone())
        .generate(chat("Hi"))
        .await;
    assert_eq!(answer.unwrap().into_inner().text, "Hello, world!");
    // Readiness is told to the health service by a task of its own, so soon, but not at once.
    let mut client = HealthClient::new(channel);
    while health(&mut client, "").await != ServingStatus::Serving {
        tokio::task::yield_now().await;
    }
    // Neither with somebody else's certificate nor without TLS.
    assert!(connect(&pair().cert.pem()).await.is_err());
    let plain = service.address.replace("https", "http");
    let plain = Endpoint::from_shared(plain).unwrap().connect().await;
    if let Ok(plain) = plain {
        assert!(
            InferenceClient::new(plain)
                .generate(chat("Hi"))
                .await
                .is_err()
        );
    }
    service.end().await;
}
