//! Answers to responses.

use glm_runtime::{Completion, EngineHandle, FinishReason, Finished, SamplingParams, Usage};
use serde_json::{Map, Value, json};

use crate::openai::fields::Fields;
use crate::openai::{ApiError, Form, Stamp};
use crate::parts::{Part, Parts};

/// What a response says besides the answer, and what is kept of it.
#[derive(Debug, Clone)]
pub(crate) struct ResponseForm {
    /// What the request asked for, said again.
    echo: Map<String, Value>,
    /// The conversation before the answer.
    items: Vec<Value>,
    store: bool,
}

/// Fields that a response repeats, and what they are if the request did not say.
fn defaults() -> Value {
    json!({
        "background": false,
        "instructions": null,
        "max_output_tokens": null,
        "max_tool_calls": null,
        "metadata": {},
        "parallel_tool_calls": true,
        "previous_response_id": null,
        "prompt_cache_key": null,
        "reasoning": {"effort": null, "summary": null},
        "safety_identifier": null,
        "service_tier": "default",
        "store": true,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "truncation": "disabled",
        "user": null,
    })
}

impl ResponseForm {
    pub(super) fn new(
        fields: Fields<'_>,
        sampling: Option<&SamplingParams>,
        items: Vec<Value>,
        store: bool,
    ) -> Self {
        let mut echo = Map::new();
        if let Value::Object(defaults) = defaults() {
            for (name, default) in defaults {
                let said = match (fields.value(&name), default) {
                    (Some(Value::Object(said)), Value::Object(mut default)) => {
                        default.extend(said.clone());
                        default.into()
                    }
                    (Some(said), _) if name != "service_tier" => said.clone(),
                    (_, default) => default,
                };
                echo.insert(name, said);
            }
        }
        // What the answer was drawn with, whoever said so. Written short: 0.7, not the nearest number of 32 bits.
        let short = |value: f32| (f64::from(value) * 1e6).round() / 1e6;
        for (name, used) in [
            ("temperature", sampling.map(|s| s.temperature)),
            ("top_p", sampling.map(|s| s.top_p)),
        ] {
            echo.insert(name.to_owned(), used.map(short).into());
        }
        Self { echo, items, store }
    }

    /// Whether the response is to be kept.
    pub(crate) fn is_stored(&self) -> bool {
        self.store
    }

    /// The conversation before the answer.
    pub(crate) fn items(&self) -> &[Value] {
        &self.items
    }

    /// The body of a response. One prompt, one answer: the dialect knows no more.
    pub(crate) fn response(
        &self,
        form: &Form,
        engine: &EngineHandle,
        stamp: &Stamp,
        answer: &Completion,
    ) -> Value {
        let mut parts = Parts::new(form.parser(), true);
        let texts = answer.tokens.iter().map(|token| token.text.as_str());
        let all = parts.whole(texts);
        let end = End {
            finished: &answer.finished,
            thought_tokens: parts.thought_tokens(),
        };
        let last = all.len().saturating_sub(1);
        let items = all.iter().enumerate().map(|(index, part)| {
            let is_cut = answer.finished.reason != FinishReason::Stop && index == last;
            item(index, part, stamp, status_of_item(part, is_cut))
        });
        self.ended(form, engine, stamp, &end, items.collect())
    }

    /// The response while the answer comes.
    pub(super) fn begun(&self, model: &str, stamp: &Stamp) -> Value {
        let mut response = json!({
            "id": id(stamp),
            "object": "response",
            "created_at": stamp.created,
            "status": "in_progress",
            "error": null,
            "incomplete_details": null,
            "model": model,
            "output": [],
            "usage": null,
        });
        for (name, value) in &self.echo {
            response[name] = value.clone();
        }
        response
    }

    /// The response when the answer has ended.
    pub(super) fn ended(
        &self,
        form: &Form,
        engine: &EngineHandle,
        stamp: &Stamp,
        end: &End<'_>,
        output: Vec<Value>,
    ) -> Value {
        let mut response = self.begun(form.model(engine), stamp);
        let (status, details) = match end.finished.reason {
            FinishReason::Stop => ("completed", Value::Null),
            FinishReason::Length => ("incomplete", json!({"reason": "max_output_tokens"})),
            FinishReason::Cancelled => ("cancelled", Value::Null),
        };
        response["status"] = status.into();
        response["incomplete_details"] = details;
        response["output"] = output.into();
        response["usage"] = usage(&end.finished.usage, end.thought_tokens);
        response
    }

    /// The response of an answer that failed.
    pub(super) fn failed(
        &self,
        form: &Form,
        engine: &EngineHandle,
        stamp: &Stamp,
        error: &ApiError,
    ) -> Value {
        let mut response = self.begun(form.model(engine), stamp);
        let code = match error.status {
            429 => "rate_limit_exceeded",
            400 => "invalid_prompt",
            _ => "server_error",
        };
        response["status"] = "failed".into();
        response["error"] = json!({"code": code, "message": error.message});
        response
    }
}

/// A response that has no answer yet, or never will.
#[derive(Debug)]
pub(crate) struct Unanswered {
    response: Value,
}

impl Unanswered {
    /// Of the request with this body. `id` is that of a [`Stamp`].
    pub(crate) fn new(body: &Map<String, Value>, model: &str, id: String, created: u64) -> Self {
        let form = ResponseForm::new(Fields(body), None, Vec::new(), true);
        let stamp = Stamp { id, created };
        Self {
            response: form.begun(model, &stamp),
        }
    }

    pub(crate) fn waiting(mut self, status: &str) -> Value {
        self.response["status"] = status.into();
        self.response
    }

    pub(crate) fn failed(mut self, message: &str) -> Value {
        self.response["status"] = "failed".into();
        self.response["error"] = json!({"code": "server_error", "message": message});
        self.response
    }
}

/// How an answer ended.
pub(super) struct End<'a> {
    pub(super) finished: &'a Finished,
    pub(super) thought_tokens: usize,
}

/// The id of the response to a request.
pub(super) fn id(stamp: &Stamp) -> String {
    format!("resp_{}", stamp.id)
}

/// `is_cut`: nothing comes after it, and the answer did not end by itself. A call says itself whether it is complete.
pub(super) fn status_of_item(part: &Part, is_cut: bool) -> &'static str {
    match part {
        Part::Call { complete: true, .. } => "completed",
        Part::Call { .. } => "incomplete",
        _ if is_cut => "incomplete",
        _ => "completed",
    }
}

/// Item number `index` of the output.
pub(super) fn item(index: usize, part: &Part, stamp: &Stamp, status: &str) -> Value {
    let id = item_id(index, part, stamp);
    match part {
        Part::Thought(_) => json!({
            "id": id,
            "type": "reasoning",
            "status": status,
            "summary": [],
            "content": [content(part)],
        }),
        Part::Text(_) => json!({
            "id": id,
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": [content(part)],
        }),
        Part::Call {
            name, arguments, ..
        } => json!({
            "id": id,
            "type": "function_call",
            "status": status,
            "call_id": format!("call_{}-{index}", stamp.id),
            "name": name,
            "arguments": arguments,
        }),
    }
}

pub(super) fn item_id(index: usize, part: &Part, stamp: &Stamp) -> String {
    let kind = match part {
        Part::Thought(_) => "rs",
        Part::Text(_) => "msg",
        Part::Call { .. } => "fc",
    };
    format!("{kind}_{}-{index}", stamp.id)
}

/// The one part of an item's content.
pub(super) fn content(part: &Part) -> Value {
    match part {
        Part::Thought(text) => json!({"type": "reasoning_text", "text": text}),
        Part::Text(text) => {
            json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
        }
        Part::Call { .. } => Value::Null,
    }
}

fn usage(usage: &Usage, thought_tokens: usize) -> Value {
    json!({
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": thought_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    })
}
