//! Responses from outside: requests to the router.

use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};

use crate::http::tests::{ask, get, polite, post, send, started, text};
use crate::http::working::{Working, begun, held, working};
use crate::jobs::{JobsOptions, QueuePlace};

const PATH: &str = "/v1/responses";

fn respond(fields: Value) -> Request<Body> {
    let mut body = json!({"input": "Hi"});
    let fields = fields.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(fields);
    post(PATH, body.to_string())
}

fn of(id: &str) -> String {
    format!("{PATH}/{id}")
}

fn delete(path: &str) -> Request<Body> {
    Request::delete(path).body(Body::empty()).unwrap()
}

#[tokio::test]
async fn a_response_is_kept_and_gone_on_from() {
    let (_, router) = started(polite());
    let (status, first) = ask(&router, respond(json!({}))).await;
    assert_eq!(
        (status, &first["status"]),
        (200, &json!("completed")),
        "{first}"
    );
    let id = first["id"].as_str().unwrap();
    assert_eq!(ask(&router, get(&of(id))).await, (200, first.clone()));
    let (_, items) = ask(&router, get(&format!("{}/input_items", of(id)))).await;
    assert_eq!(items["data"][0]["content"][0]["text"], "Hi");
    let next = json!({"input": "And?", "previous_response_id": id});
    let (status, next) = ask(&router, respond(next)).await;
    assert_eq!((status, &next["previous_response_id"]), (200, &json!(id)));
    let more = |body: &Value| body["usage"]["input_tokens"].as_u64().unwrap();
    assert!(more(&next) > more(&first));
    assert_eq!(ask(&router, delete(&of(id))).await.0, 200);
    assert_eq!(ask(&router, get(&of(id))).await.0, 404);
    let gone = respond(json!({"previous_response_id": id}));
    let (status, gone) = ask(&router, gone).await;
    assert_eq!(
        (status, &gone["error"]["param"]),
        (400, &json!("previous_response_id"))
    );
}

#[tokio::test]
async fn a_stream_is_kept_too_and_what_must_not_be_is_not() {
    let (_, router) = started(polite());
    let response = send(&router, respond(json!({"stream": true}))).await;
    let stream = text(response).await;
    assert!(!stream.contains("[DONE]"));
    let last: Vec<&str> = stream
        .trim_end()
        .rsplit("\n\n")
        .next()
        .unwrap()
        .lines()
        .collect();
    assert_eq!(last[0], "event: response.completed");
    let last: Value = serde_json::from_str(last[1].strip_prefix("data: ").unwrap()).unwrap();
    let id = last["response"]["id"].as_str().unwrap();
    assert_eq!(
        ask(&router, get(&of(id))).await,
        (200, last["response"].clone())
    );
    let (_, unkept) = ask(&router, respond(json!({"store": false}))).await;
    assert_eq!(
        ask(&router, get(&of(unkept["id"].as_str().unwrap())))
            .await
            .0,
        404
    );
}

impl Working {
    /// Waits until the task behind a response has ended.
    async fn answered(&self, id: &str) -> Value {
        let task = id.strip_prefix("resp_").unwrap();
        let watched = send(&self.router, get(&format!("/v1/tasks/{task}/events"))).await;
        text(watched).await;
        let (status, response) = ask(&self.router, get(&of(id))).await;
        assert_eq!(status, 200, "{response}");
        response
    }
}

#[tokio::test]
async fn a_response_is_made_in_the_background() {
    let working = working(polite(), JobsOptions::default());
    let (_, direct) = ask(&working.router, respond(json!({"max_output_tokens": 30}))).await;
    let wanted = json!({"background": true, "max_output_tokens": 30, "metadata": {"a": "b"}});
    let (status, queued) = ask(&working.router, respond(wanted)).await;
    assert_eq!(
        (status, &queued["status"]),
        (200, &json!("queued")),
        "{queued}"
    );
    assert_eq!(
        (&queued["background"], &queued["metadata"]),
        (&json!(true), &json!({"a": "b"}))
    );
    let id = queued["id"].as_str().unwrap();
    let ended = working.answered(id).await;
    assert_eq!(
        (&ended["id"], &ended["status"], &ended["background"]),
        (&json!(id), &json!("completed"), &json!(true))
    );
    let said = |response: &Value| response["output"][0]["content"][0]["text"].clone();
    assert_eq!(said(&ended), said(&direct));
    // It is gone on from like any other, in the background too.
    let next = json!({"input": "And?", "previous_response_id": id, "background": true});
    let (_, next) = ask(&working.router, respond(next)).await;
    let next = working.answered(next["id"].as_str().unwrap()).await;
    assert_eq!(
        (&next["status"], &next["previous_response_id"]),
        (&json!("completed"), &json!(id))
    );
    let more = |body: &Value| body["usage"]["input_tokens"].as_u64().unwrap();
    assert!(more(&next) > more(&ended));
    for (fields, param) in [
        (json!({"background": true, "stream": true}), "stream"),
        (json!({"background": true, "store": false}), "store"),
        (json!({"background": 1}), "background"),
        (json!({"background": true, "input": []}), "input"),
    ] {
        let (status, body) = ask(&working.router, respond(fields)).await;
        assert_eq!((status, &body["error"]["param"]), (400, &json!(param)));
    }
}

#[tokio::test]
async fn what_is_deleted_while_it_is_made_is_stopped() {
    let (go, asked, fake) = held();
    let working = working(fake, JobsOptions::default());
    let wanted = json!({"background": true, "max_output_tokens": 200});
    let (_, queued) = ask(&working.router, respond(wanted)).await;
    let id = queued["id"].as_str().unwrap();
    begun(asked).await;
    let (status, deleted) = ask(&working.router, delete(&of(id))).await;
    assert_eq!((status, &deleted["id"]), (200, &json!(id)), "{deleted}");
    assert_eq!(ask(&working.router, get(&of(id))).await.0, 404);
    let task = id.strip_prefix("resp_").unwrap();
    let path = format!("/v1/tasks/{task}");
    assert_eq!(ask(&working.router, get(&path)).await.0, 404);
    drop(go);
}

#[tokio::test]
async fn responses_are_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let jobs = JobsOptions {
        queue: QueuePlace::File(directory.path().join("queue.db")),
        ..JobsOptions::default()
    };
    let first = working(polite(), jobs.clone());
    let (_, kept) = ask(&first.router, respond(json!({}))).await;
    let stream = send(&first.router, respond(json!({"stream": true}))).await;
    let stream = text(stream).await;
    let last = stream.rsplit("data: ").next().unwrap();
    let streamed = serde_json::from_str::<Value>(last).unwrap()["response"].clone();
    let (_, unkept) = ask(&first.router, respond(json!({"store": false}))).await;
    first.service.drain();
    first.workers.await.unwrap();
    drop(first.service);

    let second = working(polite(), jobs);
    for response in [&kept, &streamed] {
        let path = of(response["id"].as_str().unwrap());
        assert_eq!(
            ask(&second.router, get(&path)).await,
            (200, response.clone())
        );
        let (_, items) = ask(&second.router, get(&format!("{path}/input_items"))).await;
        assert_eq!(items["data"][0]["content"][0]["text"], "Hi");
    }
    let unkept = of(unkept["id"].as_str().unwrap());
    assert_eq!(ask(&second.router, get(&unkept)).await.0, 404);
    let next = json!({"input": "And?", "previous_response_id": kept["id"]});
    let (status, next) = ask(&second.router, respond(next)).await;
    assert_eq!((status, &next["status"]), (200, &json!("completed")));
    let path = of(kept["id"].as_str().unwrap());
    assert_eq!(ask(&second.router, delete(&path)).await.0, 200);
    assert_eq!(ask(&second.router, get(&path)).await.0, 404);
    assert_eq!(ask(&second.router, delete(&path)).await.0, 404);
}

#[tokio::test]
async fn what_is_made_in_the_background_can_be_cancelled() {
    let (go, asked, fake) = held();
    let working = working(fake, JobsOptions::default());
    let (_, queued) = ask(&working.router, respond(json!({"background": true}))).await;
    let id = queued["id"].as_str().unwrap();
    let cancel = || post(&format!("{}/cancel", of(id)), Body::empty());
    let (status, cancelled) = ask(&working.router, cancel()).await;
    assert_eq!(
        (status, &cancelled["status"]),
        (200, &json!("cancelled")),
        "{cancelled}"
    );
    drop((go, asked));
    assert_eq!(working.answered(id).await["status"], "cancelled");
    let (status, deleted) = ask(&working.router, delete(&of(id))).await;
    assert_eq!(
        (status, &deleted["deleted"], &deleted["object"]),
        (200, &json!(true), &json!("response"))
    );
    assert_eq!(ask(&working.router, get(&of(id))).await.0, 404);
    let (_, direct) = ask(&working.router, respond(json!({"max_output_tokens": 2}))).await;
    let path = format!("{}/cancel", of(direct["id"].as_str().unwrap()));
    assert_eq!(
        ask(&working.router, post(&path, Body::empty())).await.0,
        400
    );
    for path in [
        of("resp_nobody"),
        of("nobody"),
        of("resp_00000000000000000000000000000000"),
    ] {
        assert_eq!(ask(&working.router, get(&path)).await.0, 404, "{path}");
    }
}
