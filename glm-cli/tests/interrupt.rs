//! Ctrl-C and closed pipes.
#![cfg(unix)]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Run, arg, command, copy_of, edit_json, listing};
use serde_json::json;

/// Sends SIGINT, as Ctrl-C does.
fn interrupt(child: &Child) {
    let sent = Command::new("sh")
        .args(["-c", &format!("kill -INT {}", child.id())])
        .status()
        .unwrap();
    assert!(sent.success());
}

#[test]
fn generate_ends_at_once() {
    // A context so long that the answer cannot be complete before the signal is there.
    let copy = copy_of("demo");
    edit_json(copy.path(), "config.json", |config| {
        config["max_position_embeddings"] = json!(200_000)
    });
    let mut child = command(&[
        "generate",
        "--model",
        arg(copy.path()),
        "--raw",
        "--prompt",
        "a",
        "--ignore-eos",
        "--max-model-len",
        "200000",
        "--max-tokens",
        "190000",
        "--temperature",
        "0",
    ])
    .stdout(Stdio::piped())
    .stderr(Stdio::piped())
    .spawn()
    .unwrap();
    let mut first = [0];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut first)
        .unwrap();
    interrupt(&child);
    let run = Run::from(child.wait_with_output().unwrap());
    assert_eq!(run.code, Some(130), "{}", run.stderr);
    assert!(!run.stderr.contains("panicked"), "{}", run.stderr);
}

#[test]
fn quantize_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("model.gguf");
    let mut child = command(&[
        "quantize",
        "--model",
        "random:glm-4-9b",
        "--format",
        "q8_0",
        "--output",
        arg(&output),
    ])
    .stdout(Stdio::piped())
    .stderr(Stdio::piped())
    .spawn()
    .unwrap();
    // It has begun to write when something is in the folder: 9 GB take longer than the signal.
    let deadline = Instant::now() + Duration::from_secs(120);
    while listing(folder.path()).is_empty() {
        assert!(
            Instant::now() < deadline && child.try_wait().unwrap().is_none(),
            "nothing was begun"
        );
        std::thread::yield_now();
    }
    interrupt(&child);
    let run = Run::from(child.wait_with_output().unwrap());
    assert_eq!(run.code, Some(130), "{}", run.stderr);
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("", ""));
    assert_eq!(listing(folder.path()), []);
}

#[test]
fn chat_waiting_for_a_line_ends_at_once() {
    let mut child = command(&["chat", "--max-tokens", "2"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"hello\n").unwrap();
    // The answer's line end: from here on it waits for the next line.
    let stdout = child.stdout.as_mut().unwrap();
    let mut byte = [0];
    while byte != *b"\n" {
        stdout.read_exact(&mut byte).unwrap();
    }
    interrupt(&child);
    assert_eq!(Run::from(child.wait_with_output().unwrap()).code, Some(130));
    drop(stdin);
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    for args in [
        &["man"][..],
        &[
            "generate",
            "--raw",
            "--prompt",
            "a",
            "--max-tokens",
            "500",
            "--ignore-eos",
        ],
    ] {
        let mut child = command(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let run = Run::from(child.wait_with_output().unwrap());
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        assert!(
            !run.stderr.contains("error") && !run.stderr.contains("panicked"),
            "{}",
            run.stderr
        );
    }
}

#[test]
fn a_disk_that_is_full_is_work_that_failed() {
    if fs::metadata("/dev/full").is_err() {
        println!("skipped: this system has no /dev/full");
        return;
    }
    let full = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let run = Run::from(
        command(&["man"])
            .stdout(full)
            .stderr(Stdio::piped())
            .output()
            .unwrap(),
    );
    assert_eq!(run.code, Some(1));
    assert!(
        run.stderr.starts_with("error: cannot write to stdout"),
        "{}",
        run.stderr
    );
}
