//! Forms of answers, tools, and the best of several answers: from the body to the engine and back.

use glm_runtime::{BeamOptions, EarlyStopping, FinishReason, GenerateOptions, Grammar};
use serde_json::{Value, json};

use super::tests::{ENGINE, answer, chat, completion};
use super::*;
use crate::testing::{answer_of, stamp};

fn grammar(fields: Value) -> Option<Grammar> {
    chat(fields).unwrap().requests[0].options.grammar.clone()
}

fn refused(fields: Value) -> (u16, Option<String>, String) {
    let error = chat(fields.clone()).expect_err(&fields.to_string());
    (error.status, error.param, error.message)
}

fn weather() -> Value {
    let parameters = json!({
        "type": "object",
        "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["city"],
        "additionalProperties": false,
    });
    json!({"type": "function", "function": {"name": "weather", "parameters": parameters}})
}

fn clock() -> Value {
    json!({"type": "function", "function": {"name": "clock"}})
}

/// A body with both tools and these fields.
fn with_tools(fields: Value) -> Value {
    let mut body = json!({"tools": [weather(), clock()]});
    body.as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    body
}

/// The answer of the model to `call`, were it this text.
fn answered(call: &Call, text: &str, reason: FinishReason) -> Value {
    let answer = answer_of(&[text.to_owned()], reason);
    call.form.response(&ENGINE, &stamp(), &[answer])["choices"][0].clone()
}

#[test]
fn every_way_to_ask_for_a_form_is_understood() {
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}});
    let of_schema = || Some(Grammar::JsonSchema(schema.clone()));
    let strict = json!({"type": "json_schema", "json_schema": {"name": "a", "strict": true, "schema": schema}});
    let choice = Grammar::Choice(vec!["yes".into(), "no".into()]);
    let regex = Grammar::Regex("[a-z]+".into());
    let lark = Grammar::Lark("start: \"a\"".into());
    for (fields, expected) in [
        (json!({"response_format": {"type": "text"}}), None),
        (
            json!({"response_format": {"type": "json_object"}}),
            Some(Grammar::JsonObject),
        ),
        (json!({"response_format": strict}), of_schema()),
        (json!({"guided_json": schema}), of_schema()),
        (json!({"guided_json": schema.to_string()}), of_schema()),
        (json!({"guided_regex": "[a-z]+"}), Some(regex.clone())),
        (
            json!({"guided_choice": ["yes", "no"]}),
            Some(choice.clone()),
        ),
        (json!({"guided_grammar": "start: \"a\""}), Some(lark)),
        (
            json!({"structured_outputs": {"json": schema, "regex": null}}),
            of_schema(),
        ),
        (
            json!({"structured_outputs": {"choice": ["yes", "no"]}}),
            Some(choice),
        ),
        (
            json!({"structured_outputs": {"json_object": true}}),
            Some(Grammar::JsonObject),
        ),
    ] {
        assert_eq!(grammar(fields.clone()), expected, "{fields}");
    }
    let call = completion(json!({"guided_regex": "[a-z]+"})).unwrap();
    assert_eq!(call.requests[0].options.grammar, Some(regex));
}

#[test]
fn contradictions_and_bad_forms_are_refused_by_name() {
    let object = json!({"type": "json_object"});
    for (fields, param) in [
        (
            json!({"response_format": object, "guided_regex": "a"}),
            "guided_regex",
        ),
        (
            json!({"guided_json": {}, "guided_choice": ["a"]}),
            "guided_choice",
        ),
        (
            json!({"guided_json": {}, "structured_outputs": {"regex": "a"}}),
            "structured_outputs",
        ),
        (
            json!({"structured_outputs": {"regex": "a", "json": {}}}),
            "structured_outputs",
        ),
        (
            json!({"structured_outputs": {"structural_tag": "{}"}}),
            "structured_outputs",
        ),
        (
            json!({"response_format": {"type": "yaml"}}),
            "response_format",
        ),
        (
            json!({"response_format": {"type": "json_schema"}}),
            "response_format",
        ),
        (json!({"response_format": {}}), "response_format"),
        (json!({"guided_choice": []}), "guided_choice"),
        (json!({"guided_choice": [1]}), "guided_choice"),
        (json!({"guided_regex": "(a"}), "guided_regex"),
        (json!({"guided_json": "{"}), "guided_json"),
        (json!({"guided_grammar": "begin: \"a\""}), "guided_grammar"),
        (
            with_tools(json!({"tool_choice": "required", "guided_regex": "a"})),
            "guided_regex",
        ),
        (
            with_tools(json!({"guided_grammar": "start: \"a\""})),
            "guided_grammar",
        ),
    ] {
        let (status, found, message) = refused(fields.clone());
        assert_eq!(
            (status, found.as_deref()),
            (400, Some(param)),
            "{fields}: {message}"
        );
    }
    let schema = json!({"type": "json_schema", "json_schema": {"schema": {"type": "objekt"}}});
    assert!(
        refused(json!({"response_format": schema}))
            .2
            .contains("objekt")
    );
}

#[test]
fn tool_choice_says_what_may_be_called() {
    let calls = |fields| match grammar(with_tools(fields)) {
        Some(Grammar::Tools(calls)) => Some((calls.tools.len(), calls.required, calls.parallel)),
        None => None,
        other => panic!("{other:?}"),
    };
    assert_eq!(calls(json!({})), None);
    assert_eq!(calls(json!({"tool_choice": "auto"})), None);
    assert_eq!(calls(json!({"tool_choice": "none"})), None);
    assert_eq!(
        calls(json!({"tool_choice": "required"})),
        Some((2, true, true))
    );
    assert_eq!(
        calls(json!({"parallel_tool_calls": false})),
        Some((2, false, false))
    );
    let clock = json!({"type": "function", "function": {"name": "clock"}});
    assert_eq!(calls(json!({"tool_choice": clock})), Some((1, true, false)));
    let allowed = |mode| json!({"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [clock]}}});
    assert_eq!(calls(allowed("required")), Some((1, true, true)));
    assert_eq!(calls(allowed("auto")), Some((1, false, true)));
    let object = json!({"response_format": {"type": "json_object"}});
    assert_eq!(calls(object), Some((2, false, true)));
    let mut strict = weather();
    strict["function"]["strict"] = true.into();
    assert!(matches!(
        grammar(json!({"tools": [strict]})),
        Some(Grammar::Tools(_))
    ));
}

#[test]
fn bad_tools_are_refused_by_name() {
    let named = |name: &str| json!({"type": "function", "function": {"name": name}});
    for (fields, param) in [
        (json!({"tool_choice": "required"}), "tool_choice"),
        (
            with_tools(json!({"tool_choice": "sometimes"})),
            "tool_choice",
        ),
        (
            with_tools(json!({"tool_choice": {"type": "function"}})),
            "tool_choice",
        ),
        (
            with_tools(json!({"tool_choice": named("other")})),
            "tool_choice",
        ),
        (
            json!({"tools": [{"type": "custom", "custom": {"name": "a"}}]}),
            "tools",
        ),
        (
            json!({"tools": [{"type": "function", "function": {}}]}),
            "tools",
        ),
        (json!({"tools": [{"function": {"name": "a"}}]}), "tools"),
        (
            with_tools(json!({"parallel_tool_calls": "no"})),
            "parallel_tool_calls",
        ),
    ] {
        let (status, found, message) = refused(fields.clone());
        assert_eq!(
            (status, found.as_deref()),
            (400, Some(param)),
            "{fields}: {message}"
        );
    }
}

#[test]
fn calls_are_answered_in_openais_shape() {
    let call = chat(with_tools(json!({}))).unwrap();
    let text = "\nI look.<|assistant|>weather\n{\"city\": \"Rome\"}<|assistant|>clock\n{}";
    let choice = answered(&call, text, FinishReason::Stop);
    let message = &choice["message"];
    assert_eq!(
        (&message["content"], &choice["finish_reason"]),
        (&json!("I look."), &json!("tool_calls"))
    );
    let function = json!({"name": "weather", "arguments": "{\"city\": \"Rome\"}"});
    let first = json!({"id": "call_7-0-0", "type": "function", "function": function});
    assert_eq!(message["tool_calls"][0], first);
    assert_eq!(message["tool_calls"][1]["id"], "call_7-0-1");
    let cut = answered(&call, "weather\n{\"city\": \"Ro", FinishReason::Length);
    assert_eq!(cut["finish_reason"], "length");
    assert_eq!(
        cut["message"]["tool_calls"][0]["function"]["arguments"],
        "{\"city\": \"Ro"
    );
    let plain = answered(&call, "\nHello", FinishReason::Stop);
    assert_eq!(plain["message"]["content"], "Hello");
    assert!(plain["message"].get("tool_calls").is_none());
    // Without tools the same text is text.
    let none = chat(with_tools(json!({"tool_choice": "none"}))).unwrap();
    let text = "clock\n{}";
    assert_eq!(
        answered(&none, text, FinishReason::Stop)["message"]["content"],
        text
    );
}

#[test]
fn thoughts_are_answered_apart_and_only_if_wanted() {
    let text = "<think>so</think>\n\nHello";
    let call = chat(json!({})).unwrap();
    let message = &answered(&call, text, FinishReason::Stop)["message"];
    assert_eq!(
        (&message["reasoning_content"], &message["content"]),
        (&json!("so"), &json!("Hello"))
    );
    let call = chat(json!({"include_reasoning": false})).unwrap();
    let message = &answered(&call, text, FinishReason::Stop)["message"];
    assert!(message.get("reasoning_content").is_none() && message["content"] == "Hello");
}

#[test]
fn a_call_that_is_demanded_is_made_and_valid() {
    let validator = jsonschema::validator_for(&weather()["function"]["parameters"]).unwrap();
    for seed in 0..6 {
        let fields =
            json!({"tool_choice": weather(), "temperature": 3, "seed": seed, "max_tokens": 400});
        let body = answer(chat(with_tools(fields)).unwrap());
        let choice = &body["choices"][0];
        // As OpenAI says it where the tool was named.
        assert_eq!(
            (&choice["finish_reason"], &choice["message"]["content"]),
            (&json!("stop"), &Value::Null)
        );
        let calls = choice["message"]["tool_calls"].as_array().unwrap();
        let arguments = calls[0]["function"]["arguments"].as_str().unwrap();
        let arguments: Value = serde_json::from_str(arguments).unwrap();
        assert!(
            calls.len() == 1 && validator.is_valid(&arguments),
            "{arguments}"
        );
    }
}

#[test]
fn the_best_of_several_answers_are_the_likeliest_per_token() {
    let fields = json!({"temperature": 2, "seed": 3, "max_tokens": 5, "ignore_eos": true});
    let with = |more: Value| {
        let mut fields = fields.clone();
        fields
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        answer(completion(fields).unwrap())
    };
    let all = with(json!({"n": 6, "logprobs": 0}));
    let sum = |choice: &Value| -> f64 {
        let logprobs = choice["logprobs"]["token_logprobs"].as_array().unwrap();
        logprobs
            .iter()
            .map(|logprob| logprob.as_f64().unwrap())
            .sum()
    };
    let mut choices = all["choices"].as_array().unwrap().clone();
    choices.sort_by(|a, b| sum(b).total_cmp(&sum(a)));
    let best = with(json!({"n": 2, "best_of": 6}));
    assert_eq!(best["choices"].as_array().unwrap().len(), 2);
    for (choice, expected) in best["choices"].as_array().unwrap().iter().zip(&choices) {
        assert_eq!(choice["text"], expected["text"]);
        assert!(choice["logprobs"].is_null());
    }
    assert_eq!(best["usage"], all["usage"]);
    let error = |fields| completion(fields).unwrap_err().param;
    assert_eq!(
        error(json!({"n": 3, "best_of": 2})).as_deref(),
        Some("best_of")
    );
    assert_eq!(
        error(json!({"best_of": 2, "stream": true})).as_deref(),
        Some("best_of")
    );
}

#[test]
fn a_beam_search_is_made_where_it_is_asked_for() {
    let fields = json!({"use_beam_search": true, "n": 2, "best_of": 3, "length_penalty": 0.5, "early_stopping": true, "max_tokens": 4});
    let call = completion(fields).unwrap();
    let beams = BeamOptions {
        width: 3,
        length_penalty: 0.5,
        early_stopping: EarlyStopping::Full,
    };
    let options = call.requests[0].options.clone();
    assert_eq!((options.beams, call.n), (Some(beams), 2));
    let max = GenerateOptions {
        max_tokens: Some(4),
        ..GenerateOptions::default()
    };
    let found = ENGINE.beam_search("Once", beams, max).unwrap();
    let body = answer(call);
    for (choice, beam) in body["choices"].as_array().unwrap().iter().zip(&found) {
        assert_eq!(choice["text"], beam.text.as_str());
    }
    let error = |fields| completion(fields).unwrap_err().param;
    assert_eq!(
        error(json!({"length_penalty": 2})).as_deref(),
        Some("length_penalty")
    );
    let odd = json!({"use_beam_search": true, "early_stopping": "soon"});
    assert_eq!(error(odd).as_deref(), Some("early_stopping"));
}
