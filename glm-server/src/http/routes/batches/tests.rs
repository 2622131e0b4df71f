//! Batches from outside.

use serde_json::{Value, json};

use crate::http::routes::files::tests::uploaded;
use crate::http::tests::{ask, get, polite, post, send, text};
use crate::http::working::{Working, begun, held, working};
use crate::jobs::JobsOptions;

fn line(id: &str, body: &Value) -> String {
    json!({"custom_id": id, "method": "POST", "url": "/v1/completions", "body": body}).to_string()
        + "\n"
}

/// Requests called `0`, `1`, …
fn lines(count: usize) -> String {
    (0..count)
        .map(|n| {
            line(
                &n.to_string(),
                &json!({"prompt": format!("{n}"), "max_tokens": 2}),
            )
        })
        .collect()
}

impl Working {
    async fn create(&self, fields: Value) -> (u16, Value) {
        let mut body = json!({"endpoint": "/v1/completions", "completion_window": "24h"});
        let fields = fields.as_object().unwrap().clone();
        body.as_object_mut().unwrap().extend(fields);
        ask(&self.router, post("/v1/batches", body.to_string())).await
    }

    async fn begin_batch(&self, input: &str) -> String {
        let file = uploaded(&self.router, input).await;
        let (status, batch) = self.create(json!({"input_file_id": file})).await;
        assert_eq!(
            (status, &batch["status"]),
            (200, &json!("validating")),
            "{batch}"
        );
        batch["id"].as_str().unwrap().to_owned()
    }

    async fn batch(&self, id: &str) -> Value {
        let (status, batch) = ask(&self.router, get(&format!("/v1/batches/{id}"))).await;
        assert_eq!(status, 200, "{batch}");
        batch
    }

    async fn cancel_batch(&self, id: &str) -> (u16, Value) {
        ask(&self.router, post(&format!("/v1/batches/{id}/cancel"), "")).await
    }

    /// The batch when nothing changes any more.
    async fn ended(&self, id: &str) -> Value {
        loop {
            let batch = self.batch(id).await;
            let status = batch["status"].as_str().unwrap();
            if ["completed", "failed", "expired", "cancelled"].contains(&status) {
                return batch;
            }
            tokio::task::yield_now().await;
        }
    }

    /// The lines of a file of results, in the order of the input.
    async fn results(&self, file: &Value) -> Vec<Value> {
        let path = format!("/v1/files/{}/content", file.as_str().unwrap());
        let content = text(send(&self.router, get(&path)).await).await;
        let mut lines: Vec<Value> = content
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        lines.sort_by_key(|line| {
            line["id"]
                .as_str()
                .unwrap()
                .trim_start_matches("batch_req_")
                .parse::<u64>()
                .unwrap()
        });
        lines
    }
}

fn custom_ids(results: &[Value]) -> Vec<&str> {
    results
        .iter()
        .map(|line| line["custom_id"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn every_line_is_answered_once() {
    let working = working(polite(), JobsOptions::default());
    let bad = line("hot", &json!({"prompt": "a", "temperature": -1}));
    let id = working.begin_batch(&(lines(30) + "\n" + &bad)).await;
    let batch = working.ended(&id).await;
    assert_eq!(batch["status"], "completed", "{batch}");
    assert_eq!(
        batch["request_counts"],
        json!({"total": 31, "completed": 30, "failed": 1})
    );
    for time in [
        "created_at",
        "in_progress_at",
        "finalizing_at",
        "completed_at",
        "expires_at",
    ] {
        assert!(batch[time].is_u64(), "{time}: {batch}");
    }
    assert_eq!(
        batch["expires_at"].as_u64().unwrap() - batch["created_at"].as_u64().unwrap(),
        24 * 3600
    );
    let output = working.results(&batch["output_file_id"]).await;
    let expected: Vec<_> = (0..30).map(|n| n.to_string()).collect();
    assert_eq!(custom_ids(&output), expected);
    for line in &output {
        assert_eq!(
            (&line["response"]["status_code"], &line["error"]),
            (&json!(200), &json!(null))
        );
        assert_eq!(line["response"]["body"]["usage"]["completion_tokens"], 2);
    }
    let errors = working.results(&batch["error_file_id"]).await;
    assert_eq!(custom_ids(&errors), ["hot"]);
    let response = &errors[0]["response"];
    assert_eq!(
        (
            &response["status_code"],
            &response["body"]["error"]["param"]
        ),
        (&json!(400), &json!("temperature"))
    );
    // It is too late to end it.
    assert_eq!(working.cancel_batch(&id).await.0, 409);
}

#[tokio::test]
async fn lines_can_ask_for_embeddings() {
    let working = working(polite(), JobsOptions::default());
    let path = "/v1/embeddings";
    let body = |n: usize| json!({"input": [format!("text {n}"), "b"]});
    let line = |n: usize| {
        json!({"custom_id": n.to_string(), "method": "POST", "url": path, "body": body(n)})
            .to_string()
    };
    let input = [line(0), line(1), line(2)].join("\n");
    let file = uploaded(&working.router, &input).await;
    let (status, batch) = working
        .create(json!({"input_file_id": file, "endpoint": path}))
        .await;
    assert_eq!(status, 200, "{batch}");
    let batch = working.ended(batch["id"].as_str().unwrap()).await;
    assert_eq!(
        batch["request_counts"],
        json!({"total": 3, "completed": 3, "failed": 0}),
        "{batch}"
    );
    let results = working.results(&batch["output_file_id"]).await;
    for (n, result) in results.iter().enumerate() {
        let (_, direct) = ask(&working.router, post(path, body(n).to_string())).await;
        assert_eq!(result["response"]["body"], direct);
    }
}

/// The queue is shorter than the batch, whose lines wait in the file.
#[tokio::test]
async fn a_batch_waits_for_room_in_the_queue() {
    let few = JobsOptions {
        max_queued: 1,
        ..JobsOptions::default()
    };
    let working = working(polite(), few);
    let id = working.begin_batch(&lines(600)).await;
    let batch = working.ended(&id).await;
    assert_eq!(
        batch["request_counts"],
        json!({"total": 600, "completed": 600, "failed": 0}),
        "{batch}"
    );
}

#[tokio::test]
async fn an_input_that_is_no_batch_fails_and_says_where() {
    let working = working(polite(), JobsOptions::default());
    let chat =
        json!({"custom_id": "c", "method": "POST", "url": "/v1/chat/completions", "body": {}})
            .to_string();
    let input = lines(2) + "{\n" + &lines(1) + &chat + "\n" + "{\"custom_id\": \"x\"}\n";
    let batch = working.ended(&working.begin_batch(&input).await).await;
    assert_eq!(
        (&batch["status"], &batch["output_file_id"]),
        (&json!("failed"), &json!(null))
    );
    let errors = batch["errors"]["data"].as_array().unwrap();
    let said: Vec<_> = errors
        .iter()
        .map(|e| (e["line"].as_u64().unwrap(), e["code"].as_str().unwrap()))
        .collect();
    assert_eq!(
        said,
        [
            (3, "invalid_json"),
            (4, "duplicate_custom_id"),
            (5, "mismatched_endpoint"),
            (6, "missing_required_parameter")
        ]
    );
    let list = working.list("").await;
    assert_eq!(list["data"], json!([]), "no line became a task");
    let empty = working.ended(&working.begin_batch("\n").await).await;
    assert_eq!(empty["errors"]["data"][0]["code"], "empty_file");
}

#[tokio::test]
async fn a_cancelled_batch_says_what_was_not_answered() {
    let (go, asked, fake) = held();
    let one = JobsOptions {
        max_workers: Some(1),
        ..JobsOptions::default()
    };
    let working = working(fake, one);
    let id = working.begin_batch(&lines(700)).await;
    begun(asked).await;
    let (status, batch) = working.cancel_batch(&id).await;
    assert_eq!(
        (status, &batch["status"]),
        (200, &json!("cancelling")),
        "{batch}"
    );
    drop(go);
    let batch = working.ended(&id).await;
    assert_eq!(batch["status"], "cancelled", "{batch}");
    assert!(batch["cancelling_at"].is_u64() && batch["cancelled_at"].is_u64());
    let errors = working.results(&batch["error_file_id"]).await;
    assert!(
        errors
            .iter()
            .all(|line| line["error"]["code"] == "batch_cancelled")
    );
    // A few may have been on their way when the end was asked for.
    let answered = match &batch["output_file_id"] {
        Value::Null => Vec::new(),
        file => working.results(file).await,
    };
    assert!(answered.len() < 100, "{batch}");
    let mut all: Vec<usize> = custom_ids(&errors)
        .into_iter()
        .chain(custom_ids(&answered))
        .map(|id| id.parse().unwrap())
        .collect();
    all.sort_unstable();
    assert!(all.into_iter().eq(0..700), "every line once");
    assert_eq!(working.cancel_batch(&id).await.1["status"], "cancelled");
}

#[tokio::test]
async fn what_is_no_batch_is_refused() {
    let working = working(polite(), JobsOptions::default());
    let file = uploaded(&working.router, &lines(1)).await;
    let long: serde_json::Map<_, _> = (0..17).map(|n| (n.to_string(), json!("a"))).collect();
    for (fields, param) in [
        (json!({}), "input_file_id"),
        (json!({"input_file_id": "file-none"}), "input_file_id"),
        (
            json!({"input_file_id": file, "endpoint": "/v1/nothing"}),
            "endpoint",
        ),
        (
            json!({"input_file_id": file, "completion_window": "soon"}),
            "completion_window",
        ),
        (
            json!({"input_file_id": file, "completion_window": "31d"}),
            "completion_window",
        ),
        (json!({"input_file_id": file, "metadata": long}), "metadata"),
        (
            json!({"input_file_id": file, "metadata": {"a": 1}}),
            "metadata",
        ),
        (
            json!({"input_file_id": file, "output_expires_after": {"anchor": "now", "seconds": 3600}}),
            "output_expires_after",
        ),
    ] {
        let (status, answer) = working.create(fields.clone()).await;
        assert_eq!(
            (status, &answer["error"]["param"]),
            (400, &json!(param)),
            "{fields} {answer}"
        );
    }
    for request in [
        get("/v1/batches/batch_none"),
        post("/v1/batches/batch_none/cancel", ""),
    ] {
        assert_eq!(ask(&working.router, request).await.0, 404);
    }
}

#[tokio::test]
async fn batches_are_listed_newest_first() {
    let working = working(polite(), JobsOptions::default());
    let file = uploaded(&working.router, &lines(1)).await;
    let mut ids = Vec::new();
    for at in 0..3 {
        let metadata = json!({"at": at.to_string()});
        let (_, batch) = working
            .create(json!({"input_file_id": file, "metadata": metadata}))
            .await;
        assert_eq!(batch["metadata"], metadata);
        ids.push(batch["id"].as_str().unwrap().to_owned());
    }
    let (_, list) = ask(&working.router, get("/v1/batches?limit=2")).await;
    assert_eq!(
        (&list["first_id"], &list["last_id"], &list["has_more"]),
        (&json!(ids[2]), &json!(ids[1]), &json!(true))
    );
    let (_, rest) = ask(
        &working.router,
        get(&format!("/v1/batches?after={}", ids[1])),
    )
    .await;
    assert_eq!(
        (&rest["first_id"], &rest["has_more"]),
        (&json!(ids[0]), &json!(false))
    );
    for id in &ids {
        assert_eq!(working.ended(id).await["status"], "completed");
    }
    let (_, tasks) = ask(
        &working.router,
        get(&format!("/v1/tasks?batch_id={}", ids[0])),
    )
    .await;
    assert_eq!(tasks["data"][0]["custom_id"], "0");
}
