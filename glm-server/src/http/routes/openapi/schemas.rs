//! What bodies look like. Those of requests are the tables of fields that the dialects read them by.

use serde_json::{Map, Value, json};
use utoipa::openapi::Schema;

use crate::anthropic;
use crate::openai::fields::{Fate, Kind, Known};
use crate::openai::known::{CHAT_FIELDS, COMMON_FIELDS, COMPLETION_FIELDS};
use crate::openai::{EMBEDDING_FIELDS, TOKENIZE_FIELDS};
use crate::responses;

/// All of them, by name.
pub(super) fn all() -> Vec<(&'static str, Schema)> {
    let all = requests().into_iter().chain(answers()).chain(records());
    // They are constants, and a test reads them all.
    let schema = |(name, json)| Some((name, serde_json::from_value(json).ok()?));
    all.filter_map(schema).collect()
}

pub(super) fn requests() -> Vec<(&'static str, Value)> {
    let (messages, count) = (anthropic::FIELDS, anthropic::COUNT_FIELDS);
    vec![
        (
            "ChatCompletionRequest",
            request(&[CHAT_FIELDS, COMMON_FIELDS], &["messages"]),
        ),
        (
            "CompletionRequest",
            request(&[COMPLETION_FIELDS, COMMON_FIELDS], &["prompt"]),
        ),
        (
            "MessageRequest",
            request(&[messages, count], &["max_tokens", "messages"]),
        ),
        ("CountTokensRequest", request(&[count], &["messages"])),
        ("ResponseRequest", request(&[responses::FIELDS], &["input"])),
        ("EmbeddingRequest", request(&[EMBEDDING_FIELDS], &["input"])),
        ("TokenizeRequest", request(&[TOKENIZE_FIELDS], &[])),
        (
            "DetokenizeRequest",
            object(
                json!({"model": {"type": "string"}, "tokens": of(Kind::Ids)}),
                &["tokens"],
            ),
        ),
        (
            "TaskRequest",
            object(
                json!({
                    "endpoint": {"type": "string"},
                    "body": {"type": "object"},
                    "priority": {"type": ["integer", "null"]},
                    "deadline": anything(),
                    "max_retries": {"type": ["integer", "null"]},
                    "idempotency_key": {"type": ["string", "null"]},
                }),
                &["endpoint", "body"],
            ),
        ),
        (
            "FileUpload",
            object(
                json!({
                    "file": {"type": "string", "format": "binary"},
                    "purpose": {"type": "string"},
                }),
                &["file", "purpose"],
            ),
        ),
        (
            "BatchRequest",
            object(
                json!({
                    "input_file_id": {"type": "string"},
                    "endpoint": {"type": "string"},
                    "completion_window": {"type": "string"},
                    "metadata": {"type": ["object", "null"]},
                }),
                &["input_file_id", "endpoint", "completion_window"],
            ),
        ),
    ]
}

/// A body with the fields of these tables.
fn request(tables: &[&[Known]], required: &[&str]) -> Value {
    let mut properties = Map::new();
    for field in tables.iter().copied().flatten() {
        let mut schema = of(field.kind);
        if required.contains(&field.name) {
            without_null(&mut schema);
        }
        let note = match field.fate {
            Fate::Honoured => None,
            Fate::Ignored => Some("Changes nothing here."),
            Fate::Refused(_) => Some("Not supported: an error where it asks for something."),
        };
        if let Some(note) = note {
            schema["description"] = note.into();
        }
        properties.insert(field.name.to_owned(), schema);
    }
    object(properties.into(), required)
}

/// The values of a field; `null` is as if it were not there.
fn of(kind: Kind) -> Value {
    let text = || json!({"type": "string"});
    let list = |of: Value| json!({"type": ["array", "null"], "items": of});
    let id = || json!({"type": "integer", "minimum": 0});
    let any_object = || json!({"type": "object"});
    let either = |one: Value, other: Value| json!({"anyOf": [one, other, {"type": "null"}]});
    match kind {
        Kind::Any => anything(),
        Kind::Boolean => json!({"type": ["boolean", "null"]}),
        Kind::Count => json!({"type": ["integer", "null"], "minimum": 0}),
        Kind::Integer => json!({"type": ["integer", "null"]}),
        Kind::Number => json!({"type": ["number", "null"]}),
        Kind::Text => json!({"type": ["string", "null"]}),
        Kind::Texts => list(text()),
        Kind::TextOrTexts => either(text(), list(text())),
        Kind::Prompts => {
            json!({"anyOf": [text(), list(text()), list(id()), list(list(id())), {"type": "null"}]})
        }
        Kind::Ids => list(id()),
        Kind::Object => json!({"type": ["object", "null"]}),
        Kind::Objects => list(any_object()),
        Kind::TextOrObject => either(text(), any_object()),
        Kind::TextOrObjects => either(text(), list(any_object())),
    }
}

/// Every type there is: utoipa reads no schema without a type.
fn anything() -> Value {
    json!({"type": ["null", "boolean", "object", "array", "number", "string"]})
}

fn without_null(schema: &mut Value) {
    for (list, null) in [("type", json!("null")), ("anyOf", json!({"type": "null"}))] {
        if let Some(Value::Array(kinds)) = schema.get_mut(list) {
            kinds.retain(|kind| *kind != null);
        }
    }
}

fn object(properties: Value, required: &[&str]) -> Value {
    let mut schema = json!({"type": "object", "properties": properties});
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

/// An object all of whose properties are there.
fn whole(properties: Value) -> Value {
    let names: Vec<&str> = properties
        .as_object()
        .into_iter()
        .flat_map(Map::keys)
        .map(String::as_str)
        .collect();
    let required = json!(names);
    json!({"type": "object", "properties": properties, "required": required})
}

fn one_of(names: &[&str]) -> Value {
    json!({"type": "string", "enum": names})
}

fn list_of(items: Value) -> Value {
    json!({"type": "array", "items": items})
}

fn text() -> Value {
    json!({"type": "string"})
}

fn count() -> Value {
    json!({"type": "integer", "minimum": 0})
}

fn optional(kind: &str) -> Value {
    json!({"type": [kind, "null"]})
}

/// Bodies of answers.
pub(super) fn answers() -> Vec<(&'static str, Value)> {
    let usage = whole(json!({
        "prompt_tokens": count(), "completion_tokens": count(), "total_tokens": count(), "prompt_tokens_details": {"type": "object"},
    }));
    let reasons = one_of(&["stop", "length", "tool_calls", "cancelled"]);
    let chat_message = json!({
        "type": "object",
        "properties": {
            "role": one_of(&["assistant"]), "content": optional("string"), "reasoning_content": text(),
            "tool_calls": list_of(json!({"type": "object"})),
        },
        "required": ["role", "content"],
    });
    let chat_choice = whole(json!({
        "index": count(), "message": chat_message, "logprobs": optional("object"), "finish_reason": reasons,
    }));
    let text_choice = whole(json!({
        "index": count(), "text": text(), "logprobs": optional("object"), "finish_reason": reasons,
    }));
    let response = |kind: &str, choice: Value| {
        whole(json!({
            "id": text(), "object": one_of(&[kind]), "created": count(), "model": text(), "choices": list_of(choice), "usage": usage,
        }))
    };
    let message_usage = whole(json!({
        "input_tokens": count(), "output_tokens": count(), "cache_read_input_tokens": count(),
    }));
    let response_usage = whole(json!({
        "input_tokens": count(), "output_tokens": count(), "total_tokens": count(),
    }));
    let embedding = whole(json!({
        "object": one_of(&["embedding"]), "index": count(), "embedding": {"type": ["array", "string"], "items": {"type": "number"}},
    }));
    vec![
        ("ChatCompletion", response("chat.completion", chat_choice)),
        ("Completion", response("text_completion", text_choice)),
        (
            "Message",
            whole(json!({
                "id": text(), "type": one_of(&["message"]), "role": one_of(&["assistant"]), "model": text(),
                "content": list_of(json!({"type": "object", "required": ["type"]})),
                "stop_reason": optional("string"), "stop_sequence": optional("string"), "usage": message_usage,
            })),
        ),
        (
            "Response",
            whole(json!({
                "id": text(), "object": one_of(&["response"]), "created_at": count(), "model": text(),
                "status": one_of(&["completed", "incomplete", "failed", "cancelled", "queued", "in_progress"]),
                "output": list_of(json!({"type": "object", "required": ["type", "id"]})),
                "error": optional("object"), "usage": {"anyOf": [response_usage, {"type": "null"}]},
            })),
        ),
        (
            "EmbeddingList",
            whole(json!({
                "object": one_of(&["list"]), "data": list_of(embedding), "model": text(),
                "usage": whole(json!({"prompt_tokens": count(), "total_tokens": count()})),
            })),
        ),
        ("TokenCount", whole(json!({"input_tokens": count()}))),
        (
            "Tokens",
            whole(json!({"tokens": list_of(count()), "count": count(), "max_model_len": count()})),
        ),
        ("Text", whole(json!({"prompt": text()}))),
    ]
}

/// Bodies that are about things, and errors.
pub(super) fn records() -> Vec<(&'static str, Value)> {
    let error = whole(json!({
        "message": text(), "type": text(), "param": optional("string"), "code": optional("string"),
    }));
    let with_id = || json!({"type": "object", "properties": {"id": text()}, "required": ["id"]});
    vec![
        ("Error", whole(json!({"error": error}))),
        (
            "AnthropicError",
            whole(json!({
                "type": one_of(&["error"]), "error": whole(json!({"type": text(), "message": text()})),
            })),
        ),
        (
            "List",
            whole(json!({"object": one_of(&["list"]), "data": list_of(json!({"type": "object"}))})),
        ),
        (
            "Model",
            whole(
                json!({"id": text(), "object": one_of(&["model"]), "created": count(), "owned_by": text()}),
            ),
        ),
        (
            "Deleted",
            whole(json!({"id": text(), "object": text(), "deleted": {"type": "boolean"}})),
        ),
        ("Task", with_id()),
        ("File", with_id()),
        ("Batch", with_id()),
        (
            "Health",
            json!({"type": "object", "properties": {"status": text()}, "required": ["status"]}),
        ),
        ("Object", json!({"type": "object"})),
    ]
}
