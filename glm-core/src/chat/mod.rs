//! Chats to prompts.
//!
//! A checkpoint says how a chat is written for its model, usually as a Jinja template; those that do not say get the built-in format
//! of their [`Generation`]. [`ChatFormat::render`] gives the text that transformers' `apply_chat_template` gives, byte for byte, and
//! [`ChatFormat::encode`] the ids.

mod answer;
mod capabilities;
mod chatglm;
mod complexity;
mod error;
mod generation;
mod guard;
mod message;
mod methods;
mod python;
mod strftime;
mod template;

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value as Json};

pub use self::answer::{Answer, AnswerCall, AnswerEvent, AnswerParser, CallFormat, is_only_text};
pub use self::error::TemplateError;
pub use self::generation::{Generation, GenerationHints};
pub use self::message::{ChatRequest, Content, FunctionCall, Message, ToolCall};

use self::capabilities::Capabilities;
use self::template::Templates;
use crate::tokenizer::{SpecialTokens, Tokenizer};

const GLM4_TEMPLATE: &str = include_str!("templates/glm4.jinja");
const GLM_Z1_TEMPLATE: &str = include_str!("templates/glm_z1.jinja");

/// How a checkpoint's model wants a chat written. Cheap to clone; can be shared between threads.
///
/// ```
/// use glm_core::chat::{ChatFormat, ChatRequest, Generation, Message};
/// let format = ChatFormat::built_in(Generation::Glm4_0414);
/// let request = ChatRequest::new(vec![Message::user("你好")]);
/// assert_eq!(format.render(&request)?, "[gMASK]<sop><|user|>\n你好<|assistant|>");
/// # Ok::<(), glm_core::chat::TemplateError>(())
/// ```
#[derive(Debug, Clone)]
pub struct ChatFormat {
    kind: Kind,
    generation: Generation,
    is_built_in: bool,
}

#[derive(Debug, Clone)]
enum Kind {
    Jinja(Arc<Jinja>),
    /// ChatGLM2 and ChatGLM3.
    Tokens,
}

#[derive(Debug)]
struct Jinja {
    templates: Templates,
    capabilities: Capabilities,
}

impl Kind {
    fn jinja(templates: Templates) -> Self {
        let capabilities = Capabilities::probe(&templates);
        Self::Jinja(Arc::new(Jinja {
            templates,
            capabilities,
        }))
    }
}

impl ChatFormat {
    /// The format of a checkpoint: its own template, or the built-in one of its generation.
    ///
    /// - `template`: text of `chat_template.jinja`, or of a GGUF's `tokenizer.chat_template`;
    /// - `tokenizer_config`: text of `tokenizer_config.json`, whose `chat_template` (a string, or a list with `default` and `tool_use`)
    ///   counts if `template` is absent, and whose `bos_token` and so on templates may use;
    /// - `hints.template` is filled in here. `file` is named in errors.
    ///
    /// ChatGLM2 and ChatGLM3 put chats together from tokens, which no template can; theirs is ignored.
    ///
    /// # Errors
    /// [`TemplateError::Json`] and [`TemplateError::Syntax`].
    pub fn from_checkpoint(
        template: Option<&str>,
        tokenizer_config: Option<&str>,
        hints: GenerationHints<'_>,
        file: &Path,
    ) -> Result<Self, TemplateError> {
        let config = parse_config(tokenizer_config, file)?;
        let (named, tool_use) = config_templates(&config, file)?;
        let source = template.or(named);
        let generation = Generation::detect(GenerationHints {
            template: source,
            ..hints
        });
        let source = match source {
            Some(source) if !hints.sentencepiece => source,
            _ => return Ok(Self::built_in(generation)),
        };
        let mut templates = Templates::new(source, special_tokens(&config), file)?;
        if let (None, Some(tool_use)) = (template, tool_use) {
            templates = templates.with_tool_use(tool_use)?;
        }
        Ok(Self {
            kind: Kind::jinja(templates),
            generation,
            is_built_in: false,
        })
    }

    /// The format of a single Jinja template.
    ///
    /// # Errors
    /// [`TemplateError::Syntax`].
    ///
    /// ```
    /// use glm_core::chat::{ChatFormat, ChatRequest, Message};
    /// let source = "{% for m in messages %}<|{{ m.role }}|>{{ m.content | tojson }}{% endfor %}";
    /// let format = ChatFormat::from_template(source, "chat_template.jinja".as_ref())?;
    /// assert_eq!(format.render(&ChatRequest::new(vec![Message::user("<b>")]))?, r#"<|user|>"<b>""#);
    /// # Ok::<(), glm_core::chat::TemplateError>(())
    /// ```
    pub fn from_template(source: &str, file: &Path) -> Result<Self, TemplateError> {
        Self::from_checkpoint(Some(source), None, GenerationHints::default(), file)
    }

    /// The built-in format of a generation, for checkpoints that carry no template. Generations that came with one always (GLM-4.1V,
    /// GLM-4.5 and later) get the text format of GLM-4.
    pub fn built_in(generation: Generation) -> Self {
        let source = match generation {
            Generation::ChatGlm2 | Generation::ChatGlm3 => {
                return Self {
                    kind: Kind::Tokens,
                    generation,
                    is_built_in: true,
                };
            }
            Generation::GlmZ1 => GLM_Z1_TEMPLATE,
            _ => GLM4_TEMPLATE,
        };
        let templates = Templates::new(source, Map::new(), Path::new("built-in template"))
            .expect("built-in templates compile: tested");
        Self {
            kind: Kind::jinja(templates),
            generation,
            is_built_in: true,
        }
    }

    /// The generation whose habits (stop tokens, thinking) this checkpoint has.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Whether the checkpoint carried no template of its own.
    pub fn is_built_in(&self) -> bool {
        self.is_built_in
    }

    /// Text of the Jinja template; `None` for ChatGLM2 and ChatGLM3.
    pub fn template_source(&self) -> Option<&str> {
        match &self.kind {
            Kind::Jinja(jinja) => Some(jinja.templates.source()),
            Kind::Tokens => None,
        }
    }

    /// The prompt as text. For ChatGLM2 and ChatGLM3 it is for people to read: the blanks that belong to tokens are written out.
    ///
    /// # Errors
    /// [`TemplateError`] if the template fails on this chat, refuses it, or does not end.
    pub fn render(&self, request: &ChatRequest) -> Result<String, TemplateError> {
        match &self.kind {
            Kind::Tokens => Ok(chatglm::to_text(&self.pieces(request)?)),
            Kind::Jinja(jinja) => {
                let messages = template_messages(jinja.capabilities, &request.messages)?;
                jinja
                    .templates
                    .render(&messages, &request.tools, &variables(request))
            }
        }
    }

    /// The prompt as ids. Special tokens come from the template and the assistant's own turns; those in what users, systems and tools
    /// wrote are encoded as text. (To have them recognised, encode [`render`](Self::render)'s text.)
    ///
    /// # Errors
    /// As [`render`](Self::render), and [`TemplateError::Tokenizer`] if the vocabulary lacks a token of the format.
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        request: &ChatRequest,
    ) -> Result<Vec<u32>, TemplateError> {
        let jinja = match &self.kind {
            Kind::Tokens => return Ok(chatglm::encode(tokenizer, &self.pieces(request)?)?),
            Kind::Jinja(jinja) => jinja,
        };
        let mut messages = template_messages(jinja.capabilities, &request.messages)?;
        let mut tools = request.tools.clone();
        let needs_guard = guard::mark(tokenizer, &mut messages, &mut tools);
        let prompt = jinja
            .templates
            .render(&messages, &tools, &variables(request))?;
        if !needs_guard {
            return Ok(tokenizer.encode(&prompt, SpecialTokens::Parse)?);
        }
        let (prompt, guarded) = guard::unmark(&prompt);
        Ok(tokenizer.encode_guarded(&prompt, &guarded)?)
    }

    /// Ids of the tokens that end an answer in this format, as far as the tokenizer has them; the checkpoint's `eos_token_id` come on top.
    pub fn stop_token_ids(&self, tokenizer: &Tokenizer) -> Vec<u32> {
        self.generation
            .stop_tokens()
            .iter()
            .filter_map(|token| tokenizer.token_to_id(token))
            .collect()
    }

    /// A parser for the answer to a prompt that offers `tools`, as OpenAI has them; `opens_think`: see [`prompt_opens_think`].
    pub fn answer_parser(&self, tools: &[Json], opens_think: bool) -> AnswerParser {
        AnswerParser::new(self.generation.call_format(), tools, opens_think)
    }

    /// Whether the text of an answer has to show special tokens, so that the parser sees all it needs: the marks of thoughts, and
    /// with tools those of calls.
    pub fn needs_special_tokens(&self, tokenizer: &Tokenizer, with_tools: bool) -> bool {
        let calls = self.generation.call_format().filter(|_| with_tools);
        let mut markers = answer::markers(calls);
        markers.any(|marker| {
            let id = tokenizer.token_to_id(marker);
            id.is_some_and(|id| tokenizer.is_special(id))
        })
    }

    fn pieces(&self, request: &ChatRequest) -> Result<Vec<chatglm::Piece>, TemplateError> {
        match self.generation {
            Generation::ChatGlm2 => chatglm::chatglm2(request),
            _ => chatglm::chatglm3(request),
        }
    }
}

/// Whether a rendered prompt ends inside a think block, so that the answer begins in the middle of a thought.
///
/// ```
/// use glm_core::chat::prompt_opens_think;
/// assert!(prompt_opens_think("<|user|>Hi<|assistant|>\n<think>"));
/// assert!(!prompt_opens_think("<|user|>Hi<|assistant|>\n<think></think>"));
/// ```
pub fn prompt_opens_think(prompt: &str) -> bool {
    prompt.trim_end().ends_with("<think>")
}

/// The same of a prompt's ids.
pub fn prompt_ids_open_think(tokenizer: &Tokenizer, prompt: &[u32]) -> bool {
    /// Enough tokens to spell `<think>` and the white space behind it.
    const TAIL: usize = 16;
    let tail = &prompt[prompt.len().saturating_sub(TAIL)..];
    prompt_opens_think(&tokenizer.decode(tail, false))
}

fn parse_config(json: Option<&str>, file: &Path) -> Result<Json, TemplateError> {
    let Some(json) = json else {
        return Ok(Json::Null);
    };
    let config = serde_json::from_str(json).map_err(|source| config_error(source, file))?;
    match config {
        Json::Object(_) => Ok(config),
        _ => Err(config_error(
            serde::de::Error::custom("expected an object"),
            file,
        )),
    }
}

fn config_error(source: serde_json::Error, file: &Path) -> TemplateError {
    let file = file.with_file_name("tokenizer_config.json");
    TemplateError::Json { file, source }
}

/// The `default` and `tool_use` templates of `tokenizer_config.json`.
fn config_templates<'a>(
    config: &'a Json,
    file: &Path,
) -> Result<(Option<&'a str>, Option<&'a str>), TemplateError> {
    let list = match &config["chat_template"] {
        Json::Null => return Ok((None, None)),
        Json::String(template) => return Ok((Some(template), None)),
        Json::Array(list) => list,
        _ => {
            let wrong = "`chat_template` must be a text or a list of named texts";
            return Err(config_error(serde::de::Error::custom(wrong), file));
        }
    };
    let named = |name: &str| {
        list.iter()
            .find(|entry| entry["name"] == name)
            .and_then(|entry| entry["template"].as_str())
    };
    Ok((named("default"), named("tool_use")))
}

/// `bos_token`, `eos_token` and the like: a string, or an object with the text in `content`.
fn special_tokens(config: &Json) -> Map<String, Json> {
    let Some(entries) = config.as_object() else {
        return Map::new();
    };
    let text = |value: &Json| {
        value
            .as_str()
            .or_else(|| value["content"].as_str())
            .map(Json::from)
    };
    let tokens = entries.iter().filter(|(key, _)| key.ends_with("_token"));
    tokens
        .filter_map(|(key, value)| Some((key.clone(), text(value)?)))
        .collect()
}

/// The variables of a request besides messages and tools.
fn variables(request: &ChatRequest) -> Map<String, Json> {
    let mut variables = request.kwargs.clone();
    variables.insert(
        "add_generation_prompt".into(),
        request.add_generation_prompt.into(),
    );
    if let Some(enable_thinking) = request.enable_thinking {
        variables.insert("enable_thinking".into(), enable_thinking.into());
    }
    variables
}

/// The messages in the words of a template.
///
/// Where it does not know them, text parts are joined, a tool's answer is an `observation`, and a call is an assistant turn with the
/// function's name as its metadata, which is how GLM-4 was trained.
fn template_messages(
    capabilities: Capabilities,
    messages: &[Message],
) -> Result<Vec<Json>, TemplateError> {
    let mut rendered = Vec::with_capacity(messages.len());
    for (index, message) in messages.iter().enumerate() {
        let mut message = message.clone();
        if !capabilities.parts && matches!(message.content, Some(Content::Parts(_))) {
            let text = message
                .plain_text()
                .map_err(|kind| TemplateError::Content { index, kind })?;
            message.content = Some(Content::Text(text));
        }
        if !capabilities.tools && message.role == "tool" {
            message.role = "observation".into();
        }
        let calls = if capabilities.tools {
            Vec::new()
        } else {
            std::mem::take(&mut message.tool_calls)
        };
        let says_something = !matches!(&message.content, None | Some(Content::Null))
            && message.content != Some(Content::Text(String::new()));
        if calls.is_empty() || says_something {
            rendered.push(message.to_template_value());
        }
        for call in calls {
            let call = Message {
                metadata: Some(call.name().to_owned()),
                ..Message::text("assistant", call.arguments_text())
            };
            rendered.push(call.to_template_value());
        }
    }
    Ok(rendered)
}
