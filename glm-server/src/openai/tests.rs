//! Bodies in, bodies out.

use glm_core::tokenizer::SpecialTokens;
use glm_runtime::{
    Completion, FinishReason, Finished, Timings, Usage,
    batch::{self, Job},
};
use serde_json::{Map, Value, json};

use super::*;
pub(super) use crate::testing::ENGINE;
use crate::testing::{answer_of, stamp};

fn object(value: Value) -> Map<String, Value> {
    let Value::Object(fields) = value else {
        panic!("{value}")
    };
    fields
}

fn read(endpoint: Endpoint, body: Value) -> Result<Call, ApiError> {
    Call::read(&ENGINE, endpoint, &object(body))
}

/// A chat with these fields besides.
pub(super) fn chat(fields: Value) -> Result<Call, ApiError> {
    let mut body =
        object(json!({"model": "demo", "messages": [{"role": "user", "content": "Hi"}]}));
    body.extend(object(fields));
    read(Endpoint::ChatCompletions, body.into())
}

pub(super) fn completion(fields: Value) -> Result<Call, ApiError> {
    let mut body = object(json!({"prompt": "Once"}));
    body.extend(object(fields));
    read(Endpoint::Completions, body.into())
}

/// The body of the response that the engine's answers make.
pub(super) fn answer(call: Call) -> Value {
    let Call {
        requests, n, form, ..
    } = call;
    let answered = batch::answers(
        &ENGINE,
        [Job {
            key: (),
            requests,
            n,
        }],
    )
    .next()
    .unwrap();
    form.response(&ENGINE, &stamp(), &answered.answers.unwrap())
}

#[test]
fn what_a_body_says_reaches_the_engine() {
    let call = chat(json!({
        "temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1, "typical_p": 0.8, "repetition_penalty": 1.1,
        "presence_penalty": 0.2, "frequency_penalty": -0.3, "logit_bias": {"5": -100}, "seed": -1,
        "max_tokens": 9, "max_completion_tokens": 8, "min_tokens": 2, "stop": "END", "stop_token_ids": [3],
        "ignore_eos": true, "skip_special_tokens": false, "priority": 4, "cache_salt": "tenant",
        "n": 3, "logprobs": true, "top_logprobs": 2, "user": "ignored", "unknown": {"ignored": true},
    }))
    .unwrap();
    assert_eq!((call.requests.len(), call.n, call.stream), (1, 3, false));
    let options = &call.requests[0].options;
    let sampling = &options.sampling;
    assert_eq!(
        (sampling.temperature, sampling.top_p, sampling.top_k),
        (0.5, 0.9, 7)
    );
    assert_eq!((sampling.min_p, sampling.typical_p), (0.1, 0.8));
    assert_eq!(
        (
            sampling.repetition_penalty,
            sampling.presence_penalty,
            sampling.frequency_penalty
        ),
        (1.1, 0.2, -0.3)
    );
    assert_eq!(
        (sampling.logit_bias.get(&5), sampling.seed),
        (Some(&-100.0), Some(u64::MAX))
    );
    assert_eq!(sampling.logprobs, Some(2));
    assert_eq!((options.max_tokens, options.min_tokens), (Some(8), 2));
    assert_eq!(
        (options.stop.as_slice(), options.stop_token_ids.as_slice()),
        (&["END".to_owned()][..], &[3][..])
    );
    assert!(options.ignore_eos && !options.skip_special_tokens);
    assert_eq!(
        (options.priority, options.cache_salt.as_deref()),
        (4, Some("tenant"))
    );
}

#[test]
fn what_a_body_does_not_say_is_the_models_default() {
    let call = chat(json!({"temperature": null, "top_k": -1, "response_format": {"type": "text"}, "store": false})).unwrap();
    let sampling = &call.requests[0].options.sampling;
    assert_eq!(sampling.temperature, ENGINE.default_sampling().temperature);
    assert_eq!((sampling.top_k, sampling.logprobs), (0, None));
    assert_eq!(call.requests[0].options.max_tokens, None);
    assert_eq!(
        completion(json!({})).unwrap().requests[0]
            .options
            .max_tokens,
        Some(16)
    );
}

#[test]
fn what_cannot_be_honoured_is_refused_by_name() {
    let wanted = json!({
        "guided_whitespace_pattern": " ", "prompt_logprobs": 1, "length_penalty": 2, "audio": {}, "modalities": ["audio"],
        "functions": [{}], "function_call": "auto", "store": true, "verbosity": "low", "web_search_options": {},
        "prediction": {"type": "outline", "content": "x"},
    });
    for (field, value) in object(wanted) {
        let error = chat(json!({&field: value})).expect_err(&field);
        assert_eq!(
            (error.status, error.param.as_deref()),
            (400, Some(field.as_str())),
            "{error:?}"
        );
        assert_eq!(error.code, Some("unsupported_parameter"));
    }
    for (field, value) in object(json!({"suffix": "end"})) {
        assert_eq!(
            completion(json!({&field: value})).unwrap_err().param,
            Some(field)
        );
    }
}

#[test]
fn what_is_wrong_is_refused_by_name() {
    let wrong = json!({
        "messages": [], "temperature": "hot", "n": 0, "stop": 3, "logit_bias": {"five": 1}, "seed": 1.5, "top_logprobs": 3,
        "tools": [1], "chat_template_kwargs": {"enable_thinking": "yes"}, "stop_token_ids": [-1], "max_tokens": -1,
        "prediction": {"type": "content", "content": null},
    });
    for (field, value) in object(wrong) {
        let error = chat(json!({&field: value})).expect_err(&field);
        assert_eq!(
            (error.status, error.param.as_deref()),
            (400, Some(field.as_str())),
            "{error:?}"
        );
    }
    let image = json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]});
    let error = chat(image).unwrap_err();
    assert!(error.message.contains("image_url"), "{error}");
    assert_eq!(
        read(Endpoint::ChatCompletions, json!({})).unwrap_err().code,
        Some("missing_required_parameter")
    );
    assert_eq!(
        read(Endpoint::Completions, json!({}))
            .unwrap_err()
            .param
            .as_deref(),
        Some("prompt")
    );
    for prompt in [json!(3), json!([1.5]), json!(["a", 1]), json!({})] {
        assert_eq!(
            completion(json!({"prompt": prompt}))
                .unwrap_err()
                .param
                .as_deref(),
            Some("prompt")
        );
    }
}

#[test]
fn tools_and_thinking_go_through_the_template() {
    let tools =
        json!([{"type": "function", "function": {"name": "get_weather", "parameters": {}}}]);
    let prompt = |fields| chat(fields).unwrap().requests[0].prompt.clone();
    let with = prompt(json!({"tools": tools}));
    let text = ENGINE.tokenizer().unwrap().decode(&with, false);
    assert!(text.contains("get_weather"), "{text}");
    assert_eq!(
        prompt(json!({"tools": tools, "tool_choice": "none"})),
        prompt(json!({}))
    );
    assert!(chat(json!({"reasoning_effort": "none", "chat_template_kwargs": {"x": 1}})).is_ok());
}

#[test]
fn a_predicted_answer_is_read_as_text() {
    let prediction = |content: Value| {
        let call = chat(json!({"prediction": {"type": "content", "content": content}}));
        call.map(|call| call.requests[0].options.prediction.clone())
    };
    let tokenizer = ENGINE.tokenizer().unwrap();
    let encode = |text: &str| tokenizer.encode(text, SpecialTokens::Plain).unwrap();
    // Nobody types a role token.
    let text = "fn main() {}\n<|user|>";
    assert_eq!(prediction(json!(text)), Ok(encode(text)));
    let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
    assert_eq!(prediction(parts), Ok(encode("a\nb")));
    assert_eq!(prediction(json!("")), Ok(Vec::new()));
    let without = chat(json!({})).unwrap();
    assert!(without.requests[0].options.prediction.is_empty());
    let image = json!([{"type": "image_url", "image_url": {"url": "x"}}]);
    let error = prediction(image).unwrap_err();
    assert!(error.message.contains("image_url"), "{error}");
    assert_eq!(error.param.as_deref(), Some("prediction"));

    let long = prediction(json!("word ".repeat(1 << 16))).unwrap();
    assert_eq!(long.len(), ENGINE.model_info().max_model_len);
}

#[test]
fn a_prediction_changes_no_answer() {
    let content = |mut body: Value| body["choices"][0]["message"]["content"].take();
    let body = || json!({"max_tokens": 8, "seed": 3, "temperature": 1.0});
    let expected = content(answer(chat(body()).unwrap()));
    let mut predicted = body();
    predicted["prediction"] = json!({"type": "content", "content": expected});
    let predicted = answer(chat(predicted).unwrap());
    let details = &predicted["usage"]["completion_tokens_details"];
    // This engine does not guess.
    assert_eq!(details["accepted_prediction_tokens"], 0);
    assert_eq!(content(predicted), expected);
}

#[test]
fn usage_says_how_much_was_thought() {
    let pieces = ["<think>", "so", " so", "</think>", "Hello"].map(str::to_owned);
    let answers = [
        answer_of(&pieces, FinishReason::Stop),
        answer_of(&pieces[..3], FinishReason::Length),
    ];
    let form = chat(json!({"n": 2})).unwrap().form;
    let body = form.response(&ENGINE, &stamp(), &answers);
    assert_eq!(
        body["usage"]["completion_tokens_details"]["reasoning_tokens"],
        6
    );
}

#[test]
fn usage_says_what_came_of_a_prediction() {
    let call = chat(json!({"n": 2})).unwrap();
    let completion = |accepted| Completion {
        text: String::new(),
        tokens: Vec::new(),
        finished: Finished {
            reason: FinishReason::Stop,
            stop_string: None,
            usage: Usage {
                completion_tokens: 20,
                accepted_prediction_tokens: accepted,
                rejected_prediction_tokens: 4,
                ..Usage::default()
            },
            timings: Timings::default(),
        },
    };
    let body = call
        .form
        .response(&ENGINE, &stamp(), &[completion(5), completion(7)]);
    let expected = json!({
        "accepted_prediction_tokens": 12, "reasoning_tokens": 0, "rejected_prediction_tokens": 8,
    });
    assert_eq!(body["usage"]["completion_tokens_details"], expected);
}

#[test]
fn a_chat_is_answered_in_openais_shape() {
    let call = chat(
        json!({"max_tokens": 3, "n": 2, "ignore_eos": true, "seed": 1, "logprobs": true, "top_logprobs": 2}),
    );
    let body = answer(call.unwrap());
    assert_eq!(
        (&body["id"], &body["object"], &body["created"]),
        (&json!("chatcmpl-7"), &json!("chat.completion"), &json!(1))
    );
    let choices = body["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 2);
    assert_eq!(
        (&choices[1]["index"], &choices[1]["message"]["role"]),
        (&json!(1), &json!("assistant"))
    );
    assert!(choices[0]["message"]["content"].is_string());
    let entry = &choices[0]["logprobs"]["content"][0];
    assert_eq!(entry["top_logprobs"].as_array().unwrap().len(), 2);
    assert!(entry["token"].is_string() && entry["bytes"].is_array() && entry["logprob"].is_f64());
    let usage = &body["usage"];
    let count = |name: &str| usage[name].as_u64().unwrap();
    assert_eq!(
        count("total_tokens"),
        count("prompt_tokens") + count("completion_tokens")
    );
    assert!((2..=6).contains(&count("completion_tokens")));
}

#[test]
fn completions_take_every_kind_of_prompt() {
    for (prompt, choices) in [
        (json!("a"), 2),
        (json!(["a", "b"]), 4),
        (json!([1, 2]), 2),
        (json!([[1], [2], [3]]), 6),
    ] {
        let call =
            completion(json!({"prompt": prompt, "n": 2, "max_tokens": 1, "logprobs": 1})).unwrap();
        let prompt_tokens: usize = call
            .requests
            .iter()
            .map(|request| request.prompt.len())
            .sum();
        let body = answer(call);
        assert_eq!(body["choices"].as_array().unwrap().len(), choices);
        assert_eq!(body["usage"]["prompt_tokens"], prompt_tokens);
        let logprobs = &body["choices"][0]["logprobs"];
        let entries = |name: &str| logprobs[name].as_array().unwrap().len();
        assert_eq!(entries("tokens"), entries("token_logprobs"));
        assert_eq!(entries("top_logprobs"), entries("text_offset"));
    }
}

#[test]
fn paths_lead_to_endpoints() {
    for endpoint in Endpoint::ALL {
        assert_eq!(Endpoint::from_path(endpoint.path()), Ok(endpoint));
    }
    let error = Endpoint::from_path("/v1/moderations").unwrap_err();
    assert!(
        error.status == 404 && error.message.contains("not supported yet"),
        "{error}"
    );
    assert!(
        Endpoint::from_path("/")
            .unwrap_err()
            .message
            .contains("not an endpoint")
    );
    assert_eq!(error.body()["error"]["code"], "unknown_url");
}

#[test]
fn every_field_does_what_its_table_says() {
    let chat = json!({"messages": [{"role": "user", "content": "Hi"}]});
    fields::check_fates(&[known::CHAT_FIELDS, known::COMMON_FIELDS], &chat, |body| {
        Call::read(&ENGINE, Endpoint::ChatCompletions, body).map(drop)
    });
    let completion = json!({"prompt": "Hi"});
    fields::check_fates(
        &[known::COMPLETION_FIELDS, known::COMMON_FIELDS],
        &completion,
        |body| Call::read(&ENGINE, Endpoint::Completions, body).map(drop),
    );
}

#[test]
fn a_model_that_is_not_here_is_not_found() {
    for endpoint in Endpoint::ALL {
        let error = read(endpoint, json!({"model": "nobody"})).unwrap_err();
        let found = (error.status, error.param.as_deref(), error.code);
        assert_eq!(found, (404, Some("model"), Some("model_not_found")));
    }
}

#[test]
fn a_prompt_is_said_again_with_its_log_probabilities() {
    let ids = ENGINE.encode("Once upon a time").unwrap();
    let scores = ENGINE.prompt_logprobs(&ids, 2).unwrap();
    let alone = json!({"prompt": "Once upon a time", "echo": true, "max_tokens": 0, "logprobs": 2, "temperature": 0});
    let body = answer(completion(alone).unwrap());
    let choice = &body["choices"][0];
    assert_eq!(
        (&choice["text"], &choice["finish_reason"]),
        (&json!("Once upon a time"), &json!("length"))
    );
    assert_eq!(body["usage"]["completion_tokens"], 0);
    let logprobs = &choice["logprobs"];
    for name in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(
            logprobs[name].as_array().unwrap().len(),
            ids.len(),
            "{name}"
        );
    }
    assert!(logprobs["token_logprobs"][0].is_null() && logprobs["top_logprobs"][0].is_null());
    for (i, score) in scores.iter().enumerate() {
        assert_eq!(logprobs["token_logprobs"][i + 1], json!(score.logprob));
    }
    let more = |fields: Value| {
        let mut all = object(
            json!({"prompt": ["Once", "The end"], "max_tokens": 3, "temperature": 0, "ignore_eos": true, "logprobs": 0}),
        );
        all.extend(object(fields));
        answer(completion(all.into()).unwrap())
    };
    let (plain, echoed) = (more(json!({})), more(json!({"echo": true})));
    assert_eq!(plain["usage"], echoed["usage"]);
    for (i, prompt) in ["Once", "The end"].iter().enumerate() {
        let (plain, echoed) = (&plain["choices"][i], &echoed["choices"][i]);
        assert_eq!(
            echoed["text"],
            format!("{prompt}{}", plain["text"].as_str().unwrap())
        );
        let of = |choice: &Value| {
            choice["logprobs"]["token_logprobs"]
                .as_array()
                .unwrap()
                .clone()
        };
        assert!(of(echoed).ends_with(&of(plain)));
    }
    for (fields, param) in [
        (json!({"echo": true, "stream": true}), "echo"),
        (json!({"echo": true, "prompt": [u32::MAX]}), "prompt"),
        (json!({"max_tokens": 0}), "max_tokens"),
    ] {
        let refused = completion(fields).and_then(|call| {
            let request = call.requests[0].clone();
            ENGINE.submit(request).map(drop).map_err(ApiError::from)
        });
        assert_eq!(refused.unwrap_err().param.as_deref(), Some(param));
    }
}
