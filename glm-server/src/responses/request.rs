//! Bodies of `/v1/responses` to the chats that ask for the same.

use glm_runtime::EngineHandle;
use serde_json::{Map, Value, json};

use super::items::{chat_messages, input_items};
use super::response::ResponseForm;
use crate::openai::fields::{Fields, Kind, Known, PASSED, never};
use crate::openai::{ApiError, Call, Dialect, Endpoint};

fn is_empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty)
}

/// Every field that OpenAI's clients can send, and what becomes of it.
pub(crate) const FIELDS: &[Known] = &[
    Known::honoured("background", Kind::Boolean),
    Known::honoured("input", Kind::TextOrObjects),
    Known::honoured("include", Kind::Texts),
    Known::honoured("instructions", Kind::Text),
    Known::honoured("max_output_tokens", Kind::Count),
    Known::honoured("model", Kind::Text),
    Known::honoured("parallel_tool_calls", Kind::Boolean),
    Known::honoured("previous_response_id", Kind::Text),
    Known::honoured("reasoning", Kind::Object),
    Known::honoured("store", Kind::Boolean),
    Known::honoured("stream", Kind::Boolean),
    Known::honoured("temperature", Kind::Number),
    Known::honoured("text", Kind::Object),
    Known::honoured("tool_choice", Kind::TextOrObject),
    Known::honoured("tools", Kind::Objects),
    Known::honoured("top_p", Kind::Number),
    // Accounts, tiers and caches are the business of OpenAI's own service.
    Known::ignored("access_programs"),
    // Of tools that the service itself calls, and it calls none.
    Known::ignored("max_tool_calls"),
    Known::ignored("metadata"),
    Known::ignored("prompt_cache_key"),
    Known::ignored("prompt_cache_options"),
    Known::ignored("prompt_cache_retention"),
    Known::ignored("safety_identifier"),
    Known::ignored("service_tier"),
    // Whether to hide the lengths of pieces, which nothing here does.
    Known::ignored("stream_options"),
    Known::ignored("user"),
    Known::refused("background_options", never),
    Known::refused("context_management", is_empty),
    Known::refused("conversation", never),
    Known::refused("image", never),
    Known::refused("moderation", never),
    Known::refused("prompt", never),
    Known::refused("top_logprobs", |value| *value == 0),
    Known::refused("truncation", |value| value == "disabled"),
];

/// Reads the body of a request that goes on from nothing.
///
/// # Errors
/// [`ApiError`] with status 400 and the field to blame.
pub(crate) fn read(engine: &EngineHandle, body: &Map<String, Value>) -> Result<Call, ApiError> {
    if Fields(body)
        .get::<String>("previous_response_id")?
        .is_some()
    {
        let message =
            "`previous_response_id` works where responses are kept: at POST /v1/responses";
        return Err(ApiError::not_supported("previous_response_id", message));
    }
    read_after(engine, body, Vec::new())
}

/// Reads a body whose conversation has `earlier` items.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_after(
    engine: &EngineHandle,
    body: &Map<String, Value>,
    earlier: Vec<Value>,
) -> Result<Call, ApiError> {
    let fields = Fields(body);
    fields.check(FIELDS)?;
    if fields.get("background")?.unwrap_or(false) {
        let message = "`background` works at POST /v1/responses, where there is a queue";
        return Err(ApiError::not_supported("background", message));
    }
    include(fields)?;
    let mut items = earlier;
    let input = fields.value("input");
    items.extend(input_items(
        input.ok_or_else(|| ApiError::missing("input"))?,
    )?);
    let mut chat = Map::new();
    let messages = chat_messages(fields.get("instructions")?, &items)?;
    chat.insert("messages".to_owned(), messages.into());
    tools(fields, &mut chat)?;
    text(fields, &mut chat)?;
    reasoning(fields, &mut chat)?;
    if let Some(max) = fields.get::<usize>("max_output_tokens")? {
        chat.insert("max_tokens".to_owned(), max.into());
    }
    let same = [
        "chat_template_kwargs",
        "model",
        "parallel_tool_calls",
        "stream",
        "temperature",
        "top_k",
        "top_p",
    ];
    for name in same.iter().chain(PASSED) {
        if let Some(value) = fields.value(name) {
            chat.insert((*name).to_owned(), value.clone());
        }
    }
    let store = fields.get("store")?.unwrap_or(true);
    let mut call = Call::read(engine, Endpoint::ChatCompletions, &chat).map_err(in_own_words)?;
    let sampling = call.requests.first().map(|r| &r.options.sampling);
    let form = ResponseForm::new(fields, sampling, items, store);
    call.form.dialect = Dialect::Response(Box::new(form));
    Ok(call)
}

/// What is to be included belongs to tools that are not here, but for one.
fn include(fields: Fields<'_>) -> Result<(), ApiError> {
    let wanted: Vec<String> = fields.get("include")?.unwrap_or_default();
    match wanted
        .iter()
        .any(|name| name == "message.output_text.logprobs")
    {
        true => Err(ApiError::not_supported(
            "include",
            "log-probabilities are not supported here, but at /v1/chat/completions",
        )),
        false => Ok(()),
    }
}

fn tools(fields: Fields<'_>, chat: &mut Map<String, Value>) -> Result<(), ApiError> {
    let tools: Vec<Value> = fields.get("tools")?.unwrap_or_default();
    let tools: Result<Vec<Value>, ApiError> = tools.iter().map(tool).collect();
    chat.insert("tools".to_owned(), tools?.into());
    let Some(choice) = fields.value("tool_choice") else {
        return Ok(());
    };
    let function = |tool: &Value| json!({"type": "function", "function": {"name": tool["name"]}});
    let choice = match choice["type"].as_str() {
        Some("function") => function(choice),
        Some("allowed_tools") => {
            let tools = choice["tools"].as_array().into_iter().flatten();
            let tools: Vec<Value> = tools.map(function).collect();
            json!({"type": "allowed_tools", "allowed_tools": {"mode": choice["mode"], "tools": tools}})
        }
        _ => choice.clone(),
    };
    chat.insert("tool_choice".to_owned(), choice);
    Ok(())
}

fn tool(tool: &Value) -> Result<Value, ApiError> {
    match tool["type"].as_str() {
        Some("function") => {}
        Some(other) => {
            let message = format!("a tool of type `{other}` is not supported, only `function` is");
            return Err(ApiError::not_supported("tools", message));
        }
        None => return Err(ApiError::invalid("tools", "a tool has no `type`")),
    }
    let mut function = json!({"name": tool["name"]});
    for field in ["description", "parameters", "strict"] {
        if !tool[field].is_null() {
            function[field] = tool[field].clone();
        }
    }
    Ok(json!({"type": "function", "function": function}))
}

/// `text`: what the answer must look like.
fn text(fields: Fields<'_>, chat: &mut Map<String, Value>) -> Result<(), ApiError> {
    let Some(text) = fields.get::<Map<String, Value>>("text")? else {
        return Ok(());
    };
    if let Some(verbosity) = text.get("verbosity").filter(|v| !v.is_null())
        && verbosity != "medium"
    {
        let message = "`text.verbosity` is not supported, but for `medium`";
        return Err(ApiError::not_supported("text", message));
    }
    let Some(format) = text.get("format").filter(|format| !format.is_null()) else {
        return Ok(());
    };
    let format = match format["type"].as_str() {
        // A chat has the same one level deeper.
        Some("json_schema") if format["schema"].is_object() => {
            json!({"type": "json_schema", "json_schema": format})
        }
        Some("json_schema") => {
            let message = "`text.format` of type `json_schema` has no `schema`";
            return Err(ApiError::invalid("text", message));
        }
        _ => format.clone(),
    };
    if !format.is_object() {
        return Err(ApiError::invalid("text", "`text.format` must be an object"));
    }
    chat.insert("response_format".to_owned(), format);
    Ok(())
}

/// `reasoning`: how much of it. Summaries are not made: what was thought is said in full.
fn reasoning(fields: Fields<'_>, chat: &mut Map<String, Value>) -> Result<(), ApiError> {
    let Some(reasoning) = fields.get::<Map<String, Value>>("reasoning")? else {
        return Ok(());
    };
    match reasoning.get("effort") {
        None | Some(Value::Null) => {}
        Some(Value::String(effort)) => {
            chat.insert("reasoning_effort".to_owned(), effort.as_str().into());
        }
        Some(_) => {
            let message = "`reasoning.effort` must be a text";
            return Err(ApiError::invalid("reasoning", message));
        }
    }
    Ok(())
}

/// The error of a chat, naming the field that the client wrote.
fn in_own_words(error: ApiError) -> ApiError {
    let renamed = error.param.as_deref().map(|param| match param {
        "messages" => "input",
        "max_tokens" => "max_output_tokens",
        "response_format" => "text",
        "reasoning_effort" => "reasoning",
        other => other,
    });
    ApiError {
        param: renamed.map(str::to_owned),
        ..error
    }
}
