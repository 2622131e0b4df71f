//! What the tests of the dialects share: an engine, and answers to be said in each form.

use std::sync::LazyLock;
use std::time::Instant;

use glm_runtime::{
    Completion, Engine, EngineHandle, Event, FinishReason, Finished, Part, Timings, Token, Usage,
};
use proptest::sample::Index;
use serde_json::{Map, Value};

use crate::openai::{ApiError, Call, Chunks, Stamp};

pub(crate) static ENGINE: LazyLock<EngineHandle> =
    LazyLock::new(|| Engine::builder("demo").build().unwrap());

pub(crate) fn stamp() -> Stamp {
    Stamp {
        id: "7".to_owned(),
        created: 1,
    }
}

/// `body` with more fields, or others.
pub(crate) fn with(body: Value, fields: Value) -> Map<String, Value> {
    let object = |value| match value {
        Value::Object(fields) => fields,
        other => panic!("{other}"),
    };
    let mut body = object(body);
    body.extend(object(fields));
    body
}

pub(crate) fn prompt(call: &Call) -> String {
    let tokenizer = ENGINE.tokenizer().unwrap();
    tokenizer.decode(&call.requests[0].prompt, false)
}

/// An answer of these pieces, each of them a token.
pub(crate) fn answer_of(pieces: &[String], reason: FinishReason) -> Completion {
    let token = |(index, text): (usize, &String)| Token {
        index,
        id: 5,
        text: text.clone(),
        logprob: None,
        top_logprobs: Vec::new(),
        part: Part::Answer,
        at: Instant::now(),
    };
    Completion {
        text: pieces.concat(),
        tokens: pieces.iter().enumerate().map(token).collect(),
        finished: Finished {
            reason,
            stop_string: None,
            usage: Usage {
                prompt_tokens: 30,
                completion_tokens: pieces.len(),
                cached_tokens: 16,
                ..Usage::default()
            },
            timings: Timings::default(),
        },
    }
}

/// `text` cut at these places.
pub(crate) fn pieces(text: &str, cuts: &[Index]) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let mut places: Vec<usize> = cuts
        .iter()
        .map(|cut| cut.index(chars.len() + 1))
        .chain([0, chars.len()])
        .collect();
    places.sort_unstable();
    let piece = |ends: &[usize]| chars[ends[0]..ends[1]].iter().collect();
    places.windows(2).map(piece).collect()
}

/// The events of a stream that says `answer`.
pub(crate) fn events(call: &Call, answer: &Completion) -> Vec<Value> {
    let mut chunks = Chunks::new(&ENGINE, call.form.clone(), stamp(), 1);
    let mut events = chunks.begin();
    let tokens = answer.tokens.iter().cloned().map(Event::Token);
    for event in tokens.chain([Event::Finished(answer.finished.clone())]) {
        events.extend(chunks.push(0, event).unwrap());
    }
    events.extend(chunks.finish());
    events
}

/// Reads bodies that must be refused. A line of `table` has the field to blame, the code, and what is in the body.
pub(crate) fn check_refusals(table: &str, read: impl Fn(Value) -> Result<Call, ApiError>) {
    for line in table.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let mut columns = line.splitn(3, ' ');
        let mut column = || columns.next().unwrap();
        let (param, code) = (column(), column());
        let error = read(serde_json::from_str(column()).unwrap()).expect_err(line);
        let found = (error.status, error.param.as_deref(), error.code);
        assert_eq!(found, (400, Some(param), Some(code)), "{line}");
    }
}
