//! Bodies to requests for the engine.

use std::sync::Arc;

use glm_core::chat::{ChatFormat, ChatRequest, Content, Message, prompt_ids_open_think};
use glm_core::tokenizer::SpecialTokens;
use glm_runtime::{
    BeamOptions, EarlyStopping, EngineHandle, GenerateOptions, Request, SamplingParams,
};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::echo::{Echo, Scores};
use super::fields::Fields;
use super::format::Wanted;
use super::known::{CHAT_FIELDS, COMPLETION_FIELDS, ONLY_WITH_BEAMS};
use super::response::{Chat, Dialect, Shape};
use super::tools::Tools;
use super::{ApiError, Endpoint, Form, check_model};
use crate::{anthropic, responses};

/// Most answers to one prompt.
pub const MAX_N: usize = 128;
/// Most prompts of one `/v1/completions`.
pub const MAX_PROMPTS: usize = 2048;

/// OpenAI's default for `/v1/completions`; a chat answer may fill the context.
const DEFAULT_MAX_TOKENS: usize = 16;

/// What a body asks of the engine.
#[derive(Debug, Clone)]
pub struct Call {
    /// The prompts, at least one.
    pub requests: Vec<Request>,
    /// Answers to ask for to each of them; with `best_of` more than the response has.
    pub n: usize,
    /// Whether the answer is wanted as it comes.
    pub stream: bool,
    /// How the response is made of the answers.
    pub form: Form,
}

impl Call {
    /// Reads a body: renders a chat through the checkpoint's template, encodes a prompt. What is not said is the model's own
    /// default ([`EngineHandle::default_sampling`]). If the body has log-probabilities of prompts said again (`echo`), this waits for the
    /// engine to compute them.
    ///
    /// # Errors
    /// [`ApiError`] with status 400 and the field to blame, 404 for a model that is not here. Ranges of sampling parameters and the length of the prompt are
    /// checked when the requests are submitted, and when prompts are scored.
    pub fn read(
        engine: &EngineHandle,
        endpoint: Endpoint,
        body: &Map<String, Value>,
    ) -> Result<Self, ApiError> {
        let mut call = Self::read_unscored(engine, endpoint, body)?;
        for (index, score) in call.begin_scores(engine)?.into_iter().enumerate() {
            call.form.score(index, score.wait()?);
        }
        Ok(call)
    }

    /// As [`Self::read`], and asks nothing of the engine: before the requests are submitted, what [`Self::begin_scores`] says must be waited
    /// for.
    ///
    /// # Errors
    /// As for [`Self::read`].
    pub(crate) fn read_unscored(
        engine: &EngineHandle,
        endpoint: Endpoint,
        body: &Map<String, Value>,
    ) -> Result<Self, ApiError> {
        check_model(engine, body)?;
        let fields = Fields(body);
        match endpoint {
            Endpoint::ChatCompletions => chat(engine, fields),
            Endpoint::Completions => completion(engine, fields),
            Endpoint::Messages => anthropic::read(engine, body),
            Endpoint::Responses => responses::read(engine, body),
        }
    }

    /// Whether it says prompts again with their log-probabilities.
    pub(crate) fn wants_scores(&self) -> bool {
        self.form.echo.is_some() && self.form.logprobs
    }

    /// Has the prompts scored that are said again with log-probabilities, in their order, for [`Form::score`].
    ///
    /// # Errors
    /// A prompt does not fit into the context, or the engine takes nothing; then none of them is scored.
    pub(crate) fn begin_scores(&self, engine: &EngineHandle) -> Result<Scores, ApiError> {
        let mut scores = Scores::new();
        if !self.wants_scores() {
            return Ok(scores);
        }
        for request in &self.requests {
            let options = &request.options;
            let top = options.sampling.logprobs.unwrap_or(0);
            let adapter = options.adapter.as_deref();
            scores.push(engine.begin_prompt_logprobs(&request.prompt, top, adapter)?);
        }
        Ok(scores)
    }
}

fn chat(engine: &EngineHandle, fields: Fields<'_>) -> Result<Call, ApiError> {
    fields.check(CHAT_FIELDS)?;
    let tools = Tools::read(fields)?;
    let request = chat_request(fields, &tools)?;
    let mut options = options(engine, fields)?;
    let format = engine.chat_format()?;
    let calls = format.generation().call_format();
    options.grammar = tools.grammar(engine, calls, Wanted::read(fields)?)?;
    options.max_tokens = match fields.get("max_completion_tokens")? {
        Some(max) => Some(max),
        None => fields.get("max_tokens")?,
    };
    options.max_thinking_tokens = fields.get("thinking_token_budget")?;
    options.sampling.logprobs = chat_logprobs(fields)?;
    options.prediction = prediction(engine, fields)?;
    let tokenizer = engine.tokenizer()?;
    if format.needs_special_tokens(tokenizer, !tools.offered.is_empty()) {
        options.skip_special_tokens = false;
    }
    let goes_on = !request.add_generation_prompt;
    if goes_on {
        check_end(format, &request)?;
    }
    if goes_on && options.grammar.is_some() {
        let message = "an answer that goes on with a message cannot be made to have a form";
        return Err(ApiError::not_supported(CONTINUE, message));
    }
    let prompt = format
        .encode(tokenizer, &request)
        .map_err(|error| ApiError::invalid("messages", error.to_string()))?;
    let opens_think = prompt_ids_open_think(tokenizer, &prompt);
    let mut parser = format.answer_parser(&tools.offered, opens_think);
    if goes_on {
        parser = parser.going_on();
    }
    let shape = Shape::Chat(Chat {
        parser: Box::new(parser),
        names_tool: tools.is_named(),
        include_reasoning: fields.get("include_reasoning")?.unwrap_or(true),
    });
    call(fields, vec![prompt], options, shape)
}

/// What the template is given.
pub(super) fn chat_request(fields: Fields<'_>, tools: &Tools) -> Result<ChatRequest, ApiError> {
    let messages: Vec<Message> = fields.required("messages")?;
    if messages.is_empty() {
        return Err(ApiError::invalid("messages", "`messages` is empty"));
    }
    // Templates leave out in silence what is not text.
    if let Some(kind) = messages.iter().find_map(|m| m.plain_text().err()) {
        let message = format!("content of type `{kind}` is not supported");
        return Err(ApiError::not_supported("messages", message));
    }
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
    let goes_on = fields.get(CONTINUE)?.unwrap_or(false);
    if goes_on {
        check_last(&messages)?;
    }
    Ok(ChatRequest {
        messages,
        tools: tools.offered.clone(),
        add_generation_prompt: !goes_on,
        enable_thinking: thinking,
        kwargs,
    })
}

/// Whether the answer goes on with the last message, which is the beginning of it.
const CONTINUE: &str = "continue_final_message";

/// Refuses to go on with what is not the beginning of an answer.
fn check_last(messages: &[Message]) -> Result<(), ApiError> {
    let last = messages.last().filter(|last| last.role == "assistant");
    let text = last.and_then(|last| last.plain_text().ok());
    let has_calls = last.is_some_and(|last| !last.tool_calls.is_empty());
    match text {
        Some(text) if !has_calls && !text.trim().is_empty() && text == text.trim_end() => Ok(()),
        _ => {
            let message = "to go on with the last message, it must be the assistant's, have a text that does not end with white \
                           space, and no calls of tools";
            Err(ApiError::invalid("messages", message))
        }
    }
}

/// Refuses to go on with a message behind which the template says more.
fn check_end(format: &ChatFormat, request: &ChatRequest) -> Result<(), ApiError> {
    let prompt = format.render(request);
    let prompt = prompt.map_err(|error| ApiError::invalid("messages", error.to_string()))?;
    let last = request.messages.last();
    let text = last.and_then(|last| last.plain_text().ok());
    match prompt.ends_with(&text.unwrap_or_default()) {
        true => Ok(()),
        false => {
            let message =
                "the template of this model ends every message, so none can be gone on with";
            Err(ApiError::not_supported(CONTINUE, message))
        }
    }
}

/// A text that the answer is expected to resemble. It changes when the answer comes and nothing else, and where the engine does not look
/// predictions up not even that.
#[derive(Debug, Deserialize)]
struct Prediction {
    #[serde(rename = "type")]
    kind: String,
    content: Content,
}

/// The token ids of `prediction`, as far as an answer can be long.
fn prediction(engine: &EngineHandle, fields: Fields<'_>) -> Result<Vec<u32>, ApiError> {
    const FIELD: &str = "prediction";
    let Some(prediction) = fields.get::<Prediction>(FIELD)? else {
        return Ok(Vec::new());
    };
    if prediction.kind != "content" {
        let message = format!("`{FIELD}` of type `{}` is not supported", prediction.kind);
        return Err(ApiError::not_supported(FIELD, message));
    }
    if prediction.content == Content::Null {
        let message = "`prediction.content` must be a text or a list of parts";
        return Err(ApiError::invalid(FIELD, message));
    }
    let message = Message {
        content: Some(prediction.content),
        ..Message::default()
    };
    let text = message.plain_text().map_err(|kind| {
        let message = format!("`{FIELD}` with content of type `{kind}` is not supported");
        ApiError::not_supported(FIELD, message)
    })?;
    let ids = engine
        .tokenizer()?
        .encode(&text, SpecialTokens::Plain)
        .map_err(|error| ApiError::invalid(FIELD, error.to_string()))?;
    let most = engine.model_info().max_model_len;
    Ok(ids.into_iter().take(most).collect())
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

/// The token ids of the prompts in a field, at least one; a prompt of none is the engine's to refuse, unless it is an empty text.
pub(super) fn prompts(
    engine: &EngineHandle,
    fields: Fields<'_>,
    field: &'static str,
) -> Result<Vec<Vec<u32>>, ApiError> {
    if fields.value(field).is_none() {
        return Err(ApiError::missing(field));
    }
    let expected = format!(
        "`{field}` must be a text, a list of texts, a list of token ids or a list of such lists"
    );
    let prompts = fields
        .get(field)
        .map_err(|_| ApiError::invalid(field, expected))?
        .unwrap_or(Prompts::Texts(Vec::new()));
    let encode = |texts: Vec<String>| -> Result<Vec<_>, ApiError> {
        texts.iter().map(|text| Ok(engine.encode(text)?)).collect()
    };
    let prompts = match prompts {
        Prompts::Text(text) => encode(vec![text])?,
        Prompts::Ids(ids) if ids.is_empty() => Vec::new(),
        Prompts::Ids(ids) => vec![ids],
        Prompts::Texts(texts) => encode(texts)?,
        Prompts::ManyIds(prompts) => prompts,
    };
    if prompts.is_empty() || prompts.len() > MAX_PROMPTS {
        let message = format!(
            "`{field}` must be 1 to {MAX_PROMPTS} prompts, found {}",
            prompts.len()
        );
        return Err(ApiError::invalid(field, message));
    }
    Ok(prompts)
}

fn completion(engine: &EngineHandle, fields: Fields<'_>) -> Result<Call, ApiError> {
    fields.check(COMPLETION_FIELDS)?;
    let prompts = prompts(engine, fields, "prompt")?;
    let mut options = options(engine, fields)?;
    options.max_tokens = Some(fields.get("max_tokens")?.unwrap_or(DEFAULT_MAX_TOKENS));
    options.sampling.logprobs = fields.get("logprobs")?;
    if let Some(wanted) = Wanted::read(fields)? {
        wanted.check(engine)?;
        options.grammar = Some(wanted.grammar);
    }
    let echo = echo(engine, fields, &prompts, &mut options)?;
    let mut call = call(fields, prompts, options, Shape::Text)?;
    if echo.is_some() && call.stream {
        let message = "prompts are said again in whole responses only: no `stream`";
        return Err(ApiError::not_supported("echo", message));
    }
    call.form.echo = echo.map(Arc::new);
    Ok(call)
}

/// The prompts to say again, if that is asked for. With `max_tokens: 0` they are all that is said.
fn echo(
    engine: &EngineHandle,
    fields: Fields<'_>,
    prompts: &[Vec<u32>],
    options: &mut GenerateOptions,
) -> Result<Option<Echo>, ApiError> {
    if !fields.get("echo")?.unwrap_or(false) {
        return Ok(None);
    }
    let continues = options.max_tokens != Some(0);
    if !continues {
        options.max_tokens = Some(1);
    }
    Echo::of(engine, prompts, options, continues).map(Some)
}

/// What both endpoints have in common.
fn call(
    fields: Fields<'_>,
    prompts: Vec<Vec<u32>>,
    mut options: GenerateOptions,
    shape: Shape,
) -> Result<Call, ApiError> {
    let n = count(fields, "n", 1)?;
    let best_of = count(fields, "best_of", n)?;
    let stream = fields.get("stream")?.unwrap_or(false);
    let include_usage = include_usage(fields, stream)?;
    if best_of < n {
        let message = format!("`best_of` must be at least `n`, {n}, found {best_of}");
        return Err(ApiError::invalid("best_of", message));
    }
    if stream && best_of > n {
        let message = "the best of several answers is known when all are complete: no `stream`";
        return Err(ApiError::invalid("best_of", message));
    }
    let logprobs = options.sampling.logprobs.is_some();
    // A beam search gives its best itself.
    let asked = match &mut options.beams {
        Some(beams) => {
            beams.width = best_of;
            n
        }
        None => best_of,
    };
    if asked > n {
        options.sampling.logprobs.get_or_insert(0);
    }
    let form = Form {
        shape,
        n,
        asked,
        logprobs,
        include_usage,
        adapter: options.adapter.clone(),
        stop_token_ids: options.stop_token_ids.clone(),
        dialect: Dialect::OpenAi,
        echo: None,
    };
    let request = |prompt: Vec<u32>| Request::new(prompt).with_options(options.clone());
    Ok(Call {
        requests: prompts.into_iter().map(request).collect(),
        n: asked,
        stream,
        form,
    })
}

/// `stream_options`.
#[derive(Debug, Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

/// Whether a stream is to end with its usage.
fn include_usage(fields: Fields<'_>, stream: bool) -> Result<bool, ApiError> {
    const FIELD: &str = "stream_options";
    match fields.get::<StreamOptions>(FIELD)? {
        None => Ok(false),
        Some(options) if stream => Ok(options.include_usage.unwrap_or(false)),
        Some(_) => {
            let message = format!("`{FIELD}` needs `stream` to be true");
            Err(ApiError::invalid(FIELD, message))
        }
    }
}

/// A number of answers.
fn count(fields: Fields<'_>, name: &str, default: usize) -> Result<usize, ApiError> {
    let count: usize = fields.get(name)?.unwrap_or(default);
    if (1..=MAX_N).contains(&count) {
        return Ok(count);
    }
    let message = format!("`{name}` must be between 1 and {MAX_N}, found {count}");
    Err(ApiError::invalid(name, message))
}

/// A beam search, if one is asked for. Its width is that of vLLM: `best_of`, or else `n`.
fn beams(fields: Fields<'_>) -> Result<Option<BeamOptions>, ApiError> {
    if !fields.get("use_beam_search")?.unwrap_or(false) {
        fields.check(ONLY_WITH_BEAMS)?;
        return Ok(None);
    }
    let default = BeamOptions::default();
    let early_stopping = match fields.value("early_stopping") {
        None | Some(Value::Bool(false)) => EarlyStopping::Unlikely,
        Some(Value::Bool(true)) => EarlyStopping::Full,
        Some(Value::String(never)) if never == "never" => EarlyStopping::Never,
        Some(_) => {
            let message = "`early_stopping` must be true, false or \"never\"";
            return Err(ApiError::invalid("early_stopping", message));
        }
    };
    Ok(Some(BeamOptions {
        length_penalty: fields
            .get("length_penalty")?
            .unwrap_or(default.length_penalty),
        early_stopping,
        ..default
    }))
}

/// How the answer is generated; lengths and log-probabilities are the endpoint's affair.
fn options(engine: &EngineHandle, fields: Fields<'_>) -> Result<GenerateOptions, ApiError> {
    let default = GenerateOptions::default();
    let beams = beams(fields)?;
    // What a model recommends for drawing tokens does not concern a search.
    let recommended = match beams {
        Some(_) => SamplingParams::greedy(),
        None => engine.default_sampling().clone(),
    };
    Ok(GenerateOptions {
        sampling: sampling(recommended, fields)?,
        beams,
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
pub(super) fn adapter(
    engine: &EngineHandle,
    fields: Fields<'_>,
) -> Result<Option<String>, ApiError> {
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
