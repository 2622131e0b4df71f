//! However an answer is cut into tokens, its chunks together are the answer.

use std::time::Instant;

use glm_runtime::{
    Completion, EngineError, Event, FinishReason, Finished, Part, Timings, Token, TokenLogprob,
    Usage,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::tests::{ENGINE, answer, chat, completion};
use super::*;
use crate::testing::stamp;

fn weather() -> Value {
    let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    json!({"type": "function", "function": {"name": "weather", "parameters": parameters}})
}

/// An answer of these pieces, each of them a token; the end of it is one more.
fn completion_of(pieces: &[String], reason: FinishReason) -> Completion {
    let end = ENGINE.eos_token_ids()[0];
    let ends = (reason == FinishReason::Stop).then_some((end, ""));
    let texts = pieces.iter().map(|piece| (5, piece.as_str())).chain(ends);
    let token = |(index, (id, text)): (usize, (u32, &str))| Token {
        index,
        id,
        text: text.to_owned(),
        logprob: Some(-0.25 * index as f32),
        top_logprobs: vec![TokenLogprob { id, logprob: -0.5 }],
        part: Part::Answer,
        at: Instant::now(),
    };
    let tokens: Vec<_> = texts.enumerate().map(token).collect();
    Completion {
        text: pieces.concat(),
        finished: Finished {
            reason,
            stop_string: None,
            usage: Usage {
                prompt_tokens: 3,
                completion_tokens: tokens.len(),
                ..Usage::default()
            },
            timings: Timings::default(),
        },
        tokens,
    }
}

/// The chunks of answers that come side by side, a token of each in turn.
fn stream(call: &Call, answers: &[Completion]) -> Vec<Value> {
    let mut chunks = Chunks::new(&ENGINE, call.form.clone(), stamp(), answers.len());
    let mut all = chunks.begin();
    let longest = answers.iter().map(|a| a.tokens.len()).max().unwrap_or(0);
    for at in 0..=longest {
        for (index, answer) in answers.iter().enumerate() {
            let event = match answer.tokens.get(at) {
                Some(token) => Event::Token(token.clone()),
                None if at == answer.tokens.len() => Event::Finished(answer.finished.clone()),
                None => continue,
            };
            all.extend(chunks.push(index, event).unwrap());
        }
    }
    all.extend(chunks.finish());
    all
}

/// Appends `value` to the entry of this name, as clients do: texts and lists get longer.
fn append(to: &mut Value, name: &str, value: &Value) {
    let entry = &mut to[name];
    match (&mut *entry, value) {
        (_, Value::Null) => {}
        (Value::String(text), Value::String(more)) => text.push_str(more),
        (Value::Array(list), Value::Array(more)) => list.extend(more.iter().cloned()),
        (Value::Object(_), Value::Object(more)) => {
            for (name, value) in more {
                append(entry, name, value);
            }
        }
        _ => *entry = value.clone(),
    }
}

/// What a client makes of a stream: its choices, as a response has them.
fn joined(chunks: &[Value], num_choices: usize) -> Vec<Value> {
    let mut choices = vec![json!({}); num_choices];
    for chunk in chunks.iter().flat_map(|c| c["choices"].as_array().unwrap()) {
        let choice = &mut choices[chunk["index"].as_u64().unwrap() as usize];
        assert_eq!(
            choice["finish_reason"],
            Value::Null,
            "nothing after the end"
        );
        choice["index"] = chunk["index"].clone();
        for name in ["text", "logprobs", "finish_reason"] {
            append(choice, name, &chunk[name]);
        }
        let mut delta = chunk["delta"].clone();
        if delta.is_null() {
            continue;
        }
        assert_eq!(
            choice.get("message").is_none(),
            delta["role"] == "assistant"
        );
        let calls = delta.as_object_mut().unwrap().remove("tool_calls");
        append(choice, "message", &delta);
        for call in calls.iter().flat_map(|calls| calls.as_array().unwrap()) {
            let index = call["index"].as_u64().unwrap() as usize;
            let all = &mut choice["message"]["tool_calls"];
            if all.is_null() {
                *all = json!([]);
            }
            let all = all.as_array_mut().unwrap();
            assert!(index <= all.len(), "calls come one after the other");
            match all.get_mut(index) {
                Some(begun) => append(
                    &mut begun["function"],
                    "arguments",
                    &call["function"]["arguments"],
                ),
                None => {
                    assert!(call["id"].is_string() && call["function"]["name"].is_string());
                    all.push(call.clone());
                }
            }
        }
    }
    choices
}

/// A choice of a response without what a stream says in another way.
fn plain(mut choice: Value) -> Value {
    if let Some(message) = choice["message"].as_object_mut() {
        message.remove("refusal");
        if message["content"].is_null() {
            message["content"] = json!("");
        }
        for call in message
            .get_mut("tool_calls")
            .into_iter()
            .flat_map(|c| c.as_array_mut().unwrap())
        {
            call.as_object_mut().unwrap().remove("index");
        }
    }
    choice
        .as_object_mut()
        .unwrap()
        .retain(|_, value| !value.is_null());
    if choice["logprobs"]["tokens"] == json!([]) || choice["logprobs"]["content"] == json!([]) {
        choice.as_object_mut().unwrap().remove("logprobs");
    }
    choice
}

fn assert_same(call: &Call, answers: &[Completion]) {
    let chunks = stream(call, answers);
    let body = call.form.response(&ENGINE, &stamp(), answers);
    let (usage, chunks) = chunks.split_last().unwrap();
    assert_eq!(
        (&usage["choices"], &usage["usage"]),
        (&json!([]), &body["usage"])
    );
    for chunk in chunks {
        for name in ["id", "created", "model", "system_fingerprint"] {
            assert_eq!(chunk[name], body[name]);
        }
        assert_eq!(chunk.get("usage"), Some(&Value::Null));
    }
    let whole = body["choices"].as_array().unwrap();
    let joined = joined(chunks, whole.len()).into_iter().map(plain);
    assert_eq!(
        joined.collect::<Vec<_>>(),
        whole.iter().cloned().map(plain).collect::<Vec<_>>()
    );
}

/// Pieces of what models write, well formed and not.
const FRAGMENTS: [&str; 12] = [
    "Hello",
    " 世界",
    "\n",
    " ",
    "<think>",
    "</think>",
    "Let me see.",
    "weather\n{\"city\": \"Ro\\u006de\"}",
    "\nweather\n{\"city\": \"Oslo",
    "weather\n```python\ntool_call(city='Rome')\n```",
    "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Rome</arg_value>\n</tool_call>",
    "<tool_call>weather",
];

fn reason() -> impl Strategy<Value = FinishReason> {
    prop_oneof![Just(FinishReason::Stop), Just(FinishReason::Length)]
}

/// A text in pieces.
fn pieces() -> impl Strategy<Value = Vec<String>> {
    let text = proptest::collection::vec(proptest::sample::select(&FRAGMENTS[..]), 0..6);
    (text, proptest::collection::vec(0..4_usize, 1..40)).prop_map(|(fragments, lengths)| {
        let text: Vec<char> = fragments.concat().chars().collect();
        let mut rest = text.as_slice();
        let mut pieces = Vec::new();
        for length in lengths {
            let (piece, later) = rest.split_at(length.min(rest.len()));
            pieces.push(piece.iter().collect());
            rest = later;
        }
        pieces.push(rest.iter().collect());
        pieces
    })
}

proptest! {
    #[test]
    fn a_chat_streams_what_it_says_at_once(
        answers in proptest::collection::vec((pieces(), reason()), 1..4),
        tools: bool,
        named: bool,
        logprobs: bool,
        include_reasoning: bool,
    ) {
        let mut body = json!({
            "stream": true, "stream_options": {"include_usage": true}, "n": answers.len(), "logprobs": logprobs,
            "include_reasoning": include_reasoning,
        });
        if tools {
            body["tools"] = json!([weather()]);
        }
        if tools && named {
            body["tool_choice"] = json!({"type": "function", "function": {"name": "weather"}});
        }
        let call = chat(body).unwrap();
        let answers: Vec<_> = answers.iter().map(|(pieces, reason)| completion_of(pieces, *reason)).collect();
        assert_same(&call, &answers);
    }

    #[test]
    fn a_completion_streams_what_it_says_at_once(
        answers in proptest::collection::vec((pieces(), reason()), 1..4),
        logprobs: bool,
    ) {
        let prompts = vec!["Once"; answers.len()];
        let mut body = json!({"prompt": prompts, "stream": true, "stream_options": {"include_usage": true}});
        if logprobs {
            body["logprobs"] = json!(1);
        }
        let call = completion(body).unwrap();
        let answers: Vec<_> = answers.iter().map(|(pieces, reason)| completion_of(pieces, *reason)).collect();
        assert_same(&call, &answers);
    }
}

#[test]
fn calls_are_told_apart_from_text_while_they_come() {
    let call = chat(json!({"stream": true, "tools": [weather()]})).unwrap();
    let text = match ENGINE.chat_format().unwrap().generation().call_format() {
        Some(glm_core::chat::CallFormat::Json) => "weather\n{\"city\": \"Rome\"}",
        _ => FRAGMENTS[10],
    };
    let pieces: Vec<String> = text.chars().map(String::from).collect();
    let chunks = stream(&call, &[completion_of(&pieces, FinishReason::Stop)]);
    let choices = joined(&chunks, 1);
    let function = &choices[0]["message"]["tool_calls"][0]["function"];
    let arguments: Value = serde_json::from_str(function["arguments"].as_str().unwrap()).unwrap();
    assert_eq!(
        (&function["name"], arguments),
        (&json!("weather"), json!({"city": "Rome"}))
    );
    assert_eq!(choices[0]["finish_reason"], "tool_calls");
    let arguments = |chunk: &&Value| !chunk["choices"][0]["delta"]["tool_calls"].is_null();
    assert!(
        chunks.iter().filter(arguments).count() > 3,
        "arguments come in parts"
    );
    assert!(chunks[0].get("usage").is_none());
}

#[test]
fn a_model_streams_what_it_says_at_once() {
    for fields in [
        json!({"seed": 5, "temperature": 1.0}),
        json!({"temperature": 0}),
    ] {
        let mut body = json!({"max_tokens": 12, "n": 2, "logprobs": true});
        body.as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        let whole = answer(chat(body.clone()).unwrap());
        body["stream"] = json!(true);
        let Call {
            requests, n, form, ..
        } = chat(body).unwrap();
        let mut chunks = Chunks::new(&ENGINE, form, stamp(), n);
        let mut all = chunks.begin();
        for (index, events) in ENGINE
            .submit_n(requests[0].clone(), n)
            .unwrap()
            .into_iter()
            .enumerate()
        {
            for event in events {
                all.extend(chunks.push(index, event).unwrap());
            }
        }
        let joined: Vec<_> = joined(&all, n).into_iter().map(plain).collect();
        let whole = whole["choices"]
            .as_array()
            .unwrap()
            .iter()
            .cloned()
            .map(plain);
        assert_eq!(joined, whole.collect::<Vec<_>>());
    }
}

#[test]
fn a_failure_is_handed_on_and_usage_comes_where_it_is_asked_for() {
    let call = completion(json!({"stream": true})).unwrap();
    let mut chunks = Chunks::new(&ENGINE, call.form, stamp(), 1);
    assert!(chunks.finish().is_empty());
    let failed = chunks.push(0, Event::Failed(EngineError::Stopped));
    assert!(matches!(failed, Err(EngineError::Stopped)));

    let error = chat(json!({"stream_options": {"include_usage": true}})).unwrap_err();
    assert_eq!(
        (error.status, error.param.as_deref()),
        (400, Some("stream_options"))
    );
    assert!(chat(json!({"stream": true, "stream_options": {"include_usage": "yes"}})).is_err());
}
