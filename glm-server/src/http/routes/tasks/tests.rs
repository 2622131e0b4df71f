//! Tasks from outside: requests to the router of a service whose workers run.

use std::sync::Arc;

use axum::body::Body;
use axum::http::Request;
use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::http::tests::{ask, get, polite, post, send, text, until};
use crate::http::working::{Working, begun, held, working, working_on};
use crate::http::{LiveOptions, RateLimits};
use crate::jobs::{Jobs, JobsOptions, QueuePlace};

impl Working {
    async fn submit(&self, fields: Value) -> (u16, Value) {
        let mut body =
            json!({"endpoint": "/v1/completions", "body": {"prompt": "a", "max_tokens": 3}});
        let fields = fields.as_object().unwrap().clone();
        body.as_object_mut().unwrap().extend(fields);
        ask(&self.router, post("/v1/tasks", body.to_string())).await
    }

    async fn submitted(&self, fields: Value) -> String {
        let (status, task) = self.submit(fields).await;
        assert_eq!(status, 202, "{task}");
        task["id"].as_str().unwrap().to_owned()
    }

    async fn get(&self, id: &str) -> Value {
        let (status, task) = ask(&self.router, get(&format!("/v1/tasks/{id}"))).await;
        assert_eq!(status, 200, "{task}");
        task
    }

    async fn cancel(&self, id: &str) -> (u16, Value) {
        let request = Request::delete(format!("/v1/tasks/{id}"));
        ask(&self.router, request.body(Body::empty()).unwrap()).await
    }

    /// Every state of a task until its end, as its events say.
    async fn watch(&self, id: &str) -> Vec<Value> {
        let response = send(&self.router, get(&format!("/v1/tasks/{id}/events"))).await;
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let mut parts = response.into_body().into_data_stream();
        let mut text = String::new();
        while let Some(part) = parts.next().await {
            text += std::str::from_utf8(&part.unwrap()).unwrap();
        }
        let events = text
            .split_terminator("\n\n")
            .filter_map(|e| e.strip_prefix("data: "));
        events
            .map(|event| serde_json::from_str(event).unwrap())
            .collect()
    }

    async fn end(&self, id: &str) -> Value {
        self.watch(id).await.pop().unwrap()
    }

    pub(in crate::http) async fn list(&self, query: &str) -> Value {
        let (status, list) = ask(&self.router, get(&format!("/v1/tasks?{query}"))).await;
        assert_eq!(status, 200, "{list}");
        list
    }
}

fn ids(list: &Value) -> Vec<&str> {
    let tasks = list["data"].as_array().unwrap();
    tasks
        .iter()
        .map(|task| task["id"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn a_task_is_answered_as_the_request_would_be() {
    let working = working(polite(), JobsOptions::default());
    let body = json!({"messages": [{"role": "user", "content": "Hi"}]});
    let chat = json!({"endpoint": "/v1/chat/completions", "body": body});
    let (status, task) = working.submit(chat).await;
    assert_eq!((status, &task["status"]), (202, &json!("queued")), "{task}");
    let id = task["id"].as_str().unwrap();
    let ended = working.end(id).await;
    assert_eq!(ended, working.get(id).await);
    assert_eq!(
        (&ended["status"], &ended["attempts"]),
        (&json!("completed"), &json!(1))
    );
    assert_eq!(ended["body"], body);
    let (_, direct) = ask(
        &working.router,
        post("/v1/chat/completions", body.to_string()),
    )
    .await;
    for field in ["object", "choices", "usage", "model"] {
        assert_eq!(ended["result"][field], direct[field], "{field}");
    }
    let id = ended["result"]["id"].as_str().unwrap();
    assert!(id.starts_with("chatcmpl-"), "{id}");
}

#[tokio::test]
async fn every_dialect_can_be_asked_later() {
    let working = working(polite(), JobsOptions::default());
    let messages = json!([{"role": "user", "content": "Hi"}]);
    for (path, body) in [
        (
            "/v1/messages",
            json!({"model": "demo", "max_tokens": 5, "messages": messages}),
        ),
        ("/v1/responses", json!({"input": "Hi", "store": false})),
        ("/v1/embeddings", json!({"input": ["a", "b"]})),
    ] {
        let task = json!({"endpoint": path, "body": body});
        let ended = working.end(&working.submitted(task).await).await;
        assert_eq!(ended["status"], "completed", "{path}: {ended}");
        let (_, direct) = ask(&working.router, post(path, body.to_string())).await;
        for field in ["data", "content", "usage", "stop_reason"] {
            assert_eq!(ended["result"][field], direct[field], "{path} {field}");
        }
    }
}

#[tokio::test]
async fn what_could_never_run_is_refused_at_once() {
    let working = working(polite(), JobsOptions::default());
    let past = json!({"deadline": 1_000_000});
    let past_in_words = json!({"deadline": "1970-01-12T13:46:40Z"});
    for (fields, status, param) in [
        (json!({"endpoint": "/v1/nothing"}), 400, json!("endpoint")),
        (json!({"endpoint": null}), 400, json!("endpoint")),
        (json!({"body": null}), 400, json!("body")),
        (json!({"body": {}}), 400, json!("prompt")),
        (
            json!({"body": {"prompt": "a", "stream": true}}),
            400,
            json!("stream"),
        ),
        (
            json!({"body": {"prompt": "a", "model": "other"}}),
            404,
            json!("model"),
        ),
        (json!({"priority": 101}), 400, json!("priority")),
        (json!({"max_retries": 101}), 400, json!("max_retries")),
        (past, 400, json!("deadline")),
        (past_in_words, 400, json!("deadline")),
        (json!({"deadline": "tomorrow"}), 400, json!("deadline")),
        (json!({"deadline": "2031-05-17"}), 400, json!("deadline")),
        (json!({"deadline": true}), 400, json!("deadline")),
        (
            json!({"idempotency_key": "a\nb"}),
            400,
            json!("idempotency_key"),
        ),
        (json!({"max_retry": 3}), 400, json!(null)),
    ] {
        let (found, answer) = working.submit(fields.clone()).await;
        assert_eq!(
            (found, &answer["error"]["param"]),
            (status, &param),
            "{fields} {answer}"
        );
    }
    assert_eq!(working.list("").await["data"], json!([]));
}

#[tokio::test]
async fn a_deadline_is_seconds_or_a_time_with_its_zone() {
    let working = working(polite(), JobsOptions::default());
    for (deadline, seconds) in [
        (json!(4_000_000_000_u64), 4e9),
        (json!(4_000_000_000.5), 4_000_000_000.5),
        (json!("2096-10-02T07:06:40Z"), 4e9),
        (json!("2096-10-02T09:06:40.25+02:00"), 4_000_000_000.25),
    ] {
        let (status, task) = working.submit(json!({"deadline": deadline})).await;
        assert_eq!(
            (status, &task["deadline"]),
            (202, &json!(seconds)),
            "{deadline}: {task}"
        );
    }
}

#[tokio::test]
async fn as_many_tasks_wait_as_may() {
    let (go, asked, fake) = held();
    let few = JobsOptions {
        max_queued: 3,
        max_workers: Some(1),
        ..JobsOptions::default()
    };
    let working = working(fake, few);
    let first = working.submitted(json!({"idempotency_key": "k"})).await;
    begun(asked).await;
    // What runs is counted no more once it has been seen to run.
    until("it runs", async || {
        working.service.jobs().unwrap().health().running > 0
    })
    .await;
    let mut taken = vec![()];
    let refused = loop {
        let body = json!({"endpoint": "/v1/completions", "body": {"prompt": "a", "max_tokens": 1}});
        let response = send(&working.router, post("/v1/tasks", body.to_string())).await;
        if response.status() != 202 {
            break response;
        }
        taken.push(());
        assert!(taken.len() <= 4, "more wait than may");
    };
    assert_eq!(taken.len(), 4, "one that runs and three that wait");
    assert_eq!(refused.status(), 429);
    assert!(refused.headers().contains_key("retry-after"));
    // What is in the queue already needs no room.
    assert_eq!(
        working.submitted(json!({"idempotency_key": "k"})).await,
        first
    );
    assert_eq!(working.submit(json!({"idempotency_key": "l"})).await.0, 429);
    let background = json!({"input": "Hi", "background": true});
    let (status, answer) = loop {
        let request = post("/v1/responses", background.to_string());
        let (status, answer) = ask(&working.router, request).await;
        if status != 200 {
            break (status, answer);
        }
    };
    assert_eq!(
        (status, &answer["error"]["code"]),
        (429, &json!("queue_full"))
    );
    let metrics = text(send(&working.router, get("/metrics")).await).await;
    for line in ["tasks_refused_total 3", "tasks_queue_limit 3"] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    drop(go);
    // There is room again when it has been seen that they have ended.
    until("there is room", async || {
        working.submit(json!({})).await.0 == 202
    })
    .await;
}

#[tokio::test]
async fn tasks_use_up_the_limits_of_who_submitted_them() {
    let working = working(polite(), JobsOptions::default());
    let limited = |tokens: u32| LiveOptions {
        limits: RateLimits {
            requests_per_minute: None,
            tokens_per_minute: Some(tokens),
        },
        ..LiveOptions::default()
    };
    for task in [
        json!({"body": {"prompt": "a", "max_tokens": 50, "ignore_eos": true}}),
        json!({"endpoint": "/v1/embeddings", "body": {"input": "a ".repeat(50)}}),
    ] {
        working.service.reload(limited(20)).unwrap();
        let id = working.submitted(task).await;
        assert_eq!(working.end(&id).await["status"], "completed");
        let (status, refused) = working.submit(json!({})).await;
        assert_eq!(
            (status, &refused["error"]["type"]),
            (429, &json!("tokens")),
            "{refused}"
        );
        // Without limits there is no debt.
        working.service.reload(LiveOptions::default()).unwrap();
        assert_eq!(working.submit(json!({})).await.0, 202);
    }
}

#[tokio::test]
async fn a_key_makes_a_submission_repeatable() {
    let working = working(polite(), JobsOptions::default());
    let first = working.submitted(json!({"idempotency_key": "k"})).await;
    assert_eq!(
        working.submitted(json!({"idempotency_key": "k"})).await,
        first
    );
    let body = json!({"endpoint": "/v1/completions", "body": {"prompt": "a", "max_tokens": 3}});
    let with_header = |key: &str, body: &Value| {
        let mut request = post("/v1/tasks", body.to_string());
        request
            .headers_mut()
            .insert("idempotency-key", key.parse().unwrap());
        request
    };
    let (_, again) = ask(&working.router, with_header("k", &body)).await;
    assert_eq!(again["id"], json!(first));
    let other = json!({"endpoint": "/v1/completions", "body": {"prompt": "b"}});
    assert_eq!(ask(&working.router, with_header("k", &other)).await.0, 409);
    let both =
        json!({"endpoint": "/v1/completions", "body": {"prompt": "b"}, "idempotency_key": "l"});
    assert_eq!(ask(&working.router, with_header("k", &both)).await.0, 400);
}

#[tokio::test]
async fn a_cancelled_task_is_stopped_and_frees_its_place() {
    let (go, asked, fake) = held();
    let working = working(fake, JobsOptions::default());
    let long = json!({"prompt": "a", "max_tokens": 200, "ignore_eos": true});
    let id = working.submitted(json!({"body": long})).await;
    begun(asked).await;
    let (status, task) = working.cancel(&id).await;
    assert_eq!(
        (status, &task["cancel_requested"]),
        (200, &json!(true)),
        "{task}"
    );
    let ended = working.end(&id).await;
    assert_eq!(
        (&ended["status"], &ended["result"]),
        (&json!("cancelled"), &json!(null))
    );
    drop(go);
    // It has come to its end, and asking again changes nothing.
    assert_eq!(working.cancel(&id).await.1["status"], "cancelled");
    assert_eq!(working.cancel("no-id").await.0, 404);
    // The engine is free again.
    let id = working.submitted(json!({})).await;
    assert_eq!(working.end(&id).await["status"], "completed");
}

#[tokio::test]
async fn a_task_that_waits_is_cancelled_at_once() {
    let (_go, _asked, fake) = held();
    let one = JobsOptions {
        max_workers: Some(1),
        ..JobsOptions::default()
    };
    let working = working(fake, one);
    working.submitted(json!({})).await;
    let second = working.submitted(json!({})).await;
    assert_eq!(working.cancel(&second).await.1["status"], "cancelled");
    let list = working.list("status=cancelled").await;
    assert_eq!(ids(&list), [second]);
}

#[tokio::test]
async fn events_say_each_state_once() {
    let (go, asked, fake) = held();
    let working = Arc::new(working(fake, JobsOptions::default()));
    let id = working.submitted(json!({})).await;
    let watching = tokio::spawn({
        let (working, id) = (Arc::clone(&working), id.clone());
        async move { working.watch(&id).await }
    });
    begun(asked).await;
    drop(go);
    let events = watching.await.unwrap();
    let states: Vec<_> = events
        .iter()
        .map(|e| e["status"].as_str().unwrap())
        .collect();
    let mut once = states.clone();
    once.dedup();
    assert_eq!(states, once, "no state twice");
    assert!(
        ["queued", "running", "completed"].ends_with(&states),
        "{states:?}"
    );
    let result = &events.last().unwrap()["result"];
    assert_eq!(result["usage"]["completion_tokens"], 3);
}

#[tokio::test]
async fn a_failure_is_tried_again_and_then_said() {
    let working = working(polite().failing(|_| true), JobsOptions::default());
    let id = working.submitted(json!({"max_retries": 0})).await;
    let ended = working.end(&id).await;
    assert_eq!(
        (&ended["status"], &ended["attempts"]),
        (&json!("failed"), &json!(1))
    );
    assert_eq!(
        (&ended["error"]["status"], &ended["error"]["code"]),
        (&json!(500), &json!("engine_failed"))
    );
    let again = working.submitted(json!({"max_retries": 1})).await;
    assert_eq!(working.end(&again).await["attempts"], 2);
    // Each wait is twice as long as the one before: sooner or later one is seen.
    let often = working.submitted(json!({"max_retries": 20})).await;
    until("it waits to be tried again", async || {
        working.get(&often).await["retry_at"].is_f64()
    })
    .await;
    working.cancel(&often).await;
}

#[tokio::test]
async fn lists_have_filters_and_pages() {
    let working = working(polite(), JobsOptions::default());
    let mut all = Vec::new();
    for _ in 0..5 {
        all.push(working.submitted(json!({})).await);
    }
    for id in &all {
        working.end(id).await;
    }
    assert_eq!(ids(&working.list("order=asc").await), all);
    let first = working
        .list("limit=2&order=asc&status=completed,failed")
        .await;
    assert_eq!(
        (ids(&first), &first["has_more"]),
        (vec![&*all[0], &*all[1]], &json!(true))
    );
    let after = first["last_id"].as_str().unwrap();
    let rest = working.list(&format!("after={after}&order=asc")).await;
    assert_eq!(
        (ids(&rest), &rest["has_more"]),
        (all[2..].iter().map(|id| &**id).collect(), &json!(false))
    );
    assert_eq!(
        working.list("endpoint=/v1/chat/completions").await["data"],
        json!([])
    );
    for query in [
        "limit=0",
        "limit=x",
        "order=up",
        "status=done",
        "after=x",
        "what=1",
    ] {
        let (status, answer) = ask(&working.router, get(&format!("/v1/tasks?{query}"))).await;
        assert!([400, 404].contains(&status), "{query} {answer}");
    }
}

#[tokio::test]
async fn a_drain_gives_tasks_back_unharmed_and_the_next_service_runs_them() {
    let directory = tempfile::tempdir().unwrap();
    let jobs = JobsOptions {
        queue: QueuePlace::File(directory.path().join("state/queue.db")),
        ..JobsOptions::default()
    };
    let (go, asked, fake) = held();
    let first = working(fake, jobs.clone());
    let id = first.submitted(json!({"max_retries": 0})).await;
    begun(asked).await;
    first.service.drain();
    first.workers.await.unwrap();
    let left = first.service.jobs().unwrap();
    let left = left
        .info("default", id.parse().unwrap())
        .await
        .unwrap()
        .unwrap();
    assert_eq!((left.status.as_str(), left.attempts), ("queued", 0));
    drop(go);
    let second = working(polite(), jobs);
    let ended = second.end(&id).await;
    assert_eq!(
        (&ended["status"], &ended["attempts"]),
        (&json!("completed"), &json!(1))
    );
}

#[tokio::test]
async fn tasks_are_for_the_model_that_they_were_submitted_to() {
    let jobs = Jobs::open(JobsOptions::default()).unwrap();
    let other = jobs.new_task("default", "another model", "/v1/completions");
    let other = jobs.submit(other).await.unwrap().task.id;
    let working = working_on(polite(), jobs);
    let own = working.submitted(json!({})).await;
    assert_eq!(working.end(&own).await["status"], "completed");
    let waits = working.get(&other.to_string()).await;
    assert_eq!(
        (&waits["status"], &waits["model"]),
        (&json!("queued"), &json!("another model"))
    );
}
