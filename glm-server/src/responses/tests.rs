//! Bodies of responses in, responses and their events out.

use glm_runtime::{Completion, EngineError, Event, FinishReason};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::openai::fields::check_fates;
use crate::openai::{ApiError, Call, Chunks, Endpoint};
use crate::testing::{self, ENGINE, answer_of, check_refusals, pieces, prompt, stamp};

fn body(fields: Value) -> Map<String, Value> {
    testing::with(json!({"input": "Hi"}), fields)
}

fn read(fields: Value) -> Result<Call, ApiError> {
    Call::read(&ENGINE, Endpoint::Responses, &body(fields))
}

fn weather() -> Value {
    let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    json!([{"type": "function", "name": "weather", "description": "The weather", "parameters": parameters, "strict": null}])
}

fn events(call: &Call, answer: &Completion) -> Vec<Value> {
    let events = testing::events(call, answer);
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], number);
    }
    events
}

/// The output that a client puts together of a stream's deltas; it must see events in their order.
fn joined(events: &[Value]) -> Vec<Value> {
    let kinds: Vec<_> = events.iter().map(|e| e["type"].as_str().unwrap()).collect();
    assert_eq!(kinds[..2], ["response.created", "response.in_progress"]);
    let mut output: Vec<Value> = Vec::new();
    let mut open = false;
    for (event, kind) in events.iter().zip(kinds).skip(2) {
        if let Some(index) = event["output_index"].as_u64() {
            assert_eq!(index as usize + 1, output.len() + usize::from(!open));
        }
        if let (Some(id), Some(item)) = (event.get("item_id"), output.last()) {
            assert_eq!(*id, item["id"]);
        }
        let more = |text: &mut Value| {
            *text = (text.as_str().unwrap().to_owned() + event["delta"].as_str().unwrap()).into();
        };
        match kind {
            "response.output_item.added" => {
                assert!(!std::mem::replace(&mut open, true));
                output.push(event["item"].clone());
            }
            "response.content_part.added" => {
                output.last_mut().unwrap()["content"] = json!([event["part"]]);
            }
            "response.output_text.delta" | "response.reasoning_text.delta" => {
                more(&mut output.last_mut().unwrap()["content"][0]["text"]);
            }
            "response.function_call_arguments.delta" => {
                more(&mut output.last_mut().unwrap()["arguments"]);
            }
            "response.output_text.done" | "response.reasoning_text.done" => {
                assert_eq!(event["text"], output.last().unwrap()["content"][0]["text"]);
            }
            "response.function_call_arguments.done" => {
                assert_eq!(event["arguments"], output.last().unwrap()["arguments"]);
            }
            "response.content_part.done" => {
                assert_eq!(event["part"], output.last().unwrap()["content"][0]);
            }
            "response.output_item.done" => {
                assert!(std::mem::replace(&mut open, false));
                let item = output.last_mut().unwrap();
                item["status"] = event["item"]["status"].clone();
                assert_eq!(event["item"], *item);
            }
            "response.completed" | "response.incomplete" => {
                assert_eq!(event, events.last().unwrap());
                assert!(!open);
            }
            other => panic!("{other}"),
        }
    }
    output
}

#[test]
fn a_conversation_reaches_the_model() {
    let call = read(json!({
        "instructions": "Be brief.",
        "tools": weather(),
        "input": [
            {"role": "user", "content": "Weather in Rome?"},
            {"type": "reasoning", "id": "rs", "summary": [], "content": [{"type": "reasoning_text", "text": "I ask."}]},
            {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [{"type": "output_text", "text": "I look.", "annotations": []}]},
            {"type": "function_call", "id": "fc", "call_id": "c1", "name": "weather", "arguments": "{\"city\": \"Rome\"}"},
            {"type": "function_call_output", "call_id": "c1", "output": "Sunny"},
            {"role": "user", "content": [{"type": "input_text", "text": "And?"}]},
        ],
    }));
    let text = prompt(&call.unwrap());
    for part in [
        "Be brief.",
        "The weather",
        "Weather in Rome?",
        "I look.",
        "Rome\"",
        "Sunny",
        "And?",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_response_is_gone_on_from() {
    let call = read(json!({"instructions": "Once."})).unwrap();
    let answer = answer_of(&["Hello".to_owned()], FinishReason::Stop);
    let response = call.form.response(&ENGINE, &stamp(), &[answer]);
    let form = call.form.response_form().unwrap();
    let stored = Stored {
        response,
        items: form.items().to_vec(),
    };
    let next = body(json!({"input": "And?", "previous_response_id": "resp_7"}));
    let next = read_after(&ENGINE, &next, stored.conversation()).unwrap();
    let text = prompt(&next);
    let at = |part: &str| text.find(part).unwrap_or_else(|| panic!("{part}: {text}"));
    assert!(at("Hi") < at("Hello") && at("Hello") < at("And?"));
    // Instructions are those of one response.
    assert!(!text.contains("Once."));
    assert!(next.form.response_form().unwrap().is_stored());
    let alone = read(json!({"previous_response_id": "resp_7"})).unwrap_err();
    assert_eq!(alone.param.as_deref(), Some("previous_response_id"));
}

#[test]
fn options_reach_the_engine_and_are_said_again() {
    let call = read(json!({
        "max_output_tokens": 7, "temperature": 0.5, "top_p": 0.75, "stream": true, "store": false, "metadata": {"a": "b"},
        "tools": weather(), "tool_choice": {"type": "function", "name": "weather"}, "reasoning": {"effort": "none"},
    }));
    let call = call.unwrap();
    let options = &call.requests[0].options;
    assert_eq!(
        (options.max_tokens, call.stream, options.grammar.is_some()),
        (Some(7), true, true)
    );
    assert!(!call.form.response_form().unwrap().is_stored());
    let answer = answer_of(&[], FinishReason::Stop);
    let response = call.form.response(&ENGINE, &stamp(), &[answer]);
    for (field, value) in [
        ("id", json!("resp_7")),
        ("object", json!("response")),
        ("created_at", json!(1)),
        ("max_output_tokens", json!(7)),
        ("temperature", json!(0.5)),
        ("top_p", json!(0.75)),
        ("store", json!(false)),
        ("metadata", json!({"a": "b"})),
        (
            "tool_choice",
            json!({"type": "function", "name": "weather"}),
        ),
        ("reasoning", json!({"effort": "none", "summary": null})),
        ("parallel_tool_calls", json!(true)),
        ("output", json!([])),
        ("error", Value::Null),
    ] {
        assert_eq!(response[field], value, "{field}");
    }
    let schema =
        json!({"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}});
    let formed = read(json!({"text": schema})).unwrap();
    assert!(formed.requests[0].options.grammar.is_some());
    let named = json!({"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "weather"}]});
    assert!(read(json!({"tools": weather(), "tool_choice": named})).is_ok());
}

#[test]
fn every_field_does_what_its_table_says() {
    let valid = Value::Object(body(json!({})));
    check_fates(&[FIELDS], &valid, |body| {
        Call::read(&ENGINE, Endpoint::Responses, body).map(drop)
    });
}

#[test]
fn what_cannot_be_read_is_refused_by_name() {
    let table = r#"
        input missing_required_parameter {"input": null}
        input invalid_value {"input": []}
        input unsupported_parameter {"input": [{"type": "item_reference", "id": "m"}]}
        input unsupported_parameter {"input": [{"type": "computer_call"}]}
        input unsupported_parameter {"input": [{"role": "user", "content": [{"type": "input_image"}]}]}
        input invalid_value {"input": [{"role": "tool", "content": ""}]}
        tools unsupported_parameter {"tools": [{"type": "web_search"}]}
        tools invalid_value {"tools": [{"type": "function"}]}
        tool_choice invalid_value {"tool_choice": "required"}
        text invalid_value {"text": {"format": {"type": "json_schema"}}}
        text invalid_value {"text": {"format": "json"}}
        text unsupported_parameter {"text": {"verbosity": "low"}}
        include unsupported_parameter {"include": ["message.output_text.logprobs"]}
        truncation unsupported_parameter {"truncation": "auto"}
        conversation unsupported_parameter {"conversation": "c"}
    "#;
    check_refusals(table, read);
    let harmless = json!({"truncation": "disabled", "include": ["reasoning.encrypted_content"]});
    assert!(read(harmless).is_ok());
}

#[test]
fn a_response_says_how_it_ended() {
    let call = read(json!({"tools": weather()})).unwrap();
    let response = |text: &str, reason| {
        let answer = answer_of(&[text.to_owned()], reason);
        call.form.response(&ENGINE, &stamp(), &[answer])
    };
    let whole = response("<think>so</think>Hello", FinishReason::Stop);
    assert_eq!(
        (&whole["status"], &whole["incomplete_details"]),
        (&json!("completed"), &Value::Null)
    );
    assert_eq!(
        whole["output"],
        json!([
            {"id": "rs_7-0", "type": "reasoning", "status": "completed", "summary": [], "content": [{"type": "reasoning_text", "text": "so"}]},
            {"id": "msg_7-1", "type": "message", "status": "completed", "role": "assistant",
             "content": [{"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}]},
        ])
    );
    assert_eq!(
        whole["usage"],
        json!({
            "input_tokens": 30, "input_tokens_details": {"cached_tokens": 16, "cache_write_tokens": 0},
            "output_tokens": 1, "output_tokens_details": {"reasoning_tokens": 1}, "total_tokens": 31,
        })
    );
    let cut = response("weather\n{\"city\": \"Ro", FinishReason::Length);
    assert_eq!(
        (&cut["status"], &cut["incomplete_details"]["reason"]),
        (&json!("incomplete"), &json!("max_output_tokens"))
    );
    assert_eq!(
        cut["output"],
        json!([{
            "id": "fc_7-0", "type": "function_call", "status": "incomplete", "call_id": "call_7-0", "name": "weather",
            "arguments": "{\"city\": \"Ro",
        }])
    );
}

#[test]
fn a_failure_is_the_last_event() {
    let call = read(json!({})).unwrap();
    let mut chunks = Chunks::new(&ENGINE, call.form, stamp(), 1);
    assert_eq!(chunks.begin().len(), 2);
    let error = chunks
        .push(0, Event::Failed(EngineError::Stopped))
        .unwrap_err();
    let failed = chunks.fail(&error.into()).remove(0);
    assert_eq!(
        (&failed["type"], &failed["sequence_number"]),
        (&json!("response.failed"), &json!(2))
    );
    assert_eq!(failed["response"]["error"]["code"], "server_error");
    assert_eq!(failed["response"]["status"], "failed");
}

proptest! {
    #[test]
    fn however_an_answer_is_cut_the_stream_is_the_response(
        text in prop_oneof![
            Just("<think>so 一</think>\n\nHello"), Just("weather\n{\"city\": \"Rome\", \"a\": [1, {}]}"), Just("weather\n{}"),
            Just("weather\n{\"city\": \"Ro"), Just("<think>still thinki"), Just("\nI look.<|assistant|>weather\n{\"city\": \"R\u{1F600}\"}"), Just(""),
        ],
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        length in any::<bool>(),
    ) {
        let pieces = pieces(text, &cuts);
        let reason = if length { FinishReason::Length } else { FinishReason::Stop };
        let call = read(json!({"tools": weather()})).unwrap();
        let answer = answer_of(&pieces, reason);
        let whole = call.form.response(&ENGINE, &stamp(), std::slice::from_ref(&answer));
        let events = events(&call, &answer);
        prop_assert_eq!(&events.last().unwrap()["response"], &whole);
        prop_assert_eq!(&Value::from(joined(&events)), &whole["output"]);
        let uncut = call.form.response(&ENGINE, &stamp(), &[answer_of(&[text.to_owned()], reason)]);
        prop_assert_eq!(&whole["output"], &uncut["output"]);
    }
}
