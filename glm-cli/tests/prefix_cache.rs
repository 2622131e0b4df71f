//! The prefix cache in a file: a later run begins where an earlier one was, and says the same.

mod common;

use std::fs;
use std::path::Path;

use common::{arg, glm, glm_with_stdin};
use serde_json::Value;
use tempfile::tempdir;

const PROMPT: &str =
    "Name the rivers that you know, from the longest to the shortest, with their lengths.";

fn generate(file: &Path) -> Value {
    let run = glm(&[
        "generate",
        "--prompt",
        PROMPT,
        "--max-tokens",
        "8",
        "--temperature",
        "0",
        "--json",
        "--prefix-cache-file",
        arg(file),
    ]);
    assert!(!run.stderr.contains("cache"), "{}", run.stderr);
    run.json()
}

#[test]
fn the_second_run_begins_with_the_cache_of_the_first() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("cache");
    let (first, second) = (generate(&file), generate(&file));
    assert_eq!(first["usage"]["cached_tokens"], 0);
    assert!(
        second["usage"]["cached_tokens"].as_u64().unwrap() >= 16,
        "{second}"
    );
    assert_eq!(first["token_ids"], second["token_ids"]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_chat_goes_on_where_it_was() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("cache");
    let chat = |lines: &str| {
        let args = [
            "chat",
            "--max-tokens",
            "16",
            "--temperature",
            "0",
            "--prefix-cache-file",
            arg(&file),
        ];
        glm_with_stdin(&args, lines).ok()
    };
    let plain = glm_with_stdin(
        &["chat", "--max-tokens", "16", "--temperature", "0"],
        PROMPT,
    )
    .ok();
    assert_eq!(chat(PROMPT), plain);
    let size = fs::metadata(&file).unwrap().len();
    assert!(size > 1000);
    assert_eq!(chat(PROMPT), plain, "from the cache");
    chat(&format!("{PROMPT}\nAnd the lakes?\n"));
    assert!(fs::metadata(&file).unwrap().len() > size, "two turns");
}

#[test]
fn a_file_that_is_something_else_is_refused_and_kept() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("letter.txt");
    fs::write(&file, "Dear Sir or Madam").unwrap();
    let args = [
        "generate",
        "--prompt",
        "x",
        "--prefix-cache-file",
        arg(&file),
    ];
    let line = glm(&args).refused();
    assert!(line.contains("is not a prefix cache"), "{line}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "Dear Sir or Madam");
    let off = [&args[..], &["--no-prefix-cache"]].concat();
    assert_eq!(glm(&off).code, Some(2));
}

#[test]
fn a_batch_takes_both_kinds_of_room() {
    let folder = tempdir().unwrap();
    let place = |name: &str| arg(&folder.path().join(name)).to_owned();
    let line = |id: u32| {
        format!(
            r#"{{"custom_id":"{id}","method":"POST","url":"/v1/chat/completions","body":{{"messages":[{{"role":"user","content":"{PROMPT}"}}],"max_tokens":4}}}}"#
        )
    };
    fs::write(place("in"), format!("{}\n{}\n", line(1), line(2))).unwrap();
    let (input, output, cache) = (place("in"), place("out"), place("cache"));
    let args = ["batch", "--input", &input, "--output", &output];
    let more = [
        "--prefix-cache-file",
        &cache,
        "--swap-space",
        "64MiB",
        "--kv-cache-tokens",
        "8192",
    ];
    let run = glm(&[&args[..], &more].concat());
    assert!(
        run.stderr.contains("KV cache: 512 blocks"),
        "{}",
        run.stderr
    );
    run.ok();
    assert_eq!(fs::read_to_string(&output).unwrap().lines().count(), 2);
    assert!(fs::metadata(&cache).unwrap().len() > 1000);
    let wrong = glm(&[&args[..], &["--swap-space", "much"]].concat());
    assert!(wrong.stderr.contains("512MiB"), "{}", wrong.stderr);
    assert_eq!(wrong.code, Some(2));
}
