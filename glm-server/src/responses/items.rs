//! Items of a conversation to the messages of a chat.

use serde_json::{Map, Value, json};

use crate::openai::ApiError;

const INPUT: &str = "input";

/// The items of `input`: a text is what the user says.
pub(super) fn input_items(input: &Value) -> Result<Vec<Value>, ApiError> {
    match input {
        Value::String(text) => Ok(vec![json!({
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": text}],
        })]),
        Value::Array(items) => Ok(items.clone()),
        _ => Err(ApiError::invalid(
            INPUT,
            "`input` must be a text or a list of items",
        )),
    }
}

/// The messages of a chat that begins with these instructions.
pub(super) fn chat_messages(
    instructions: Option<String>,
    items: &[Value],
) -> Result<Vec<Value>, ApiError> {
    let mut chat = Messages::default();
    if let Some(instructions) = instructions {
        chat.add(json!({"role": "system", "content": instructions}));
    }
    for (index, item) in items.iter().enumerate() {
        let kind = item["type"].as_str();
        match kind {
            None | Some("message") => message(index, item, &mut chat)?,
            Some("reasoning") => chat.think(thought(item)),
            Some("function_call") => chat.call(json!({
                "id": text_of(index, item, "call_id")?,
                "type": "function",
                "function": {
                    "name": text_of(index, item, "name")?,
                    "arguments": text_of(index, item, "arguments")?,
                },
            })),
            Some("function_call_output") => chat.add(json!({
                "role": "tool",
                "tool_call_id": text_of(index, item, "call_id")?,
                "content": texts(index, &item["output"])?,
            })),
            Some("item_reference") => {
                let message = "items cannot be named, only given: use `previous_response_id` to go on from a response";
                return Err(ApiError::not_supported(INPUT, message));
            }
            Some(other) => return Err(not_supported("an item", other)),
        }
    }
    let messages = chat.finish();
    match messages.is_empty() {
        true => Err(ApiError::invalid(INPUT, "`input` is empty")),
        false => Ok(messages),
    }
}

fn not_supported(what: &str, kind: &str) -> ApiError {
    let message = format!(
        "{what} of type `{kind}` is not supported: this service reads text, calls of functions and their output"
    );
    ApiError::not_supported(INPUT, message)
}

fn text_of<'a>(index: usize, item: &'a Value, name: &str) -> Result<&'a str, ApiError> {
    item[name].as_str().ok_or_else(|| {
        let message = format!("`input[{index}].{name}` must be a text");
        ApiError::invalid(INPUT, message)
    })
}

fn message(index: usize, item: &Value, chat: &mut Messages) -> Result<(), ApiError> {
    let content = texts(index, &item["content"])?;
    match item["role"].as_str() {
        Some("user") => chat.add(json!({"role": "user", "content": content})),
        Some("system" | "developer") => chat.add(json!({"role": "system", "content": content})),
        Some("assistant") => chat.say(content),
        _ => {
            let message =
                format!("`input[{index}].role` must be user, assistant, system or developer");
            return Err(ApiError::invalid(INPUT, message));
        }
    }
    Ok(())
}

/// A text, or the texts of a list of parts.
fn texts(index: usize, content: &Value) -> Result<String, ApiError> {
    let wrong = || {
        let message =
            format!("`input[{index}]` must have a text or a list of parts as its content");
        ApiError::invalid(INPUT, message)
    };
    let parts = match content {
        Value::String(text) => return Ok(text.clone()),
        Value::Array(parts) => parts,
        _ => return Err(wrong()),
    };
    let texts = parts.iter().map(|part| match part["type"].as_str() {
        Some("input_text" | "output_text" | "text") => part["text"].as_str().ok_or_else(wrong),
        Some("refusal") => part["refusal"].as_str().ok_or_else(wrong),
        Some(other) => Err(not_supported("content", other)),
        None => Err(wrong()),
    });
    let texts: Result<Vec<&str>, ApiError> = texts.collect();
    Ok(texts?.join("\n"))
}

/// What a reasoning item says: all of it, or else its summary.
fn thought(item: &Value) -> String {
    let texts = |parts: &Value| {
        let parts = parts.as_array().into_iter().flatten();
        let texts: Vec<&str> = parts.filter_map(|part| part["text"].as_str()).collect();
        texts.join("\n")
    };
    let content = texts(&item["content"]);
    match content.is_empty() {
        true => texts(&item["summary"]),
        false => content,
    }
}

/// Messages in the making: thoughts, text and calls of the assistant that follow each other are one.
#[derive(Default)]
struct Messages {
    done: Vec<Value>,
    assistant: Option<Map<String, Value>>,
}

impl Messages {
    fn add(&mut self, message: Value) {
        self.close();
        self.done.push(message);
    }

    fn think(&mut self, text: String) {
        // A thought begins a turn.
        self.close();
        if !text.is_empty() {
            self.open()
                .insert("reasoning_content".to_owned(), text.into());
        }
    }

    fn say(&mut self, text: String) {
        let has_said = |message: &Map<String, Value>| !message["content"].is_null();
        if self.assistant.as_ref().is_some_and(has_said) {
            self.close();
        }
        self.open().insert("content".to_owned(), text.into());
    }

    fn call(&mut self, call: Value) {
        let calls = self.open().entry("tool_calls").or_insert_with(|| json!([]));
        if let Value::Array(calls) = calls {
            calls.push(call);
        }
    }

    fn open(&mut self) -> &mut Map<String, Value> {
        self.assistant.get_or_insert_with(|| {
            let mut message = Map::new();
            message.insert("role".to_owned(), "assistant".into());
            message.insert("content".to_owned(), Value::Null);
            message
        })
    }

    fn close(&mut self) {
        self.done.extend(self.assistant.take().map(Value::Object));
    }

    fn finish(mut self) -> Vec<Value> {
        self.close();
        self.done
    }
}
