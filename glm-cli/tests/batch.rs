//! `batch`: killed, interrupted and run again, every line has exactly one result.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use common::{Run, arg, command, copy_of, edit_json, glm};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A folder with an input of these lines.
fn files(lines: &[String]) -> (TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (
        folder.path().join("in.jsonl"),
        folder.path().join("out.jsonl"),
    );
    fs::write(&input, lines.join("\n")).unwrap();
    (folder, input, output)
}

fn chat(custom_id: usize, max_tokens: usize) -> String {
    let messages = json!([{"role": "user", "content": format!("Count from {custom_id}.")}]);
    let body = json!({"model": "demo", "messages": messages, "max_tokens": max_tokens, "ignore_eos": true});
    let custom_id = format!("chat-{custom_id}");
    json!({"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body})
        .to_string()
}

/// The results that are whole lines.
fn results(output: &Path) -> Vec<Value> {
    let text = fs::read_to_string(output).unwrap_or_default();
    let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
    whole
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn custom_ids(results: &[Value]) -> BTreeSet<&str> {
    results
        .iter()
        .map(|result| result["custom_id"].as_str().unwrap())
        .collect()
}

fn spawn(args: &[&str]) -> Child {
    command(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits until there are `count` results, or the program has ended.
fn wait_for(child: &mut Child, output: &Path, count: usize) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while results(output).len() < count && child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "no {count} results");
        std::thread::yield_now();
    }
}

#[test]
fn killed_at_several_moments_every_line_has_one_result() {
    let lines: Vec<_> = (0..60).map(|i| chat(i, 1 + i % 12)).collect();
    let (_folder, input, output) = files(&lines);
    let args = ["batch", "--input", arg(&input), "--output", arg(&output)];
    for count in [0, 1, 5, 30] {
        let mut child = spawn(&args);
        wait_for(&mut child, &output, count);
        child.kill().unwrap();
        child.wait().unwrap();
        // What a kill in the middle of a line would leave.
        let mut written = fs::read(&output).unwrap_or_default();
        if written.ends_with(b"\n") {
            written.extend(&br#"{"id":"batch_req_1","custom"#[..count.min(27)]);
        }
        fs::write(&output, written).unwrap();
    }
    let before = results(&output).len();
    let end = glm(&[&args[..], &["--json"]].concat()).json();
    assert_eq!((&end["lines"], &end["done"]), (&json!(60), &json!(60)));
    assert_eq!(
        (&end["earlier"], &end["errors"]),
        (&json!(before), &json!(0))
    );
    let results = results(&output);
    assert_eq!((results.len(), custom_ids(&results).len()), (60, 60));
    for result in &results {
        assert_eq!(result["response"]["status_code"], 200, "{result}");
        assert_eq!(result["error"], Value::Null);
    }
    let again = glm(&args).ok();
    assert!(
        again.contains("60 results, 0 of them errors; 60 were there before"),
        "{again}"
    );
}

#[test]
fn bad_lines_are_results_and_the_rest_is_answered() {
    let lines = [
        chat(1, 2),
        "not json".to_owned(),
        r#"{"custom_id": "e", "method": "POST", "url": "/v1/moderations", "body": {}}"#.to_owned(),
        chat(1, 2),
        chat(2, 2),
    ];
    let (_folder, input, output) = files(&lines);
    let end = glm(&[
        "batch",
        "--input",
        arg(&input),
        "--output",
        arg(&output),
        "--json",
    ])
    .json();
    assert_eq!((&end["done"], &end["errors"]), (&json!(5), &json!(3)));
    let results = results(&output);
    let of = |line| {
        let id = format!("batch_req_{line}");
        results.iter().find(|result| result["id"] == id).unwrap()
    };
    assert_eq!(of(2)["error"]["line"], 2);
    assert_eq!(of(2)["custom_id"], Value::Null);
    assert_eq!(of(3)["error"]["code"], "unknown_url");
    assert_eq!(of(4)["error"]["code"], "duplicate_custom_id");
    assert_eq!(of(5)["response"]["body"]["object"], "chat.completion");
}

#[test]
fn the_results_do_not_depend_on_the_run_for_a_seed() {
    let lines: Vec<_> = (0..8).map(|i| chat(i, 6)).collect();
    let (folder, input, whole) = files(&lines);
    let torn = folder.path().join("torn.jsonl");
    let run = |output: &Path| {
        glm(&[
            "batch",
            "-i",
            arg(&input),
            "-o",
            arg(output),
            "--seed",
            "11",
        ])
        .ok()
    };
    run(&whole);
    let written = fs::read(&whole).unwrap();
    fs::write(&torn, &written[..written.len() / 2]).unwrap();
    run(&torn);
    let contents = |output: &Path| -> BTreeSet<String> {
        let content = |result: &Value| {
            json!([result["custom_id"], result["response"]["body"]["choices"]]).to_string()
        };
        results(output).iter().map(content).collect()
    };
    assert_eq!(contents(&whole), contents(&torn));
}

#[test]
fn wrong_files_are_refused_in_one_line() {
    let (folder, input, output) = files(&[chat(1, 1)]);
    let run = |input: &Path, output: &Path| {
        glm(&["batch", "--input", arg(input), "--output", arg(output)])
    };
    assert!(
        run(&input, &input)
            .refused()
            .contains("both input and output")
    );
    let missing = folder.path().join("missing.jsonl");
    assert!(run(&missing, &output).refused().contains("cannot open"));
    fs::write(&output, "notes\n").unwrap();
    assert!(
        run(&input, &output)
            .refused()
            .contains("line 1 is not a result")
    );
    assert_eq!(fs::read_to_string(&output).unwrap(), "notes\n");
}

#[test]
fn an_empty_input_needs_no_model() {
    let (_folder, input, output) = files(&[]);
    let args = [
        "batch",
        "--model",
        "/nowhere",
        "-i",
        arg(&input),
        "-o",
        arg(&output),
        "--json",
    ];
    assert_eq!(glm(&args).json()["lines"], 0);
    assert_eq!(fs::read(&output).unwrap(), b"");
}

#[cfg(unix)]
#[test]
fn ctrl_c_keeps_what_is_done_and_meanwhile_nobody_else_writes() {
    // A context so long that the last answer cannot be complete before the signal is there.
    let copy = copy_of("demo");
    edit_json(copy.path(), "config.json", |config| {
        config["max_position_embeddings"] = json!(200_000)
    });
    let (_folder, input, output) = files(&[chat(1, 1), chat(2, 190_000), chat(3, 1)]);
    let args = [
        "batch",
        "--model",
        arg(copy.path()),
        "--max-model-len",
        "200000",
        "--input",
        arg(&input),
        "--output",
        arg(&output),
    ];
    let mut child = spawn(&args);
    wait_for(&mut child, &output, 2);
    let other = glm(&args).refused();
    assert!(other.contains("another run"), "{other}");
    let sent = std::process::Command::new("sh")
        .args(["-c", &format!("kill -INT {}", child.id())])
        .status()
        .unwrap();
    assert!(sent.success());
    let run = Run::from(child.wait_with_output().unwrap());
    assert_eq!(run.code, Some(130), "{}", run.stderr);
    assert!(
        run.stderr
            .contains("2 of 3 lines have a result; the same command goes on"),
        "{}",
        run.stderr
    );
    let results = results(&output);
    assert_eq!(custom_ids(&results), BTreeSet::from(["chat-1", "chat-3"]));
}
