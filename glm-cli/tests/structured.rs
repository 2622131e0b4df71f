//! `generate` with an answer in a given form.

mod common;

use std::fs;

use common::{arg, glm};
use serde_json::{Value, json};

/// The demo, sampled hot: only the option gives the answer its form. There are tokens enough for all blanks that JSON may have.
fn generate(args: &[&str]) -> common::Run {
    let rest = ["--temperature", "2", "--seed", "7", "--max-tokens", "300"];
    glm(&[&["generate", "--raw", "--prompt", "Hello"], args, &rest].concat())
}

#[test]
fn an_answer_has_the_form_that_was_asked_for() {
    let choice = generate(&["--choice", "yes,no", "--json"]).json();
    assert!(matches!(choice["text"].as_str(), Some("yes" | "no")));
    assert_eq!(choice["finish_reason"], "stop");
    let number = generate(&["--regex", "-[0-9]{3}"]).ok();
    assert!((-999..=0).contains(&number.trim().parse::<i32>().unwrap()));
    let folder = tempfile::tempdir().unwrap();
    let schema = folder.path().join("schema.json");
    fs::write(
        &schema,
        r#"{"type": "array", "items": {"type": "boolean"}, "maxItems": 2}"#,
    )
    .unwrap();
    let list = generate(&["--schema", schema.to_str().unwrap()]).ok();
    serde_json::from_str::<Vec<bool>>(&list).unwrap();
    let grammar = folder.path().join("grammar.lark");
    fs::write(&grammar, "start: \"<\" NAME \">\"\nNAME: /[a-c]{3}/").unwrap();
    let tag = generate(&["--grammar", grammar.to_str().unwrap()]).ok();
    assert_eq!(tag.trim().len(), 5);
}

#[test]
fn an_answer_in_a_form_is_printed_without_the_thought_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let schema = folder.path().join("schema.json");
    let text = json!({
        "type": "object",
        "properties": { "name": { "type": "string", "maxLength": 20 }, "age": { "type": "integer", "minimum": 0, "maximum": 199 } },
        "required": ["name", "age"],
        "additionalProperties": false,
    });
    fs::write(&schema, text.to_string()).unwrap();
    let questions = [
        "Answer in JSON with the keys name and age: Tom is 34 years old.",
        "Give me a person as JSON.",
        "What is 3 + 4?",
    ];
    for (question, temperature) in questions
        .iter()
        .flat_map(|question| ["0", "1"].map(|temperature| (question, temperature)))
    {
        let args = [
            "generate",
            "--prompt",
            question,
            "--temperature",
            temperature,
        ];
        let rest = [
            "--seed",
            "3",
            "--max-tokens",
            "600",
            "--schema",
            arg(&schema),
        ];
        let args = [&args[..], &rest].concat();
        let printed = glm(&args).ok();
        assert!(printed.starts_with('{'), "{printed}");
        let person: Value = serde_json::from_str(&printed).unwrap();
        assert_eq!(person.as_object().unwrap().len(), 2, "{printed}");
        assert!(
            person["name"].is_string() && person["age"].is_i64(),
            "{printed}"
        );
        let report = glm(&[&args[..], &["--json"]].concat()).json();
        assert_eq!(printed, format!("{}\n", report["text"].as_str().unwrap()));
        assert_eq!(report["finish_reason"], "stop");
        if question.contains("Tom") && temperature == "0" {
            assert_eq!(person, json!({ "name": "Tom", "age": 34 }));
        }
    }
}

#[test]
fn one_beam_is_greedy_and_several_are_searched() {
    let run = |args: &[&str]| {
        let prompt = [
            "generate",
            "--raw",
            "--prompt",
            "Hello",
            "--max-tokens",
            "6",
        ];
        glm(&[&prompt, args].concat())
    };
    let greedy = run(&["--json", "--temperature", "0"]).json();
    let one = run(&["--json", "--beams", "1"]).json();
    assert_eq!(one["token_ids"], greedy["token_ids"]);
    assert_eq!(one["usage"], greedy["usage"]);
    assert_eq!(one["usage"]["cached_tokens"], 0);
    let text = run(&["--beams", "3", "--length-penalty", "-1"]).ok();
    let json = run(&["--beams", "3", "--length-penalty", "-1", "--json"]).json();
    assert_eq!(text, format!("{}\n", json["text"].as_str().unwrap()));
    assert!(run(&["--beams", "1000"]).refused().contains("1000"));
}

#[test]
fn a_form_that_cannot_be_followed_is_a_wrong_argument() {
    assert!(
        generate(&["--regex", "(a"])
            .refused()
            .contains("regular expression")
    );
    assert!(
        generate(&["--schema", "/no/such"])
            .refused()
            .contains("/no/such")
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("schema.json");
    let refused = |text: &str| {
        fs::write(&path, text).unwrap();
        generate(&["--schema", path.to_str().unwrap()]).refused()
    };
    assert!(refused("{").contains("schema.json"));
    assert!(refused(r#"{"type": "objekt"}"#).contains("objekt"));
    let both = generate(&["--regex", "a", "--choice", "b"]);
    assert_eq!(both.code, Some(2));
}
