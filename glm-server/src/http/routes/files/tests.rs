//! Files from outside.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::Request;
use futures_util::stream;
use serde_json::{Value, json};

use crate::http::tests::{ask, get, polite, send, text};
use crate::http::working::{Working, working};
use crate::jobs::JobsOptions;

const BOUNDARY: &str = "XboundaryX";

/// A form with these fields, the file's first or last.
pub(in crate::http) fn form(fields: &[(&str, &str)], file: Option<(&str, &str)>) -> Request<Body> {
    let mut body = String::new();
    for (name, value) in fields {
        body += &format!(
            "--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
        );
    }
    if let Some((name, content)) = file {
        body += &format!(
            "--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"file\"; filename=\"{name}\"\r\ncontent-type: application/jsonl\r\n\r\n{content}\r\n"
        );
    }
    body += &format!("--{BOUNDARY}--\r\n");
    let request = Request::post("/v1/files");
    let content_type = format!("multipart/form-data; boundary={BOUNDARY}");
    request
        .header("content-type", content_type)
        .body(body.into())
        .unwrap()
}

/// The id of a file that was uploaded.
pub(in crate::http) async fn uploaded(router: &Router, content: &str) -> String {
    let request = form(&[("purpose", "batch")], Some(("requests.jsonl", content)));
    let (status, file) = ask(router, request).await;
    assert_eq!(status, 200, "{file}");
    file["id"].as_str().unwrap().to_owned()
}

fn delete(path: &str) -> Request<Body> {
    Request::delete(path).body(Body::empty()).unwrap()
}

fn limited(max_file_bytes: u64) -> Working {
    working(
        polite(),
        JobsOptions {
            max_file_bytes,
            ..JobsOptions::default()
        },
    )
}

#[tokio::test]
async fn a_file_comes_back_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let working = working(
        polite(),
        JobsOptions {
            files: Some(directory.path().join("files")),
            ..JobsOptions::default()
        },
    );
    let router = &working.router;
    let content = "line\r\n".repeat(50_000);
    // A name that would be a way out, were it a path.
    let request = form(&[("purpose", "batch")], Some(("../../out.jsonl", &content)));
    let (status, file) = ask(router, request).await;
    assert_eq!(
        (status, &file["object"], &file["bytes"]),
        (200, &json!("file"), &json!(content.len())),
        "{file}"
    );
    assert_eq!(
        (&file["purpose"], &file["status"]),
        (&json!("batch"), &json!("processed"))
    );
    let id = file["id"].as_str().unwrap();
    let inside: Vec<_> = std::fs::read_dir(directory.path().join("files"))
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(
        inside.len(),
        2,
        "the file and the folder of incoming ones: {inside:?}"
    );
    let (_, found) = ask(router, get(&format!("/v1/files/{id}"))).await;
    assert_eq!(found, file);
    let response = send(router, get(&format!("/v1/files/{id}/content"))).await;
    assert_eq!(
        response.headers()["content-length"],
        content.len().to_string().as_str()
    );
    assert_eq!(text(response).await, content);
    let (_, deleted) = ask(router, delete(&format!("/v1/files/{id}"))).await;
    assert_eq!(
        deleted,
        json!({"id": id, "object": "file", "deleted": true})
    );
    for path in [format!("/v1/files/{id}"), format!("/v1/files/{id}/content")] {
        assert_eq!(ask(router, get(&path)).await.0, 404);
    }
    assert_eq!(ask(router, delete(&format!("/v1/files/{id}"))).await.0, 404);
    assert!(!directory.path().join("files").join(id).exists());
}

#[tokio::test]
async fn what_is_no_file_is_refused_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let working = working(
        polite(),
        JobsOptions {
            files: Some(directory.path().to_owned()),
            max_file_bytes: 10,
            ..JobsOptions::default()
        },
    );
    let batch = ("purpose", "batch");
    let file = Some(("a", "0123456789"));
    let plain = Request::post("/v1/files").header("content-type", "application/json");
    for (request, status) in [
        (form(&[batch], file), 200),
        (form(&[batch], Some(("a", "0123456789a"))), 413),
        (form(&[batch], None), 400),
        (form(&[], file), 400),
        (form(&[("purpose", "fun")], file), 400),
        (form(&[batch, ("what", "1")], file), 400),
        (
            form(&[batch, ("expires_after[anchor]", "created_at")], file),
            400,
        ),
        (
            form(
                &[
                    batch,
                    ("expires_after[anchor]", "now"),
                    ("expires_after[seconds]", "3600"),
                ],
                file,
            ),
            400,
        ),
        (
            form(
                &[
                    batch,
                    ("expires_after[anchor]", "created_at"),
                    ("expires_after[seconds]", "1"),
                ],
                file,
            ),
            400,
        ),
        (
            form(
                &[
                    batch,
                    ("expires_after[anchor]", "created_at"),
                    ("expires_after[seconds]", "3600"),
                ],
                file,
            ),
            200,
        ),
        (form(&[batch], Some((&"x".repeat(256), "a"))), 400),
        (plain.body("{}".into()).unwrap(), 400),
    ] {
        let (found, answer) = ask(&working.router, request).await;
        assert_eq!(found, status, "{answer}");
    }
    let (_, list) = ask(&working.router, get("/v1/files")).await;
    assert_eq!(list["data"].as_array().unwrap().len(), 2);
    let incoming = std::fs::read_dir(directory.path().join("incoming")).unwrap();
    assert_eq!(incoming.count(), 0);
}

#[tokio::test]
async fn files_are_listed_by_purpose_and_in_pages() {
    let working = limited(1000);
    let mut ids = Vec::new();
    for at in 0..5 {
        let purpose = ("purpose", if at % 2 == 0 { "batch" } else { "user_data" });
        let (_, file) = ask(&working.router, form(&[purpose], Some(("a", "b")))).await;
        ids.push(file["id"].clone());
    }
    let list = async |query: &str| -> (Vec<Value>, Value) {
        let (status, list) = ask(&working.router, get(&format!("/v1/files?{query}"))).await;
        assert_eq!(status, 200, "{list}");
        let files = list["data"].as_array().unwrap();
        (
            files.iter().map(|file| file["id"].clone()).collect(),
            list["has_more"].clone(),
        )
    };
    let newest: Vec<_> = ids.iter().rev().cloned().collect();
    assert_eq!(list("").await, (newest, json!(false)));
    assert_eq!(
        list("order=asc&limit=2").await,
        (ids[..2].to_vec(), json!(true))
    );
    let after = ids[1].as_str().unwrap();
    assert_eq!(list(&format!("order=asc&after={after}")).await.0, ids[2..]);
    assert_eq!(
        list("purpose=user_data&order=asc").await.0,
        [ids[1].clone(), ids[3].clone()]
    );
    assert_eq!(
        list("purpose=batch&order=asc&limit=3").await.1,
        json!(false)
    );
    assert_eq!(ask(&working.router, get("/v1/files?order=up")).await.0, 400);
}

#[tokio::test]
async fn ids_that_lead_elsewhere_are_no_files() {
    let working = limited(1000);
    for id in [
        "file-1",
        "..%2Fqueue.db",
        "%2e%2e",
        "file-..%2f..%2fetc%2fpasswd",
    ] {
        for end in ["", "/content"] {
            let (status, answer) = ask(&working.router, get(&format!("/v1/files/{id}{end}"))).await;
            assert_eq!(status, 404, "{answer}");
        }
    }
}

#[tokio::test]
async fn what_is_no_part_of_a_field_has_a_limit() {
    const CHUNK: usize = 16 << 10;
    let working = limited(100 << 20);
    let no_end = format!("--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"");
    for begins in ["", &no_end] {
        let taken = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&taken);
        let chunks = (0..640).map(move |_| {
            counter.fetch_add(CHUNK, Ordering::Relaxed);
            Bytes::from(vec![b'x'; CHUNK])
        });
        let chunks = [Bytes::from(begins.to_owned())].into_iter().chain(chunks);
        let body = Body::from_stream(stream::iter(chunks.map(Ok::<_, Infallible>)));
        let mut request = form(&[], None);
        *request.body_mut() = body;
        let (status, answer) = ask(&working.router, request).await;
        assert_eq!(
            (status, &answer["error"]["code"]),
            (400, &json!("invalid_form")),
            "{answer}"
        );
        let taken = taken.load(Ordering::Relaxed);
        assert!(taken <= 512 << 10, "{taken} bytes were read");
    }
}
