//! `serve`: the program over a real socket.
#![cfg(unix)]

mod common;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use common::service::{Response, Service, completion};
use common::{arg, copy_of, edit_json, glm, model};
use serde_json::json;

#[test]
fn the_demo_answers_at_once_and_as_it_comes() {
    let service = Service::start(&[]);
    assert!(service.address.starts_with("127.0.0.1:") && !service.address.ends_with(":0"));
    for path in ["/startupz", "/livez", "/readyz", "/healthz"] {
        assert_eq!(service.get(path).status, 200, "{path}");
    }
    let id = service.get("/v1/models").json()["data"][0]["id"].clone();
    assert_eq!(id, "demo");

    let mut body = json!({"model": id, "max_tokens": 12, "temperature": 0, "logprobs": true,
                          "messages": [{"role": "user", "content": "Hello"}]});
    let whole = service.post("/v1/chat/completions", &body).json();
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    let streamed = service.post("/v1/chat/completions", &body);
    assert!(
        streamed.head.contains("content-type: text/event-stream"),
        "{}",
        streamed.head
    );
    let chunks = streamed.chunks();
    let choices: Vec<_> = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"].get(0))
        .collect();
    let said = |name: &str| -> String {
        choices
            .iter()
            .filter_map(|choice| choice["delta"][name].as_str())
            .collect()
    };
    let message = &whole["choices"][0]["message"];
    assert_eq!(said("content"), message["content"].as_str().unwrap());
    assert_eq!(
        said("reasoning_content"),
        message["reasoning_content"].as_str().unwrap_or_default()
    );
    let logprobs = choices
        .iter()
        .filter_map(|choice| choice["logprobs"]["content"].as_array());
    let logprobs: Vec<_> = logprobs.flatten().cloned().collect();
    assert_eq!(json!(logprobs), whole["choices"][0]["logprobs"]["content"]);
    let usage = &chunks.last().unwrap()["usage"];
    assert_eq!(
        usage["completion_tokens"],
        whole["usage"]["completion_tokens"]
    );
}

#[test]
fn what_is_wrong_is_said_in_openais_words() {
    let service = Service::start(&["--max-body-size", "1KiB"]);
    for (method, path, body, status) in [
        ("GET", "/nowhere", String::new(), 404),
        ("GET", "/v1/completions", String::new(), 405),
        ("POST", "/v1/completions", "{".to_owned(), 400),
        (
            "POST",
            "/v1/completions",
            json!({"prompt": "a", "model": "b"}).to_string(),
            404,
        ),
        ("POST", "/v1/completions", " ".repeat(1025), 413),
    ] {
        let response = Response::read(service.send(method, path, &body));
        assert_eq!(response.status, status, "{path} {response:?}");
        assert!(response.json()["error"]["message"].is_string());
        assert!(response.head.contains("x-request-id: "));
    }
}

#[test]
fn a_connection_takes_one_request_after_the_other() {
    let service = Service::start(&[]);
    let mut socket = service.connect();
    for id in ["first", "second"] {
        let request = format!("GET /livez HTTP/1.1\r\nhost: test\r\nx-request-id: {id}\r\n\r\n");
        socket.write_all(request.as_bytes()).unwrap();
        let mut text = Vec::new();
        while !text.ends_with(b"}") {
            let mut byte = [0];
            socket.read_exact(&mut byte).unwrap();
            text.extend(byte);
        }
        let response = Response::parse(std::str::from_utf8(&text).unwrap());
        assert_eq!(response.status, 200);
        assert!(
            response.head.contains(&format!("x-request-id: {id}")),
            "{}",
            response.head
        );
    }
}

#[test]
fn adapters_are_models() {
    let checkpoint = model("tiny-glm4");
    let adapter = format!("patterns={}", arg(&model("tiny-glm4/adapters/patterns")));
    let service = Service::start(&["--model", arg(&checkpoint), "--adapter", &adapter]);
    let list = service.get("/v1/models").json();
    assert_eq!(list["data"][0]["id"], "tiny-glm4");
    assert_eq!(
        (&list["data"][1]["id"], &list["data"][1]["parent"]),
        (&json!("patterns"), &json!("tiny-glm4"))
    );
    assert_eq!(service.get("/v1/models/patterns").json(), list["data"][1]);
    let answer = |name: &str| {
        let body = json!({"model": name, "prompt": [5, 6, 7, 8], "max_tokens": 12, "temperature": 0,
                          "ignore_eos": true, "skip_special_tokens": false});
        let answer = service.post("/v1/completions", &body).json();
        assert!(answer["choices"][0]["text"].is_string(), "{answer}");
        answer
    };
    let (plain, adapted) = (answer("tiny-glm4"), answer("patterns"));
    assert_eq!(adapted["model"], "patterns");
    assert_ne!(plain["choices"][0]["text"], adapted["choices"][0]["text"]);
    // The name that it was started with is one too.
    assert_eq!(answer(arg(&checkpoint))["choices"], plain["choices"]);
}

#[test]
fn sigterm_lets_answers_finish() {
    let service = Service::start(&[]);
    let (mut inside, rest) = service.half_sent();
    let mut body = completion();
    body["stream"] = json!(true);
    let mut streamed = service.send("POST", "/v1/completions", &body.to_string());
    let mut first = [0];
    streamed.read_exact(&mut first).unwrap();
    service.signal("TERM");
    service.wait_for("/readyz", 503);
    assert_eq!(service.get("/livez").status, 200);
    assert_eq!(service.get("/healthz").json()["phase"], "draining");
    let refused = service.post("/v1/completions", &completion());
    assert_eq!(
        (refused.status, &refused.json()["error"]["code"]),
        (503, &json!("draining"))
    );
    assert!(refused.head.contains("retry-after: "), "{}", refused.head);

    inside.write_all(rest.as_bytes()).unwrap();
    let answer = Response::read(inside);
    assert_eq!(answer.json()["usage"]["completion_tokens"], 8, "{answer:?}");
    let mut text = "H".to_owned();
    streamed.read_to_string(&mut text).unwrap();
    Response::parse(&text).chunks();
    let run = service.end();
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(!run.stderr.contains("cut off"), "{run:?}");
}

#[test]
fn a_drain_has_an_end() {
    let service = Service::start(&["--drain-timeout", "0"]);
    let (_inside, _) = service.half_sent();
    service.signal("TERM");
    let run = service.end();
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stderr.contains("cut off after 0 s: 1"), "{run:?}");
}

#[test]
fn ctrl_c_drains_and_a_second_one_ends_at_once() {
    let service = Service::start(&[]);
    service.signal("INT");
    assert_eq!(service.end().code, Some(0));

    let service = Service::start(&[]);
    let (_inside, _) = service.half_sent();
    service.signal("INT");
    service.wait_for("/readyz", 503);
    service.signal("INT");
    assert_eq!(service.end().code, Some(130));
}

#[test]
fn a_client_that_leaves_frees_its_place() {
    // A context so long that the answer does not end by itself.
    let copy = copy_of("demo");
    edit_json(copy.path(), "config.json", |config| {
        config["max_position_embeddings"] = json!(200_000)
    });
    let service = Service::start(&["--model", arg(copy.path()), "--max-model-len", "200000"]);
    let body = json!({"prompt": "a", "max_tokens": 190_000, "ignore_eos": true, "stream": true});
    let mut socket = service.send("POST", "/v1/completions", &body.to_string());
    let mut first = [0];
    socket.read_exact(&mut first).unwrap();
    drop(socket);
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let engine = service.get("/healthz").json()["components"]["engine"].clone();
        if engine["running"] == 0 {
            assert_eq!(engine["kv_blocks_free"], engine["kv_blocks_total"]);
            break;
        }
        assert!(Instant::now() < deadline, "{engine}");
        std::thread::yield_now();
    }
}

#[test]
fn a_port_that_is_taken_is_work_that_failed() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let run = glm(&["serve", "--port", &port]);
    assert_eq!(
        (run.code, run.stderr.lines().count()),
        (Some(1), 1),
        "{run:?}"
    );
    assert!(
        run.stderr
            .starts_with(&format!("error: cannot listen on 127.0.0.1:{port}: ")),
        "{run:?}"
    );
}

#[test]
fn an_open_address_needs_a_word() {
    let refused = glm(&["serve", "--port", "0", "--host", "0.0.0.0"]).refused();
    assert!(refused.contains("--insecure"), "{refused}");
    let refused = glm(&["serve", "--port", "0", "--host", "::"]).refused();
    assert!(refused.contains("--insecure"), "{refused}");
    let service = Service::start(&["--host", "0.0.0.0", "--insecure"]);
    assert!(
        service.address.starts_with("0.0.0.0:"),
        "{}",
        service.address
    );
    assert_eq!(service.get("/readyz").status, 200);
    for (option, value) in [("--port", "-1"), ("--drain-timeout", "-1")] {
        let run = glm(&["serve", option, value]);
        assert_eq!(run.code, Some(2), "{run:?}");
        assert!(run.stderr.contains(option), "{run:?}");
    }
}
