//! Messages made of content blocks to the messages of a chat.

use serde_json::{Map, Value, json};

use crate::openai::ApiError;

const MESSAGES: &str = "messages";

/// The messages of a chat: `system`, a text or a list of text blocks, before those of the conversation.
pub(super) fn chat_messages(
    system: Option<&Value>,
    messages: &[Value],
) -> Result<Vec<Value>, ApiError> {
    if messages.is_empty() {
        return Err(ApiError::invalid(MESSAGES, "`messages` is empty"));
    }
    let mut chat = Vec::new();
    if let Some(system) = system {
        let text = texts("system", system)?;
        if !text.is_empty() {
            chat.push(json!({"role": "system", "content": text}));
        }
    }
    for (index, message) in messages.iter().enumerate() {
        let content = &message["content"];
        match message["role"].as_str() {
            Some("user") => user(index, content, &mut chat)?,
            Some("assistant") => chat.push(assistant(index, content)?),
            // As newer versions of the interface allow it amid a conversation.
            Some("system") => {
                chat.push(json!({"role": "system", "content": texts(MESSAGES, content)?}));
            }
            _ => {
                let message = format!("`messages[{index}].role` must be user or assistant");
                return Err(ApiError::invalid(MESSAGES, message));
            }
        }
    }
    Ok(chat)
}

/// The text of a field that is a text or a list of text blocks.
fn texts(field: &str, content: &Value) -> Result<String, ApiError> {
    let wrong = || {
        let message = format!("`{field}` must be a text or a list of text blocks");
        ApiError::invalid(field, message)
    };
    match content {
        Value::String(text) => Ok(text.clone()),
        Value::Array(blocks) => {
            let texts = blocks.iter().map(|block| match block["type"].as_str() {
                Some("text") => block["text"].as_str().ok_or_else(wrong),
                Some(kind) => Err(not_supported(field, kind)),
                None => Err(wrong()),
            });
            let texts: Result<Vec<&str>, ApiError> = texts.collect();
            Ok(texts?.join("\n"))
        }
        _ => Err(wrong()),
    }
}

fn not_supported(field: &str, kind: &str) -> ApiError {
    let message = format!(
        "content of type `{kind}` is not supported: this service reads text, calls of tools and their results"
    );
    ApiError::not_supported(field, message)
}

/// The blocks of a message; a text is one of them.
fn blocks(index: usize, content: &Value) -> Result<Vec<Value>, ApiError> {
    match content {
        Value::String(text) => Ok(vec![json!({"type": "text", "text": text})]),
        Value::Array(blocks) => Ok(blocks.clone()),
        _ => {
            let message = format!("`messages[{index}].content` must be a text or a list of blocks");
            Err(ApiError::invalid(MESSAGES, message))
        }
    }
}

/// A field of a block that must be a text.
fn text_of<'a>(index: usize, block: &'a Value, name: &str) -> Result<&'a str, ApiError> {
    block[name].as_str().ok_or_else(|| {
        let kind = block["type"].as_str().unwrap_or_default();
        let message = format!("a `{kind}` block of `messages[{index}]` has no text in `{name}`");
        ApiError::invalid(MESSAGES, message)
    })
}

fn kind_of(index: usize, block: &Value) -> Result<&str, ApiError> {
    block["type"].as_str().ok_or_else(|| {
        let message = format!("a block of `messages[{index}].content` has no `type`");
        ApiError::invalid(MESSAGES, message)
    })
}

/// What the user says, and what tools gave back: each result is a message of its own, in the order of the blocks.
fn user(index: usize, content: &Value, chat: &mut Vec<Value>) -> Result<(), ApiError> {
    let mut said: Vec<String> = Vec::new();
    let say = |said: &mut Vec<String>, chat: &mut Vec<Value>| {
        if !said.is_empty() {
            let text = std::mem::take(said).join("\n");
            chat.push(json!({"role": "user", "content": text}));
        }
    };
    for block in blocks(index, content)? {
        match kind_of(index, &block)? {
            "text" => said.push(text_of(index, &block, "text")?.to_owned()),
            "document" => said.push(document(index, &block)?),
            "tool_result" => {
                say(&mut said, chat);
                chat.push(json!({
                    "role": "tool",
                    "tool_call_id": text_of(index, &block, "tool_use_id")?,
                    "content": tool_result(&block)?,
                }));
            }
            other => return Err(not_supported(MESSAGES, other)),
        }
    }
    say(&mut said, chat);
    Ok(())
}

/// A document of plain text; of others there is nothing that this service could read.
fn document(index: usize, block: &Value) -> Result<String, ApiError> {
    let source = &block["source"];
    match source["type"].as_str() {
        Some("text") => {
            let text = text_of(index, source, "data")?;
            Ok(match block["title"].as_str() {
                Some(title) => format!("{title}\n{text}"),
                None => text.to_owned(),
            })
        }
        _ => Err(ApiError::not_supported(
            MESSAGES,
            "only documents of plain text are supported (`source` of type `text`)",
        )),
    }
}

fn tool_result(block: &Value) -> Result<String, ApiError> {
    let text = match &block["content"] {
        Value::Null => String::new(),
        content => texts(MESSAGES, content)?,
    };
    // The model is told in words, for chats have no other place for it.
    Ok(match block["is_error"] == true {
        true => format!("Error: {text}"),
        false => text,
    })
}

/// What the model thought, said and called before.
fn assistant(index: usize, content: &Value) -> Result<Value, ApiError> {
    let (mut thoughts, mut said, mut calls) = (Vec::new(), Vec::new(), Vec::new());
    for block in blocks(index, content)? {
        match kind_of(index, &block)? {
            "text" => said.push(text_of(index, &block, "text")?.to_owned()),
            "thinking" => thoughts.push(text_of(index, &block, "thinking")?.to_owned()),
            // Of another service: nobody here can read it.
            "redacted_thinking" => {}
            "tool_use" => {
                let Value::Object(input) = &block["input"] else {
                    let message =
                        format!("the `input` of a call in `messages[{index}]` must be an object");
                    return Err(ApiError::invalid(MESSAGES, message));
                };
                calls.push(json!({
                    "id": text_of(index, &block, "id")?,
                    "type": "function",
                    "function": {"name": text_of(index, &block, "name")?, "arguments": input},
                }));
            }
            other => return Err(not_supported(MESSAGES, other)),
        }
    }
    let mut message = Map::new();
    message.insert("role".to_owned(), "assistant".into());
    let content = match said.is_empty() {
        true => Value::Null,
        false => said.join("\n").into(),
    };
    message.insert("content".to_owned(), content);
    if !thoughts.is_empty() {
        message.insert("reasoning_content".to_owned(), thoughts.join("\n").into());
    }
    if !calls.is_empty() {
        message.insert("tool_calls".to_owned(), calls.into());
    }
    Ok(message.into())
}
