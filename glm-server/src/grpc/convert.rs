//! Messages to bodies of the HTTP interface, and its answers to messages.

use serde_json::{Map, Value, json};
use tonic::Status;

use super::proto::generate_event::Event;
use super::proto::generate_request::{Format, Input};
use super::proto::{
    Conversation, DetokenizeRequest, DetokenizeResponse, EmbedRequest, EmbedResponse, Embedding,
    Finish, FinishReason, GenerateEvent, GenerateRequest, GenerateResponse, Message,
    TokenizeRequest, TokenizeResponse, Tool, ToolCall, ToolCallDelta, Usage, tokenize_request,
};

type Body = Map<String, Value>;

/// The path and the body of a request for an answer.
pub(super) fn generate(
    request: GenerateRequest,
    stream: bool,
) -> Result<(&'static str, Body), Status> {
    let mut body = object("other_fields_json", &request.other_fields_json)?;
    let path = match request.input {
        Some(Input::Prompt(text)) => {
            body.insert("prompt".to_owned(), text.into());
            "/v1/completions"
        }
        Some(Input::PromptTokenIds(ids)) => {
            body.insert("prompt".to_owned(), ids.ids.into());
            "/v1/completions"
        }
        Some(Input::Chat(conversation)) => {
            chat(conversation, &mut body)?;
            "/v1/chat/completions"
        }
        None => {
            return Err(Status::invalid_argument(
                "one of prompt, prompt_token_ids and chat must be set",
            ));
        }
    };
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            body.insert(name.to_owned(), value);
        }
    };
    set(
        "model",
        (!request.model.is_empty()).then(|| request.model.into()),
    );
    set("max_tokens", request.max_tokens.map(Value::from));
    set("temperature", request.temperature.map(Value::from));
    set("top_p", request.top_p.map(Value::from));
    set("top_k", request.top_k.map(Value::from));
    set("min_p", request.min_p.map(Value::from));
    set(
        "presence_penalty",
        request.presence_penalty.map(Value::from),
    );
    set(
        "frequency_penalty",
        request.frequency_penalty.map(Value::from),
    );
    set(
        "repetition_penalty",
        request.repetition_penalty.map(Value::from),
    );
    set("seed", request.seed.map(Value::from));
    set(
        "stop",
        (!request.stop.is_empty()).then(|| request.stop.into()),
    );
    set("ignore_eos", request.ignore_eos.map(Value::from));
    set("min_tokens", request.min_tokens.map(Value::from));
    match request.format {
        Some(Format::JsonSchema(schema)) => set("guided_json", Some(schema.into())),
        Some(Format::Regex(regex)) => set("guided_regex", Some(regex.into())),
        Some(Format::Grammar(grammar)) => set("guided_grammar", Some(grammar.into())),
        None => {}
    }
    // One answer, in the form that is read here.
    set("n", Some(1.into()));
    set("stream", Some(stream.into()));
    set(
        "stream_options",
        stream.then(|| json!({"include_usage": true})),
    );
    Ok((path, body))
}

fn chat(conversation: Conversation, body: &mut Body) -> Result<(), Status> {
    let messages = conversation.messages.into_iter().map(message);
    body.insert("messages".to_owned(), messages.collect());
    let names: Vec<_> = conversation
        .tools
        .iter()
        .map(|tool| tool.name.clone())
        .collect();
    if !names.is_empty() {
        let tools: Result<Value, Status> = conversation.tools.into_iter().map(tool).collect();
        body.insert("tools".to_owned(), tools?);
    }
    match conversation.tool_choice.as_str() {
        "" => {}
        name if names.iter().any(|known| known == name) => {
            let choice = json!({"type": "function", "function": {"name": name}});
            body.insert("tool_choice".to_owned(), choice);
        }
        choice => {
            body.insert("tool_choice".to_owned(), choice.into());
        }
    }
    if let Some(thinking) = conversation.thinking {
        let kwargs = body
            .entry("chat_template_kwargs")
            .or_insert_with(|| json!({}));
        kwargs["enable_thinking"] = thinking.into();
    }
    Ok(())
}

fn message(message: Message) -> Value {
    let mut fields = json!({"role": message.role, "content": message.content});
    if !message.reasoning.is_empty() {
        fields["reasoning_content"] = message.reasoning.into();
    }
    if !message.tool_calls.is_empty() {
        let call = |call: ToolCall| {
            let function = json!({"name": call.name, "arguments": call.arguments});
            json!({"id": call.id, "type": "function", "function": function})
        };
        fields["tool_calls"] = message.tool_calls.into_iter().map(call).collect();
    }
    if !message.tool_call_id.is_empty() {
        fields["tool_call_id"] = message.tool_call_id.into();
    }
    fields
}

fn tool(tool: Tool) -> Result<Value, Status> {
    let mut function = json!({"name": tool.name});
    if !tool.description.is_empty() {
        function["description"] = tool.description.into();
    }
    if !tool.parameters_json.is_empty() {
        function["parameters"] = object("parameters_json", &tool.parameters_json)?.into();
    }
    Ok(json!({"type": "function", "function": function}))
}

/// A JSON object out of a field; empty if the field is.
fn object(field: &str, text: &str) -> Result<Body, Status> {
    if text.is_empty() {
        return Ok(Body::new());
    }
    serde_json::from_str(text)
        .map_err(|error| Status::invalid_argument(format!("{field} is no JSON object: {error}")))
}

/// The answer of the HTTP interface, whole.
pub(super) fn generated(answer: &Value) -> GenerateResponse {
    let choice = &answer["choices"][0];
    let message = &choice["message"];
    // A completion has its text beside the reason for its end.
    let said = message.get("content").unwrap_or(&choice["text"]);
    let calls = message["tool_calls"].as_array();
    GenerateResponse {
        id: text(&answer["id"]),
        model: text(&answer["model"]),
        text: text(said),
        reasoning: text(&message["reasoning_content"]),
        tool_calls: calls.into_iter().flatten().map(tool_call).collect(),
        finish_reason: finish_reason(&choice["finish_reason"]).into(),
        usage: Some(usage(&answer["usage"])),
    }
}

fn tool_call(call: &Value) -> ToolCall {
    ToolCall {
        id: text(&call["id"]),
        name: text(&call["function"]["name"]),
        arguments: text(&call["function"]["arguments"]),
    }
}

/// Makes events of the chunks of a stream. Why it ended and the usage come in chunks of their own, and are one event here.
#[derive(Debug, Default)]
pub(super) struct Finishing(Option<FinishReason>);

impl Finishing {
    pub(super) fn events(&mut self, chunk: &Value) -> Vec<GenerateEvent> {
        let choice = &chunk["choices"][0];
        let delta = &choice["delta"];
        let mut events = Vec::new();
        let said = |value: &Value| Some(text(value)).filter(|text| !text.is_empty());
        events.extend(said(&delta["reasoning_content"]).map(Event::Reasoning));
        events.extend(
            said(&delta["content"])
                .or(said(&choice["text"]))
                .map(Event::Text),
        );
        let calls = delta["tool_calls"].as_array().into_iter().flatten();
        events.extend(calls.map(|call| {
            let ToolCall {
                id,
                name,
                arguments,
            } = tool_call(call);
            let index = number(&call["index"]);
            Event::ToolCall(ToolCallDelta {
                index,
                id,
                name,
                arguments,
            })
        }));
        if !choice["finish_reason"].is_null() {
            self.0 = Some(finish_reason(&choice["finish_reason"]));
        }
        if let Some(reason) = self.0.filter(|_| chunk["usage"].is_object()) {
            events.push(Event::Finish(Finish {
                reason: reason.into(),
                usage: Some(usage(&chunk["usage"])),
            }));
        }
        let id = text(&chunk["id"]);
        let event = |event| GenerateEvent {
            id: id.clone(),
            event: Some(event),
        };
        events.into_iter().map(event).collect()
    }
}

fn finish_reason(reason: &Value) -> FinishReason {
    match reason.as_str() {
        Some("stop") => FinishReason::Stop,
        Some("length") => FinishReason::Length,
        Some("tool_calls") => FinishReason::ToolCalls,
        Some("cancelled") => FinishReason::Cancelled,
        _ => FinishReason::Unspecified,
    }
}

fn usage(usage: &Value) -> Usage {
    Usage {
        prompt_tokens: number(&usage["prompt_tokens"]),
        completion_tokens: number(&usage["completion_tokens"]),
        cached_tokens: number(&usage["prompt_tokens_details"]["cached_tokens"]),
    }
}

pub(super) fn embed(request: EmbedRequest) -> Body {
    let mut body = named(request.model);
    body.insert("input".to_owned(), request.inputs.into());
    body
}

pub(super) fn embedded(answer: &Value) -> EmbedResponse {
    let vectors = answer["data"].as_array().into_iter().flatten();
    let vector = |item: &Value| {
        let values = item["embedding"].as_array().into_iter().flatten();
        let values = values.filter_map(Value::as_f64).map(|value| value as f32);
        Embedding {
            values: values.collect(),
        }
    };
    EmbedResponse {
        model: text(&answer["model"]),
        embeddings: vectors.map(vector).collect(),
        prompt_tokens: number(&answer["usage"]["prompt_tokens"]),
    }
}

pub(super) fn tokenize(request: TokenizeRequest) -> Result<Body, Status> {
    let mut body = named(request.model);
    match request.input {
        Some(tokenize_request::Input::Prompt(text)) => {
            body.insert("prompt".to_owned(), text.into());
        }
        Some(tokenize_request::Input::Chat(conversation)) => chat(conversation, &mut body)?,
        None => {
            return Err(Status::invalid_argument(
                "one of prompt and chat must be set",
            ));
        }
    }
    for (name, value) in [
        ("add_special_tokens", request.add_special_tokens),
        ("add_generation_prompt", request.add_generation_prompt),
    ] {
        if let Some(value) = value {
            body.insert(name.to_owned(), value.into());
        }
    }
    Ok(body)
}

pub(super) fn tokenized(answer: &Value) -> TokenizeResponse {
    let ids = answer["tokens"].as_array().into_iter().flatten();
    TokenizeResponse {
        ids: ids.map(number).collect(),
        max_model_len: number(&answer["max_model_len"]),
    }
}

pub(super) fn detokenize(request: DetokenizeRequest) -> Body {
    let mut body = named(request.model);
    body.insert("tokens".to_owned(), request.ids.into());
    body
}

pub(super) fn detokenized(answer: &Value) -> DetokenizeResponse {
    DetokenizeResponse {
        text: text(&answer["prompt"]),
    }
}

/// A body that says which model, if one was named.
fn named(model: String) -> Body {
    let named = (!model.is_empty()).then(|| ("model".to_owned(), model.into()));
    named.into_iter().collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn number(value: &Value) -> u32 {
    value
        .as_u64()
        .map_or(0, |number| number.try_into().unwrap_or(u32::MAX))
}
