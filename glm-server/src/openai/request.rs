//! Bodies to requests for the engine.

use glm_core::chat::{ChatRequest, Message, prompt_opens_think};
use glm_runtime::{EngineHandle, GenerateOptions, Request, SamplingParams};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::fields::{Fields, Refusal};
use super::response::{Chat, Shape};
use super::{ApiError, Endpoint, Form};

/// Most answers to one prompt.
pub const MAX_N: usize = 128;
/// Most prompts of one `/v1/completions`.
pub const MAX_PROMPTS: usize = 2048;

/// OpenAI's default for `/v1/completions`; a chat answer may fill the context.
const DEFAULT_MAX_TOKENS: usize = 16;

/// Tokens at the end of a prompt among which `<think>` is looked for.
const THINK_TAIL: usize = 8;

/// What a body asks of the engine.
#[derive(Debug, Clone)]
pub struct Call {
    /// The prompts, at least one.
    pub requests: Vec<Request>,
    /// Answers to each of them.
    pub n: usize,
    /// Whether the answer is wanted as it comes.
    pub stream: bool,
    /// How the response is made of the answers.
    pub form: Form,
}

fn never(_: &Value) -> bool {
    false
}

fn is_false(value: &Value) -> bool {
    value == false
}

fn is_true(value: &Value) -> bool {
    value == true
}

/// Of both endpoints.
const REFUSED: [Refusal; 9] = [
    ("response_format", |value| value["type"] == "text"),
    ("structured_outputs", never),
    ("guided_json", never),
    ("guided_regex", never),
    ("guided_choice", never),
    ("guided_grammar", never),
    ("use_beam_search", is_false),
    ("prompt_logprobs", never),
    ("length_penalty", |value| value.as_f64() == Some(1.0)),
];

const REFUSED_IN_CHATS: [Refusal; 10] = [
    ("audio", never),
    ("echo", is_false),
    ("function_call", |value| value == "none"),
    ("functions", |value| {
        value.as_array().is_some_and(Vec::is_empty)
    }),
    ("modalities", |value| *value == serde_json::json!(["text"])),
    ("parallel_tool_calls", is_true),
    ("store", is_false),
    ("tool_choice", |value| value == "none" || value == "auto"),
    ("verbosity", |value| value == "medium"),
    ("web_search_options", never),
];

const REFUSED_IN_COMPLETIONS: [Refusal; 2] = [("echo", is_false), ("suffix", |value| value == "")];

impl Call {
    /// Reads a body: renders a chat through the checkpoint's template, encodes a prompt. What is not said is the model's own
    /// default ([`EngineHandle::default_sampling`]).
    ///
    /// # Errors
    /// [`ApiError`] with status 400 and the field to blame. Ranges of sampling parameters and the length of the prompt are
    /// checked when the requests are submitted.
    pub fn read(
        engine: &EngineHandle,
        endpoint: Endpoint,
        body: &Map<String, Value>,
    ) -> Result<Self, ApiError> {
        let fields = Fields(body);
        fields.refuse(&REFUSED)?;
        match endpoint {
            Endpoint::ChatCompletions => chat(engine, fields),
            Endpoint::Completions => completion(engine, fields),
        }
    }
}

fn chat(engine: &EngineHandle, fields: Fields<'_>) -> Result<Call, ApiError> {
    fields.refuse(&REFUSED_IN_CHATS)?;
    let request = chat_request(fields)?;
    let mut options = options(engine, fields)?;
    options.max_tokens = match fields.get("max_completion_tokens")? {
        Some(max) => Some(max),
        None => fields.get("max_tokens")?,
    };
    options.sampling.logprobs = chat_logprobs(fields)?;
    let tokenizer = engine.tokenizer()?;
    let prompt = engine
        .chat_format()?
        .encode(tokenizer, &request)
        .map_err(|error| ApiError::invalid("messages", error.to_string()))?;
    let tail = &prompt[prompt.len().saturating_sub(THINK_TAIL)..];
    let shape = Shape::Chat(Chat {
        opens_think: prompt_opens_think(&tokenizer.decode(tail, false)),
        include_reasoning: fields.get("include_reasoning")?.unwrap_or(true),
    });
    call(fields, vec![prompt], options, shape)
}

/// What the template is given.
fn chat_request(fields: Fields<'_>) -> Result<ChatRequest, ApiError> {
    let messages: Vec<Message> = fields.required("messages")?;
    if messages.is_empty() {
        return Err(ApiError::invalid("messages", "`messages` is empty"));
    }
    // Templates leave out in silence what is not text.
    if let Some(kind) = messages.iter().find_map(|m| m.plain_text().err()) {
        let message = format!("content of type `{kind}` is not supported");
        return Err(ApiError::not_supported("messages", message));
    }
    let tools: Vec<Map<String, Value>> = fields.get("tools")?.unwrap_or_default();
    let may_call = fields
        .value("tool_choice")
        .is_none_or(|choice| choice != "none");
    let tools = tools.into_iter().filter(|_| may_call).map(Value::Object);
    let mut kwargs: Map<String, Value> = fields.get("chat_template_kwargs")?.unwrap_or_default();
    let effort: Option<String> = fields.get("reasoning_effort")?;
    let thinking = match kwargs.remove("enable_thinking") {
        None | Some(Value::Null) => (effort.as_deref() == Some("none")).then_some(false),
        Some(Value::Bool(enabled)) => Some(enabled),
        Some(_) => {
            let message = "`chat_template_kwargs.enable_thinking` must be true or false";
            return Err(ApiError::invalid("chat_template_kwargs", message));
        }
    };
    if let Some(effort) = effort {
        kwargs.entry("reasoning_effort").or_insert(effort.into());
    }
    Ok(ChatRequest {
        messages,
        tools: tools.collect(),
        add_generation_prompt: true,
        enable_thinking: thinking,
        kwargs,
    })
}

fn chat_logprobs(fields: Fields<'_>) -> Result<Option<usize>, ApiError> {
    let wanted: bool = fields.get("logprobs")?.unwrap_or(false);
    match (wanted, fields.get("top_logprobs")?) {
        (true, top) => Ok(Some(top.unwrap_or(0))),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => {
            let message = "`top_logprobs` needs `logprobs` to be true";
            Err(ApiError::invalid("top_logprobs", message))
        }
    }
}

/// A prompt as `/v1/completions` takes it.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Prompts {
    Text(String),
    Ids(Vec<u32>),
    Texts(Vec<String>),
    ManyIds(Vec<Vec<u32>>),
}

fn completion(engine: &EngineHandle, fields: Fields<'_>) -> Result<Call, ApiError> {
    fields.refuse(&REFUSED_IN_COMPLETIONS)?;
    if fields.value("prompt").is_none() {
        return Err(ApiError::missing("prompt"));
    }
    let expected =
        "`prompt` must be a text, a list of texts, a list of token ids or a list of such lists";
    let prompts = fields
        .get("prompt")
        .map_err(|_| ApiError::invalid("prompt", expected))?
        .unwrap_or(Prompts::Texts(Vec::new()));
    let encode = |texts: Vec<String>| -> Result<Vec<_>, ApiError> {
        texts.iter().map(|text| Ok(engine.encode(text)?)).collect()
    };
    let prompts = match prompts {
        Prompts::Text(text) => encode(vec![text])?,
        Prompts::Ids(ids) => vec![ids],
        Prompts::Texts(texts) => encode(texts)?,
        Prompts::ManyIds(prompts) => prompts,
    };
    if prompts.is_empty() || prompts.len() > MAX_PROMPTS {
        let message = format!(
            "`prompt` must be 1 to {MAX_PROMPTS} prompts, found {}",
            prompts.len()
        );
        return Err(ApiError::invalid("prompt", message));
    }
    let mut options = options(engine, fields)?;
    options.max_tokens = Some(fields.get("max_tokens")?.unwrap_or(DEFAULT_MAX_TOKENS));
    options.sampling.logprobs = fields.get("logprobs")?;
    call(fields, prompts, options, Shape::Text)
}

/// What both endpoints have in common.
fn call(
    fields: Fields<'_>,
    prompts: Vec<Vec<u32>>,
    options: GenerateOptions,
    shape: Shape,
) -> Result<Call, ApiError> {
    let n: usize = fields.get("n")?.unwrap_or(1);
    if !(1..=MAX_N).contains(&n) {
        return Err(ApiError::invalid(
            "n",
            format!("`n` must be between 1 and {MAX_N}, found {n}"),
        ));
    }
    let best_of: usize = fields.get("best_of")?.unwrap_or(n);
    if best_of != n {
        let message = "`best_of` is not supported yet unless it equals `n`";
        return Err(ApiError::not_supported("best_of", message));
    }
    let form = Form {
        shape,
        n,
        logprobs: options.sampling.logprobs.is_some(),
        adapter: options.adapter.clone(),
        stop_token_ids: options.stop_token_ids.clone(),
    };
    let request = |prompt: Vec<u32>| Request::new(prompt).with_options(options.clone());
    Ok(Call {
        requests: prompts.into_iter().map(request).collect(),
        n,
        stream: fields.get("stream")?.unwrap_or(false),
        form,
    })
}

/// How the answer is generated; lengths and log-probabilities are the endpoint's affair.
fn options(engine: &EngineHandle, fields: Fields<'_>) -> Result<GenerateOptions, ApiError> {
    let default = GenerateOptions::default();
    Ok(GenerateOptions {
        sampling: sampling(engine.default_sampling().clone(), fields)?,
        min_tokens: fields.get("min_tokens")?.unwrap_or(default.min_tokens),
        stop: fields.texts("stop")?,
        adapter: adapter(engine, fields)?,
        stop_token_ids: fields.get("stop_token_ids")?.unwrap_or_default(),
        ignore_eos: fields.get("ignore_eos")?.unwrap_or(default.ignore_eos),
        skip_special_tokens: fields
            .get("skip_special_tokens")?
            .unwrap_or(default.skip_special_tokens),
        cache_salt: fields.get("cache_salt")?,
        priority: fields.get("priority")?.unwrap_or(default.priority),
        ..default
    })
}

/// The LoRA adapter of the name in `adapter`, or else in `model`, where vLLM's clients say it; any other `model` is the engine's own.
fn adapter(engine: &EngineHandle, fields: Fields<'_>) -> Result<Option<String>, ApiError> {
    let model: Option<String> = fields.get("model")?;
    let adapter = fields.get("adapter")?;
    Ok(adapter.or(model.filter(|name| engine.has_adapter(name))))
}

fn sampling(default: SamplingParams, fields: Fields<'_>) -> Result<SamplingParams, ApiError> {
    let number = |name: &str, default: f32| -> Result<f32, ApiError> {
        Ok(fields.get(name)?.unwrap_or(default))
    };
    // -1 is how vLLM's clients write "no limit".
    let top_k = match fields.value("top_k") {
        Some(value) if *value == -1 => Some(0),
        _ => fields.get("top_k")?,
    };
    Ok(SamplingParams {
        temperature: number("temperature", default.temperature)?,
        top_k: top_k.unwrap_or(default.top_k),
        top_p: number("top_p", default.top_p)?,
        min_p: number("min_p", default.min_p)?,
        typical_p: number("typical_p", default.typical_p)?,
        logit_bias: fields.get("logit_bias")?.unwrap_or(default.logit_bias),
        repetition_penalty: number("repetition_penalty", default.repetition_penalty)?,
        presence_penalty: number("presence_penalty", default.presence_penalty)?,
        frequency_penalty: number("frequency_penalty", default.frequency_penalty)?,
        seed: fields.seed()?.or(default.seed),
        logprobs: None,
    })
}
