//! Bodies of messages in, messages and their events out.

use glm_runtime::FinishReason;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::openai::fields::check_fates;
use crate::openai::{ApiError, Call, Endpoint};
use crate::testing::{self, ENGINE, answer_of, check_refusals, events, pieces, stamp};

fn body(fields: Value) -> Map<String, Value> {
    let body = json!({"max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]});
    testing::with(body, fields)
}

fn read(fields: Value) -> Result<Call, ApiError> {
    Call::read(&ENGINE, Endpoint::Messages, &body(fields))
}

fn prompt(fields: Value) -> String {
    testing::prompt(&read(fields).unwrap())
}

fn weather() -> Value {
    let schema =
        json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
    json!([{"name": "weather", "description": "The weather", "input_schema": schema}])
}

/// What Anthropic's client makes of a stream; it must see events in their order.
fn joined(events: &[Value]) -> Value {
    let mut message = Value::Null;
    let mut open: Option<usize> = None;
    let mut inputs: Vec<String> = Vec::new();
    let mut stopped = false;
    for event in events {
        assert!(!stopped, "nothing after the end");
        let index = event["index"].as_u64().map(|index| index as usize);
        match event["type"].as_str().unwrap() {
            "message_start" => message = event["message"].clone(),
            "ping" => {}
            "content_block_start" => {
                let content = message["content"].as_array_mut().unwrap();
                assert_eq!((open, index), (None, Some(content.len())));
                content.push(event["content_block"].clone());
                inputs.push(String::new());
                open = index;
            }
            "content_block_delta" => {
                assert_eq!(open, index);
                let block = &mut message["content"][index.unwrap()];
                let delta = &event["delta"];
                let (kind, field) = match delta["type"].as_str().unwrap() {
                    "text_delta" => ("text", "text"),
                    "thinking_delta" => ("thinking", "thinking"),
                    "signature_delta" => ("thinking", "signature"),
                    "input_json_delta" => {
                        let json = delta["partial_json"].as_str().unwrap();
                        inputs[index.unwrap()].push_str(json);
                        assert_eq!(block["type"], "tool_use");
                        continue;
                    }
                    other => panic!("{other}"),
                };
                assert_eq!(block["type"], kind);
                let text = block[field].as_str().unwrap().to_owned();
                block[field] = (text + delta[field].as_str().unwrap()).into();
            }
            "content_block_stop" => {
                assert_eq!(open.take(), index);
                let block = &mut message["content"][index.unwrap()];
                if block["type"] == "tool_use" {
                    block["input"] = partial_json::complete(&inputs[index.unwrap()]);
                }
            }
            "message_delta" => {
                assert_eq!(open, None);
                message["stop_reason"] = event["delta"]["stop_reason"].clone();
                message["stop_sequence"] = event["delta"]["stop_sequence"].clone();
                message["usage"] = event["usage"].clone();
            }
            "message_stop" => stopped = true,
            other => panic!("{other}"),
        }
    }
    assert!(stopped);
    message
}

#[test]
fn a_conversation_reaches_the_model() {
    let text = prompt(json!({
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        "tools": weather(),
        "messages": [
            {"role": "user", "content": "Weather in Rome?"},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "I ask.", "signature": "s"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Rome"}},
            ]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "no station"}], "is_error": true},
                {"type": "text", "text": "And?"},
            ]},
        ],
    }));
    for part in [
        "Be brief.",
        "The weather",
        "Weather in Rome?",
        "I look.",
        "weather",
        "Error: no station",
        "And?",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let count = count_tokens(&ENGINE, &body(json!({"system": "Be brief."}))).unwrap();
    let call = read(json!({"system": "Be brief."})).unwrap();
    assert_eq!(count["input_tokens"], call.requests[0].prompt.len());
}

#[test]
fn options_reach_the_engine() {
    let call = read(json!({
        "max_tokens": 7, "stop_sequences": ["END"], "temperature": 0.5, "top_k": 3, "top_p": 0.9, "stream": true, "seed": 4,
    }));
    let call = call.unwrap();
    let options = &call.requests[0].options;
    assert_eq!(
        (options.max_tokens, &options.stop[..], call.stream),
        (Some(7), &["END".to_owned()][..], true)
    );
    let sampling = &options.sampling;
    assert_eq!(
        (
            sampling.temperature,
            sampling.top_k,
            sampling.top_p,
            sampling.seed
        ),
        (0.5, 3, 0.9, Some(4))
    );
    let free = read(json!({"tools": weather()})).unwrap();
    assert!(free.requests[0].options.grammar.is_none());
    for choice in [
        json!({"type": "any"}),
        json!({"type": "tool", "name": "weather"}),
        json!({"type": "auto", "disable_parallel_tool_use": true}),
    ] {
        let call = read(json!({"tools": weather(), "tool_choice": choice})).unwrap();
        assert!(call.requests[0].options.grammar.is_some());
    }
    let none = read(json!({"tools": weather(), "tool_choice": {"type": "none"}})).unwrap();
    assert!(none.requests[0].options.grammar.is_none());
    let format = json!({"format": {"type": "json_schema", "schema": {"type": "object"}}});
    let formed = read(json!({"output_config": format})).unwrap();
    assert!(formed.requests[0].options.grammar.is_some());
}

#[test]
fn every_field_does_what_its_table_says() {
    let valid = Value::Object(body(json!({})));
    check_fates(&[COUNT_FIELDS, FIELDS], &valid, |body| {
        Call::read(&ENGINE, Endpoint::Messages, body).map(drop)
    });
    check_fates(&[COUNT_FIELDS], &valid, |body| {
        count_tokens(&ENGINE, body).map(drop)
    });
}

#[test]
fn what_cannot_be_read_is_refused_by_name() {
    let table = r#"
        messages unsupported_parameter {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}]}]}
        messages unsupported_parameter {"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": ""}}]}]}
        messages invalid_value {"messages": []}
        messages invalid_value {"messages": [{"role": "tool", "content": ""}]}
        max_tokens missing_required_parameter {"max_tokens": null}
        max_tokens invalid_value {"max_tokens": -1}
        stop_sequences invalid_value {"stop_sequences": "END"}
        thinking invalid_value {"thinking": {"type": "enabled", "budget_tokens": 3}}
        thinking invalid_value {"thinking": {"type": "enabled", "budget_tokens": 2000}, "max_tokens": 2000}
        thinking invalid_value {"thinking": {"type": "between_tools"}}
        tools unsupported_parameter {"tools": [{"type": "bash_20250124", "name": "bash"}]}
        tool_choice invalid_value {"tool_choice": {"type": "any"}}
        mcp_servers unsupported_parameter {"mcp_servers": [{"url": "x"}]}
    "#;
    check_refusals(table, read);
    let document = json!({"type": "document", "title": "T", "source": {"type": "text", "media_type": "text/plain", "data": "plain"}});
    let said = json!({"messages": [{"role": "user", "content": [document]}]});
    assert!(prompt(said).contains("T\nplain"));
}

#[test]
fn a_last_message_of_the_assistant_is_gone_on_with() {
    let with_last = |last: Value| json!({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": last}]});
    let begun = prompt(with_last(json!("The answer is")));
    assert!(begun.ends_with("The answer is"), "{begun}");
    let parts = json!([{"type": "text", "text": "The answer is"}]);
    assert_eq!(prompt(with_last(parts)), begun);
    // One of nothing is as if it were not there.
    assert_eq!(prompt(with_last(json!(""))), prompt(json!({})));
    let count = count_tokens(&ENGINE, &body(with_last(json!("The answer is")))).unwrap();
    let call = read(with_last(json!("The answer is"))).unwrap();
    assert_eq!(count["input_tokens"], call.requests[0].prompt.len());
    // The white space between the two is the answer's.
    let answer = answer_of(&[" 4".to_owned()], FinishReason::Stop);
    let message = call.form.response(&ENGINE, &stamp(), &[answer]);
    assert_eq!(message["content"][0]["text"], " 4");
    let table = r#"
        messages invalid_value {"messages": [{"role": "assistant", "content": "Well, "}]}
        messages invalid_value {"messages": [{"role": "assistant", "content": "Well,"}], "thinking": {"type": "adaptive"}}
        messages invalid_value {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}]}]}
        messages unsupported_parameter {"messages": [{"role": "assistant", "content": "{"}], "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}}
    "#;
    check_refusals(table, read);
}

#[test]
fn a_budget_limits_what_is_thought() {
    let limit = |thinking: Value| {
        let call = read(json!({"thinking": thinking, "max_tokens": 3000})).unwrap();
        call.requests[0].options.max_thinking_tokens
    };
    let enabled = json!({"type": "enabled", "budget_tokens": 2000});
    assert_eq!(limit(enabled), Some(2000));
    assert_eq!(limit(json!({"type": "adaptive"})), None);
}

#[test]
fn a_message_says_why_it_ended() {
    let thinking = json!({"type": "enabled", "budget_tokens": 1024});
    let call = read(json!({"tools": weather(), "thinking": thinking, "max_tokens": 2000})).unwrap();
    let message = |text: &str, reason| {
        let answer = answer_of(&[text.to_owned()], reason);
        call.form.response(&ENGINE, &stamp(), &[answer])
    };
    let plain = message("<think>so</think>Hello", FinishReason::Stop);
    assert_eq!(
        plain["content"],
        json!([
            {"type": "thinking", "thinking": "so", "signature": "unsigned_7"}, {"type": "text", "text": "Hello"},
        ])
    );
    assert_eq!(
        (&plain["stop_reason"], &plain["type"], &plain["id"]),
        (&json!("end_turn"), &json!("message"), &json!("msg_7"))
    );
    assert_eq!(
        plain["usage"],
        json!({
            "input_tokens": 14, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 16, "output_tokens": 1,
            "output_tokens_details": {"thinking_tokens": 1},
        })
    );
    let call = read(json!({"tools": weather()})).unwrap();
    let message = |text: &str, reason| {
        let answer = answer_of(&[text.to_owned()], reason);
        call.form.response(&ENGINE, &stamp(), &[answer])
    };
    let calls = message("weather\n{\"city\": \"Rome\"}", FinishReason::Stop);
    assert_eq!(calls["stop_reason"], "tool_use", "{calls}");
    assert_eq!(
        calls["content"],
        json!([{"type": "tool_use", "id": "toolu_7-0", "name": "weather", "input": {"city": "Rome"}}])
    );
    let cut = message("weather\n{\"city\": \"Ro", FinishReason::Length);
    assert_eq!(
        (&cut["stop_reason"], &cut["content"][0]["input"]),
        (&json!("max_tokens"), &json!({}))
    );
    let mut stopped = answer_of(&["Hel".to_owned()], FinishReason::Stop);
    stopped.finished.stop_string = Some("lo".to_owned());
    let stopped = call.form.response(&ENGINE, &stamp(), &[stopped]);
    assert_eq!(
        (&stopped["stop_reason"], &stopped["stop_sequence"]),
        (&json!("stop_sequence"), &json!("lo"))
    );
}

#[test]
fn who_asks_for_no_thoughts_gets_none() {
    let answer = answer_of(&["<think>so</think>Hello".to_owned()], FinishReason::Stop);
    let content = |thinking: Value| {
        let call = read(json!({"thinking": thinking})).unwrap();
        let streamed = joined(&events(&call, &answer));
        let whole = call
            .form
            .response(&ENGINE, &stamp(), std::slice::from_ref(&answer));
        assert_eq!(streamed, whole);
        whole["content"].clone()
    };
    let text = json!({"type": "text", "text": "Hello"});
    for thinking in [Value::Null, json!({"type": "disabled"})] {
        assert_eq!(content(thinking), json!([text]));
    }
    let omitted = content(json!({"type": "adaptive", "display": "omitted"}));
    assert_eq!(
        omitted,
        json!([{"type": "thinking", "thinking": "", "signature": "unsigned_7"}, text])
    );
}

proptest! {
    #[test]
    fn however_an_answer_is_cut_the_stream_is_the_message(
        text in prop_oneof![
            Just("<think>so 一</think>\n\nHello"), Just("weather\n{\"city\": \"Rome\", \"a\": [1, {}]}"), Just("weather\n{}"),
            Just("weather\n{\"city\": \"Ro"), Just("<think>still thinki"), Just("so</think>weather\n{\"city\": \"Rome\"}"), Just("\nI look.<|assistant|>weather\n{\"city\": \"R\u{1F600}\"}"), Just(""),
        ],
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        length in any::<bool>(),
        thinks in any::<bool>(),
    ) {
        let pieces = pieces(text, &cuts);
        let reason = if length { FinishReason::Length } else { FinishReason::Stop };
        let thinking = json!({"type": if thinks { "adaptive" } else { "disabled" }});
        let call = read(json!({"tools": weather(), "thinking": thinking})).unwrap();
        let answer = answer_of(&pieces, reason);
        let whole = call.form.response(&ENGINE, &stamp(), std::slice::from_ref(&answer));
        prop_assert_eq!(joined(&events(&call, &answer)), whole.clone());
        let uncut = call.form.response(&ENGINE, &stamp(), &[answer_of(&[text.to_owned()], reason)]);
        prop_assert_eq!(&whole["content"], &uncut["content"]);
        prop_assert_eq!(&whole["stop_reason"], &uncut["stop_reason"]);
    }
}
