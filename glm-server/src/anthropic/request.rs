//! Bodies of `/v1/messages` to the chats that ask for the same.

use glm_runtime::EngineHandle;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::content::chat_messages;
use super::response::{MessageForm, Thoughts};
use crate::openai::fields::{Fields, Kind, Known, PASSED, never};
use crate::openai::{self, ApiError, Call, Dialect, Endpoint};

/// What the model and the conversation are said with: all that `/v1/messages/count_tokens` reads.
pub(crate) const COUNT_FIELDS: &[Known] = &[
    Known::honoured("messages", Kind::Objects),
    Known::honoured("model", Kind::Text),
    Known::honoured("output_config", Kind::Object),
    Known::honoured("system", Kind::TextOrObjects),
    Known::honoured("thinking", Kind::Object),
    Known::honoured("tool_choice", Kind::Object),
    Known::honoured("tools", Kind::Objects),
    // The beginning of every prompt is kept and found again by itself.
    Known::ignored("cache_control"),
    Known::ignored("speed"),
    Known::ignored("user_profile_id"),
    Known::ignored("workspace_id"),
    Known::refused("compaction", never),
    Known::refused("context_management", never),
    Known::refused("mcp_servers", |value| {
        value.as_array().is_some_and(Vec::is_empty)
    }),
    Known::refused("thread", never),
];

/// Those of `/v1/messages` besides.
pub(crate) const FIELDS: &[Known] = &[
    Known::honoured("max_tokens", Kind::Count),
    Known::honoured("stop_sequences", Kind::Texts),
    Known::honoured("stream", Kind::Boolean),
    Known::honoured("temperature", Kind::Number),
    Known::honoured("top_k", Kind::Integer),
    Known::honoured("top_p", Kind::Number),
    Known::ignored("betas"),
    Known::ignored("billing_policy"),
    Known::ignored("diagnostics"),
    Known::ignored("metadata"),
    Known::ignored("service_tier"),
    Known::refused("container", never),
    Known::refused("fallback_credit_token", never),
    Known::refused("fallbacks", |value| {
        value.as_array().is_some_and(Vec::is_empty)
    }),
    Known::refused("inference_geo", never),
];

/// Reads the body of a request for a message.
///
/// # Errors
/// [`ApiError`] with status 400 and the field to blame.
pub(crate) fn read(engine: &EngineHandle, body: &Map<String, Value>) -> Result<Call, ApiError> {
    let fields = Fields(body);
    let (mut chat, thoughts) = conversation(fields)?;
    fields.check(FIELDS)?;
    let max_tokens: usize = fields.required("max_tokens")?;
    chat.insert("max_tokens".to_owned(), max_tokens.into());
    if let Some(stop) = fields.get::<Vec<String>>("stop_sequences")? {
        chat.insert("stop".to_owned(), stop.into());
    }
    let same = ["stream", "temperature", "top_k", "top_p"];
    for name in same.iter().chain(PASSED) {
        if let Some(value) = fields.value(name) {
            chat.insert((*name).to_owned(), value.clone());
        }
    }
    let mut call = Call::read(engine, Endpoint::ChatCompletions, &chat).map_err(in_own_words)?;
    let prompt_tokens = call.requests.first().map_or(0, |r| r.prompt.len());
    call.form.dialect = Dialect::Messages(MessageForm {
        prompt_tokens,
        thoughts,
    });
    Ok(call)
}

/// The tokens that a conversation has as a prompt.
///
/// # Errors
/// As [`read`].
pub(crate) fn count_tokens(
    engine: &EngineHandle,
    body: &Map<String, Value>,
) -> Result<Value, ApiError> {
    let (chat, _) = conversation(Fields(body))?;
    let counted = openai::tokenize(engine, &chat).map_err(in_own_words)?;
    Ok(json!({"input_tokens": counted["count"]}))
}

/// The fields of a chat that say who is asked what, and what becomes of thoughts.
fn conversation(fields: Fields<'_>) -> Result<(Map<String, Value>, Thoughts), ApiError> {
    fields.check(COUNT_FIELDS)?;
    let mut chat = Map::new();
    if let Some(model) = fields.get::<String>("model")? {
        chat.insert("model".to_owned(), model.into());
    }
    let messages: Vec<Value> = fields.required("messages")?;
    let mut messages = chat_messages(fields.value("system"), &messages)?;
    tools(fields, &mut chat)?;
    output_config(fields, &mut chat)?;
    let thoughts = thinking(fields, &mut chat)?;
    if begins_answer(&mut messages)? {
        if thoughts != Thoughts::Hidden {
            let message = "an answer that goes on with the last message cannot think first: leave `thinking` or that message out";
            return Err(ApiError::invalid("messages", message));
        }
        chat.insert("continue_final_message".to_owned(), true.into());
    }
    chat.insert("messages".to_owned(), messages.into());
    Ok((chat, thoughts))
}

/// Whether the last message is the beginning of the answer ("prefill"). One of nothing is as if it were not there.
fn begins_answer(messages: &mut Vec<Value>) -> Result<bool, ApiError> {
    let Some(last) = messages.last().filter(|last| last["role"] == "assistant") else {
        return Ok(false);
    };
    if !last["tool_calls"].is_null() {
        let message = "the results of the calls in the last message are missing";
        return Err(ApiError::invalid("messages", message));
    }
    match last["content"].as_str().unwrap_or_default() {
        "" => {
            messages.pop();
            Ok(false)
        }
        text if text.ends_with(char::is_whitespace) => {
            let message =
                "the last message, which the answer goes on with, must not end with white space";
            Err(ApiError::invalid("messages", message))
        }
        _ => Ok(true),
    }
}

fn tools(fields: Fields<'_>, chat: &mut Map<String, Value>) -> Result<(), ApiError> {
    let tools: Vec<Value> = fields.get("tools")?.unwrap_or_default();
    let tools: Result<Vec<Value>, ApiError> = tools.iter().map(tool).collect();
    let tools = tools?;
    if !tools.is_empty() {
        chat.insert("tools".to_owned(), tools.into());
    }
    let Some(choice) = fields.value("tool_choice") else {
        return Ok(());
    };
    let wrong = |message: &str| ApiError::invalid("tool_choice", message);
    let choice_of_chat = match choice["type"].as_str() {
        Some("auto") => json!("auto"),
        Some("any") => json!("required"),
        Some("none") => json!("none"),
        Some("tool") => {
            let name = choice["name"].as_str();
            let name = name.ok_or_else(|| wrong("`tool_choice` of type `tool` has no `name`"))?;
            json!({"type": "function", "function": {"name": name}})
        }
        _ => return Err(wrong("`tool_choice.type` must be auto, any, tool or none")),
    };
    chat.insert("tool_choice".to_owned(), choice_of_chat);
    match &choice["disable_parallel_tool_use"] {
        Value::Null => {}
        Value::Bool(disable) => {
            chat.insert("parallel_tool_calls".to_owned(), (!disable).into());
        }
        _ => {
            let message = "`tool_choice.disable_parallel_tool_use` must be true or false";
            return Err(wrong(message));
        }
    }
    Ok(())
}

fn tool(tool: &Value) -> Result<Value, ApiError> {
    match tool["type"].as_str() {
        None | Some("custom") => {}
        Some(other) => {
            let message = format!("a tool of type `{other}` is not supported, only `custom` is");
            return Err(ApiError::not_supported("tools", message));
        }
    }
    let name = tool["name"].as_str();
    let name = name.ok_or_else(|| ApiError::invalid("tools", "a tool has no `name`"))?;
    let Value::Object(schema) = &tool["input_schema"] else {
        let message = format!("the `input_schema` of tool `{name}` must be an object");
        return Err(ApiError::invalid("tools", message));
    };
    let mut function = json!({"name": name, "parameters": schema});
    for field in ["description", "strict"] {
        if !tool[field].is_null() {
            function[field] = tool[field].clone();
        }
    }
    Ok(json!({"type": "function", "function": function}))
}

fn output_config(fields: Fields<'_>, chat: &mut Map<String, Value>) -> Result<(), ApiError> {
    const FIELD: &str = "output_config";
    let Some(config) = fields.get::<Map<String, Value>>(FIELD)? else {
        return Ok(());
    };
    match config.get("effort") {
        None | Some(Value::Null) => {}
        Some(Value::String(effort)) => {
            chat.insert("reasoning_effort".to_owned(), effort.as_str().into());
        }
        Some(_) => {
            let message = "`output_config.effort` must be a text";
            return Err(ApiError::invalid(FIELD, message));
        }
    }
    match config.get("format") {
        None | Some(Value::Null) => Ok(()),
        Some(format) if format["type"] == "json_schema" && format["schema"].is_object() => {
            let schema = json!({"name": "output", "schema": format["schema"], "strict": true});
            let format = json!({"type": "json_schema", "json_schema": schema});
            chat.insert("response_format".to_owned(), format);
            Ok(())
        }
        Some(_) => {
            let message = "`output_config.format` must have the type `json_schema` and a `schema`";
            Err(ApiError::invalid(FIELD, message))
        }
    }
}

/// `thinking`.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Thinking {
    Enabled {
        budget_tokens: usize,
        display: Option<Display>,
    },
    Adaptive {
        display: Option<Display>,
    },
    Disabled,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Display {
    Summarized,
    Omitted,
}

/// Whether the model is to think, for how long, and whether that is shown. Who does not ask for thoughts gets none.
fn thinking(fields: Fields<'_>, chat: &mut Map<String, Value>) -> Result<Thoughts, ApiError> {
    let display = match fields.get("thinking")? {
        None | Some(Thinking::Disabled) => None,
        Some(Thinking::Adaptive { display }) => Some(display),
        Some(Thinking::Enabled {
            budget_tokens,
            display,
        }) => {
            // The least that Anthropic takes, and its order.
            let max_tokens: Option<usize> = fields.get("max_tokens")?;
            if budget_tokens < 1024 || max_tokens.is_some_and(|max| budget_tokens >= max) {
                let message =
                    "`thinking.budget_tokens` must be at least 1024 and less than `max_tokens`";
                return Err(ApiError::invalid("thinking", message));
            }
            chat.insert("thinking_token_budget".to_owned(), budget_tokens.into());
            Some(display)
        }
    };
    let enable = json!({"enable_thinking": display.is_some()});
    chat.insert("chat_template_kwargs".to_owned(), enable);
    Ok(match display {
        None => Thoughts::Hidden,
        Some(Some(Display::Omitted)) => Thoughts::Omitted,
        Some(None | Some(Display::Summarized)) => Thoughts::Shown,
    })
}

/// The error of a chat, naming the field that the client wrote.
fn in_own_words(error: ApiError) -> ApiError {
    let renamed = error.param.as_deref().map(|param| match param {
        "stop" => "stop_sequences",
        "response_format" | "reasoning_effort" => "output_config",
        "chat_template_kwargs" | "thinking_token_budget" => "thinking",
        "continue_final_message" => "messages",
        "parallel_tool_calls" => "tool_choice",
        other => other,
    });
    ApiError {
        param: renamed.map(str::to_owned),
        ..error
    }
}
