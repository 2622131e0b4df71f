//! Tasks and batches over a real socket, and the program killed at any moment: nothing that was accepted is lost or done twice.
#![cfg(unix)]

mod common;

use std::collections::BTreeMap;
use std::env;
use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use common::{arg, command, glm, service};
use serde_json::{Value, json};

/// How many tasks, if not a few hundred.
const JOBS: &str = "GLM_TASK_CRASH_JOBS";

/// The program on a state directory.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(state: &Path, args: &[&str]) -> Self {
        let mut child = command(
            &[
                &["serve", "--port", "0", "--state-dir", arg(state)][..],
                args,
            ]
            .concat(),
        )
        .env_remove("GLM_QUEUE")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let address = service::address(&mut stdout);
        Self { child, address }
    }

    /// The whole response: its status and body. `None` if the program died over it.
    fn try_ask(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        body: &str,
    ) -> Option<(u16, String)> {
        let mut socket = TcpStream::connect(&self.address).ok()?;
        socket
            .set_read_timeout(Some(Duration::from_secs(120)))
            .unwrap();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n\r\n"
        );
        // At once: a part that comes when the server has answered and closed would have the system throw the answer away.
        socket.write_all((head + body).as_bytes()).ok()?;
        let mut text = String::new();
        socket.read_to_string(&mut text).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let body = match head
            .to_ascii_lowercase()
            .contains("transfer-encoding: chunked")
        {
            true => unchunk(body),
            false => body.to_owned(),
        };
        Some((status, body))
    }

    fn json(&self, method: &str, path: &str, body: &Value) -> Value {
        let asked = self.try_ask(method, path, "application/json", &body.to_string());
        let (status, text) = asked.expect("it lives");
        assert!((200..300).contains(&status), "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap()
    }

    fn get(&self, path: &str) -> Value {
        self.json("GET", path, &Value::Null)
    }

    /// Waits for the end of a task by watching it.
    fn watch(&self, id: &str) -> Value {
        let path = format!("/v1/tasks/{id}/events");
        let (status, text) = self
            .try_ask("GET", &path, "application/json", "")
            .expect("it lives");
        assert_eq!(status, 200, "{text}");
        let last = text
            .split_terminator("\n\n")
            .filter_map(|event| event.strip_prefix("data: "))
            .last();
        serde_json::from_str(last.unwrap()).unwrap()
    }

    /// Every task in this state, oldest first.
    fn tasks(&self, query: &str) -> Vec<Value> {
        let (mut all, mut after) = (Vec::new(), String::new());
        loop {
            let page = self.get(&format!("/v1/tasks?limit=1000&order=asc{query}{after}"));
            all.extend(page["data"].as_array().unwrap().iter().cloned());
            if page["has_more"] == false {
                return all;
            }
            after = format!("&after={}", page["last_id"].as_str().unwrap());
        }
    }

    /// Waits until no task is left to do.
    fn finish(&self) {
        while let Some(task) = self.tasks("&status=queued,running").last() {
            self.watch(task["id"].as_str().unwrap());
        }
    }

    /// Without a word of warning: SIGKILL.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn unchunk(mut rest: &str) -> String {
    let mut whole = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let Some((part, after)) = usize::from_str_radix(size, 16)
            .ok()
            .and_then(|size| after.split_at_checked(size))
        else {
            break;
        };
        whole += part;
        rest = after.trim_start_matches("\r\n");
    }
    whole
}

/// SplitMix64 (Steele, Lea & Flood 2014).
fn random(state: &mut u64) -> usize {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut x = *state;
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x ^ (x >> 31)) as usize
}

fn body(number: usize) -> Value {
    json!({"prompt": format!("{number}"), "max_tokens": 1, "temperature": 0, "ignore_eos": true})
}

fn task(number: usize) -> Value {
    json!({
        "endpoint": "/v1/completions",
        "body": body(number),
        "max_retries": 100,
        "idempotency_key": number.to_string(),
    })
}

/// Starts a batch of so many lines.
fn begin_batch(server: &Server, lines: usize) -> String {
    let line = |n: usize| {
        json!({"custom_id": n.to_string(), "method": "POST", "url": "/v1/completions", "body": body(n)}).to_string()
    };
    let content: Vec<_> = (0..lines).map(line).collect();
    let form = format!(
        "--B\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--B\r\ncontent-disposition: form-data; name=\"file\"; filename=\"in.jsonl\"\r\n\r\n{}\r\n--B--\r\n",
        content.join("\n")
    );
    let uploaded = server.try_ask(
        "POST",
        "/v1/files",
        "multipart/form-data; boundary=B",
        &form,
    );
    let (status, file) = uploaded.unwrap();
    assert_eq!(status, 200, "{file}");
    let file: Value = serde_json::from_str(&file).unwrap();
    let wanted = json!({"input_file_id": file["id"], "endpoint": "/v1/completions", "completion_window": "24h"});
    let batch = server.json("POST", "/v1/batches", &wanted);
    batch["id"].as_str().unwrap().to_owned()
}

/// Submits tasks from number `from` on until `kill_after` more are acknowledged, or all are; then the first that is not.
fn submit(
    server: &Server,
    from: usize,
    jobs: usize,
    kill_after: usize,
    ids: &mut BTreeMap<usize, String>,
) -> usize {
    let last = jobs.min(from + kill_after);
    for number in from..last {
        let answer = server.json("POST", "/v1/tasks", &task(number));
        let id = answer["id"].as_str().unwrap();
        let known = ids.insert(number, id.to_owned());
        assert!(known.is_none_or(|known| known == id), "one key, one task");
    }
    last
}

/// A task that has ended stays as it is, whatever happens to the program.
fn check_ended(server: &Server, ended: &mut BTreeMap<String, Value>) {
    for task in server.tasks("&status=completed") {
        let id = task["id"].as_str().unwrap().to_owned();
        let before = ended.entry(id).or_insert_with(|| task.clone());
        assert_eq!(*before, task, "a task ends once");
    }
}

#[test]
fn killed_at_any_moment_it_answers_every_task_and_every_line_once() {
    let jobs = env::var(JOBS).map_or(300, |jobs| jobs.parse().unwrap());
    let state = tempfile::tempdir().unwrap();
    let start = || Server::start(state.path(), &["--task-lease", "1"]);
    let (mut chance, mut next, mut kills) = (jobs as u64, 0, 0);
    let (mut ids, mut ended) = (BTreeMap::new(), BTreeMap::new());
    let mut batch = None;
    while next < jobs || kills < 5 {
        let server = start();
        check_ended(&server, &mut ended);
        let batch = batch.get_or_insert_with(|| begin_batch(&server, jobs));
        server.get(&format!("/v1/batches/{batch}"));
        next = submit(
            &server,
            next,
            jobs,
            1 + random(&mut chance) % (jobs / 3),
            &mut ids,
        );
        // Sooner or later after what was acknowledged last.
        for _ in 0..random(&mut chance) % 20 {
            server.get("/healthz");
        }
        server.kill();
        kills += 1;
    }
    let server = start();
    check_ended(&server, &mut ended);
    let batch = batch.unwrap();
    let batch = loop {
        server.finish();
        let batch = server.get(&format!("/v1/batches/{batch}"));
        if batch["status"] == "completed" {
            break batch;
        }
    };
    assert_eq!(
        batch["request_counts"],
        json!({"total": jobs, "completed": jobs, "failed": 0}),
        "{batch}"
    );
    let output = format!(
        "/v1/files/{}/content",
        batch["output_file_id"].as_str().unwrap()
    );
    let (_, output) = server
        .try_ask("GET", &output, "application/json", "")
        .unwrap();
    let lines = output
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut lines: Vec<usize> = lines
        .map(|line| line["custom_id"].as_str().unwrap().parse().unwrap())
        .collect();
    lines.sort_unstable();
    assert!(lines.into_iter().eq(0..jobs), "every line has one result");

    check_ended(&server, &mut ended);
    let own: Vec<_> = ended
        .values()
        .filter(|task| task["batch_id"].is_null())
        .collect();
    assert_eq!(
        (own.len(), ended.len()),
        (jobs, 2 * jobs),
        "none is missing, none is there twice"
    );
    for (number, id) in &ids {
        let task = &ended[id];
        assert_eq!(task["idempotency_key"], json!(number.to_string()));
    }
    let some = server.get(&format!("/v1/tasks/{}", ids[&0]));
    assert_eq!(some["result"]["usage"]["completion_tokens"], 1, "{some}");
}

#[test]
fn a_state_directory_that_cannot_be_used_is_an_error_and_none_at_all_is_memory() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let state = file.path().join("state");
    let run = command(&["serve", "--port", "0", "--state-dir", arg(&state)])
        .env_remove("GLM_QUEUE")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&run.stderr).into_owned();
    assert_eq!(run.status.code(), Some(1), "{text}");
    assert!(
        text.contains("--state-dir") && text.contains(arg(&state)),
        "{text}"
    );
    let refused = glm(&["serve", "--port", "0", "--queue", "somewhere"]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("memory"), "{refused:?}");

    // No home, as in some containers: it works, and says what it cannot keep.
    let mut child = command(&["serve", "--port", "0"])
        .env_remove("GLM_QUEUE")
        .env_remove("XDG_STATE_HOME")
        .env_remove("HOME")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    service::address(&mut BufReader::new(child.stdout.take().unwrap()));
    child.kill().unwrap();
    let mut said = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    child.wait().unwrap();
    assert!(
        said.contains("until the service ends") && said.contains("--state-dir"),
        "{said}"
    );
}
