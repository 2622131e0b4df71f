//! The guarantee, from outside: every line has exactly one result, whatever happened before.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::testing::ENGINE;

/// An input and an output in a folder of their own.
struct Files {
    _folder: TempDir,
    input: PathBuf,
    output: PathBuf,
}

impl Files {
    fn new(input: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files = Self {
            input: folder.path().join("in.jsonl"),
            output: folder.path().join("out.jsonl"),
            _folder: folder,
        };
        fs::write(&files.input, input).unwrap();
        files
    }

    fn open(&self) -> Result<Batch, BatchError> {
        Batch::open(&self.input, &self.output)
    }

    fn start(&self) -> Run {
        let options = BatchOptions {
            seed: Some(7),
            window: WindowOptions {
                in_flight: Some(3),
                look_ahead: 4,
                ..WindowOptions::default()
            },
        };
        self.open().unwrap().start(&ENGINE, options)
    }

    fn run(&self) -> Progress {
        self.start().finish(|_| {}).unwrap()
    }

    fn written(&self) -> Vec<u8> {
        fs::read(&self.output).unwrap()
    }

    /// The results by the line of the input that they belong to.
    fn results(&self) -> BTreeMap<u64, Value> {
        let written = String::from_utf8(self.written()).unwrap();
        assert!(written.is_empty() || written.ends_with('\n'));
        let mut results = BTreeMap::new();
        for line in written.lines() {
            let result: Value = serde_json::from_str(line).unwrap();
            let id = result["id"].as_str().unwrap();
            let line = id.strip_prefix("batch_req_").unwrap().parse().unwrap();
            assert_eq!(
                results.insert(line, result),
                None,
                "two results of line {line}"
            );
        }
        results
    }
}

fn line(url: &str, custom_id: &str, body: Value) -> String {
    json!({"custom_id": custom_id, "method": "POST", "url": url, "body": body}).to_string()
}

fn completion(custom_id: &str, body: Value) -> String {
    line("/v1/completions", custom_id, body)
}

fn embedding(custom_id: &str, body: Value) -> String {
    line("/v1/embeddings", custom_id, body) + "\n"
}

/// Lines that ask for so many embeddings.
fn embeddings(count: usize) -> String {
    let one = |n: usize| embedding(&n.to_string(), json!({"input": format!("text {n}")}));
    (0..count).map(one).collect()
}

/// Good lines and bad ones, with every kind of line end.
fn mixed() -> Vec<u8> {
    let good = |id| completion(id, json!({"prompt": "The sea", "max_tokens": 2}));
    let chat = json!({
        "custom_id": "chat", "method": "POST", "url": "/v1/chat/completions",
        "body": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3, "temperature": 1.0, "n": 2},
    });
    let lines = [
        good("a") + "\r\n",
        "\n".to_owned(),
        format!("{chat}\n"),
        "{not json\n".to_owned(),
        good("b") + "\n",
        good("a") + "\n",
        "[1]\n".to_owned(),
        r#"{"method": "POST"}"#.to_owned() + "\n",
        r#"{"custom_id": "get", "method": "GET", "url": "/v1/completions", "body": {}}"#.to_owned()
            + "\n",
        r#"{"custom_id": "emb", "method": "POST", "url": "/v1/moderations", "body": {}}"#
            .to_owned()
            + "\n",
        completion("hot", json!({"prompt": "a", "temperature": 1000})) + "\n",
        completion("long", json!({"prompt": vec![1; 100_000]})) + "\n",
        completion("typed", json!({"prompt": "a", "max_tokens": "many"})) + "\n",
        completion("stream", json!({"prompt": "a", "stream": true})) + "\n",
        r#"{"custom_id": "empty", "method": "POST", "url": "/v1/completions"}"#.to_owned() + "\n",
        good("c"),
    ];
    lines.concat().into_bytes()
}

/// Line, `custom_id` with choices, and error of every result.
type Contents = Vec<(u64, Value, Value)>;

/// Everything that does not depend on when it was run.
fn content(results: BTreeMap<u64, Value>) -> Contents {
    let of = |(line, result): (u64, Value)| {
        let choices = result["response"]["body"]["choices"].clone();
        (
            line,
            json!([result["custom_id"], choices]),
            result["error"].clone(),
        )
    };
    results.into_iter().map(of).collect()
}

#[test]
fn every_line_has_one_result_in_openais_shape() {
    let files = Files::new(&mixed());
    let end = files.run();
    let results = files.results();
    let lines: Vec<_> = results.keys().copied().collect();
    assert_eq!(lines, [1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
    assert_eq!(
        (end.lines, end.done, end.errors, end.earlier),
        (15, 15, 11, 0)
    );
    assert!(!end.stopped && end.completion_tokens > 0);

    let good = &results[&1];
    assert_eq!(
        (&good["custom_id"], &good["error"]),
        (&json!("a"), &Value::Null)
    );
    let response = &good["response"];
    assert_eq!(response["status_code"], 200);
    assert!(response["request_id"].as_str().unwrap().starts_with("req_"));
    assert_eq!(response["body"]["object"], "text_completion");
    assert_eq!(
        results[&3]["response"]["body"]["choices"]
            .as_array()
            .unwrap()
            .len(),
        2
    );

    let error = |line: u64| {
        let error = &results[&line]["error"];
        assert_eq!(error["line"], line);
        assert!(
            error["message"]
                .as_str()
                .unwrap()
                .starts_with(&format!("line {line}: ")),
            "{error}"
        );
        (error["code"].as_str().unwrap(), error["param"].as_str())
    };
    let expected = [
        (4, ("invalid_json", None)),
        (6, ("duplicate_custom_id", Some("custom_id"))),
        (7, ("invalid_json", None)),
        (8, ("missing_required_parameter", Some("custom_id"))),
        (9, ("invalid_value", Some("method"))),
        (10, ("unknown_url", Some("url"))),
        (11, ("invalid_value", Some("temperature"))),
        (12, ("context_length_exceeded", None)),
        (13, ("invalid_value", Some("max_tokens"))),
        (14, ("unsupported_parameter", Some("stream"))),
        (15, ("missing_required_parameter", Some("body"))),
    ];
    for (line, expected) in expected {
        assert_eq!(error(line), expected, "line {line}");
    }
    assert_eq!(results[&10]["response"], Value::Null);
    assert_eq!(results[&11]["response"]["status_code"], 400);
    assert_eq!(
        results[&11]["response"]["body"]["error"]["param"],
        "temperature"
    );
    assert!(
        results[&10]["error"]["message"]
            .as_str()
            .unwrap()
            .contains("not supported yet")
    );
}

#[test]
fn embeddings_stand_beside_answers() {
    let answer = completion("answer", json!({"prompt": "The sea", "max_tokens": 2})) + "\n";
    let bad = embedding("bad", json!({"input": ""})) + &embedding("none", json!({}));
    let last = embedding("6", json!({"input": "text 6"}));
    let input = embeddings(6) + &answer + &bad + &last;
    let files = Files::new(input.as_bytes());
    let end = files.run();
    assert_eq!((end.lines, end.done, end.errors), (10, 10, 2));
    assert!(end.prompt_tokens > 7);
    let results = files.results();
    for (line, n) in (1..=6).chain([10]).zip(0..) {
        let result = &results[&line];
        let body = json!({"input": format!("text {n}")});
        let direct = crate::openai::embeddings(&ENGINE, body.as_object().unwrap()).unwrap();
        assert_eq!(
            (&result["custom_id"], &result["response"]["body"]),
            (&json!(n.to_string()), &direct)
        );
    }
    for (line, code) in [(8, "invalid_value"), (9, "missing_required_parameter")] {
        let error = &results[&line]["error"];
        assert_eq!(
            (&error["code"], &error["param"]),
            (&json!(code), &json!("input"))
        );
    }
}

#[test]
fn a_batch_that_is_done_is_left_alone() {
    let files = Files::new(&mixed());
    files.run();
    let written = files.written();
    let end = files.run();
    assert_eq!(
        (end.done, end.earlier, end.errors, end.completion_tokens),
        (15, 15, 11, 0)
    );
    assert_eq!(files.written(), written);
}

static WHOLE: LazyLock<(Vec<u8>, Contents)> = LazyLock::new(|| {
    let files = Files::new(&mixed());
    files.run();
    (files.written(), content(files.results()))
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn killed_at_any_byte_every_line_has_its_result_once(cuts in prop::collection::vec(any::<prop::sample::Index>(), 1..4)) {
        let (written, results) = &*WHOLE;
        let files = Files::new(&mixed());
        fs::write(&files.output, written).unwrap();
        for cut in cuts {
            let written = files.written();
            fs::write(&files.output, &written[..cut.index(written.len() + 1)]).unwrap();
            let end = files.run();
            prop_assert_eq!((end.lines, end.done, end.errors), (15, 15, 11));
            prop_assert_eq!(&content(files.results()), results);
        }
    }
}

#[test]
fn a_batch_that_is_stopped_goes_on_later() {
    let files = Files::new(&mixed());
    let run = files.start();
    run.stopper().stop();
    let end = run.finish(|_| {}).unwrap();
    assert!(end.stopped && end.done < end.lines, "{end:?}");
    let end = files.run();
    assert!(!end.stopped && end.done == end.lines, "{end:?}");
    assert_eq!(content(files.results()), WHOLE.1);
}

#[test]
fn embeddings_are_computed_however_few_may_be_at_a_time() {
    for (in_flight, look_ahead_tokens) in [(Some(0), 1 << 20), (None, 0)] {
        let window = WindowOptions {
            in_flight,
            look_ahead_tokens,
            ..WindowOptions::default()
        };
        let options = BatchOptions { seed: None, window };
        let files = Files::new(embeddings(5).as_bytes());
        let run = files.open().unwrap().start(&ENGINE, options);
        let end = run.finish(|_| {}).unwrap();
        assert_eq!((end.done, end.errors), (5, 0), "{window:?}");
    }
}

#[test]
fn a_batch_of_embeddings_is_stopped_too() {
    let files = Files::new(embeddings(20).as_bytes());
    let run = files.start();
    let stopper = run.stopper();
    let end = run.finish(|_| stopper.stop()).unwrap();
    assert!(end.stopped && end.done < end.lines, "{end:?}");
    let end = files.run();
    assert!(!end.stopped && end.done == end.lines, "{end:?}");
}

#[test]
fn lines_added_to_the_input_are_done_as_well() {
    let files = Files::new(
        format!(
            "{}\n",
            completion("a", json!({"prompt": "x", "max_tokens": 1}))
        )
        .as_bytes(),
    );
    files.run();
    let more = completion("b", json!({"prompt": "y", "max_tokens": 1}));
    let input = [fs::read(&files.input).unwrap(), more.into_bytes()].concat();
    fs::write(&files.input, input).unwrap();
    let end = files.run();
    assert_eq!((end.lines, end.done, end.earlier), (2, 2, 1));
}

#[test]
fn where_there_is_one_model_any_name_means_it() {
    let body = json!({"prompt": "x", "max_tokens": 1, "model": "written-for-another-service"});
    let files = Files::new(completion("a", body).as_bytes());
    let end = files.run();
    assert_eq!((end.done, end.errors), (1, 0));
}

#[test]
fn an_empty_input_has_no_results() {
    for input in ["", "\n", " \r\n\n"] {
        let files = Files::new(input.as_bytes());
        let end = files.run();
        assert_eq!((end.lines, end.done, end.stopped), (0, 0, false));
        assert_eq!(files.written(), b"");
    }
}

#[test]
fn a_line_without_end_is_not_held_in_memory() {
    let mut input = vec![b'x'; MAX_LINE_BYTES + 1];
    input.extend(b"\n{}");
    let files = Files::new(&input);
    files.run();
    let results = files.results();
    assert_eq!(results[&1]["error"]["code"], "line_too_long");
    assert_eq!(results[&2]["error"]["param"], "custom_id");
}

/// What `open` says about an output, which must stay as it is.
fn refused(files: &Files, output: &[u8]) -> String {
    fs::write(&files.output, output).unwrap();
    let error = files.open().map(|_| ()).expect_err("must be refused");
    assert_eq!(files.written(), output);
    error.to_string()
}

#[test]
fn an_output_of_something_else_is_refused_and_not_touched() {
    let good = completion("a", json!({"prompt": "x", "max_tokens": 1}));
    let files = Files::new(good.as_bytes());
    files.run();
    let written = files.written();
    let text = String::from_utf8(written.clone()).unwrap();

    assert!(refused(&files, b"my notes\n").contains("line 1 is not a result"));
    assert!(refused(&files, b"my notes").contains("line 1 is not a result"));
    assert!(refused(&files, format!("{text}{{}}\n").as_bytes()).contains("line 2 is not a result"));
    assert!(refused(&files, format!("{text}{text}").as_bytes()).contains("two results of line 1"));
    let other = text.replace(r#""custom_id":"a""#, r#""custom_id":"b""#);
    assert!(refused(&files, other.as_bytes()).contains("another input"));
    let beyond = text.replace("batch_req_1", "batch_req_2");
    assert!(refused(&files, beyond.as_bytes()).contains("its result of line 2"));
    // What is torn is not looked at, but what is before it is.
    let torn = format!("{other}{{\"id\":\"batch_re");
    assert!(refused(&files, torn.as_bytes()).contains("another input"));

    fs::write(&files.input, format!("\n{good}")).unwrap();
    assert!(refused(&files, &written).contains("its result of line 1"));
}

#[test]
fn files_that_cannot_be_a_batch_are_refused() {
    let files = Files::new(b"");
    let folder = files.input.parent().unwrap();
    let open = |input: &Path, output: &Path| Batch::open(input, output).map(|_| ()).unwrap_err();
    assert!(matches!(
        open(&files.input, &files.input),
        BatchError::SameFile(_)
    ));
    assert!(matches!(
        open(folder, &files.output),
        BatchError::NotAFile(_)
    ));
    assert!(matches!(
        open(&files.input, folder),
        BatchError::NotAFile(_)
    ));
    let missing = folder.join("missing.jsonl");
    assert!(matches!(
        open(&missing, &files.output),
        BatchError::Io { action: "open", .. }
    ));
    assert!(
        !files.output.exists(),
        "nothing is created for an input that is not there"
    );

    let first = files.open().unwrap();
    assert!(matches!(files.open(), Err(BatchError::Locked(_))));
    drop(first);
    assert!(files.open().is_ok());
}

#[cfg(unix)]
#[test]
fn another_name_of_the_input_is_the_input() {
    let files = Files::new(b"");
    fs::hard_link(&files.input, &files.output).unwrap();
    assert!(matches!(files.open(), Err(BatchError::SameFile(_))));
}
