//! Answers as they come: events of the engine to the chunks of a stream.

use glm_core::chat::{AnswerEvent, AnswerParser};
use glm_runtime::{
    EngineError, EngineHandle, Event, FinishReason, Finished, Token, Tokenizer, Usage,
};
use serde_json::{Value, json};

use super::ApiError;
use super::response::{Dialect, Form, Shape, Stamp, call_id};
use crate::anthropic::MessageEvents;
use crate::parts::has_thoughts;
use crate::responses::ResponseEvents;

/// Makes the chunks of one response. Put together (text after text, arguments after arguments) they say what [`Form::response`]
/// says of the same answers.
#[derive(Debug)]
pub struct Chunks(Voice);

/// A stream in its dialect.
#[derive(Debug)]
enum Voice {
    OpenAi(Box<OpenAi>),
    Messages(Box<MessageEvents>),
    Response(Box<ResponseEvents>),
}

impl Chunks {
    /// Nothing yet of `num_answers` answers: those to the first prompt, then to the second, and so on.
    pub fn new(engine: &EngineHandle, form: Form, stamp: Stamp, num_answers: usize) -> Self {
        Self(match form.dialect.clone() {
            Dialect::OpenAi => {
                Voice::OpenAi(Box::new(OpenAi::new(engine, form, stamp, num_answers)))
            }
            Dialect::Messages(message) => {
                Voice::Messages(Box::new(MessageEvents::new(message, form, engine, stamp)))
            }
            Dialect::Response(response) => Voice::Response(Box::new(ResponseEvents::new(
                *response, form, engine, stamp,
            ))),
        })
    }

    /// The chunks that come before any answer.
    pub fn begin(&mut self) -> Vec<Value> {
        match &mut self.0 {
            Voice::OpenAi(chunks) => chunks.begin(),
            Voice::Messages(events) => events.begin(),
            Voice::Response(events) => events.begin(),
        }
    }

    /// The chunks that the next event of an answer adds, if it adds something.
    ///
    /// # Errors
    /// The error of [`Event::Failed`]: the stream ends with it, see [`Self::fail`].
    ///
    /// # Panics
    /// If there is no answer of this number.
    pub fn push(&mut self, answer: usize, event: Event) -> Result<Vec<Value>, EngineError> {
        match &mut self.0 {
            Voice::OpenAi(chunks) => chunks.push(answer, event),
            Voice::Messages(events) => events.push(event),
            Voice::Response(events) => events.push(event),
        }
    }

    /// The last chunks: the usage, for one, if it was asked for. To be called when all answers have ended.
    pub fn finish(&mut self) -> Vec<Value> {
        match &self.0 {
            Voice::OpenAi(chunks) => chunks.finish().into_iter().collect(),
            Voice::Messages(_) | Voice::Response(_) => Vec::new(),
        }
    }

    /// The last chunks of a stream that ends with an error.
    pub fn fail(&mut self, error: &ApiError) -> Vec<Value> {
        match &mut self.0 {
            Voice::OpenAi(_) => vec![error.body()],
            Voice::Messages(_) => vec![MessageEvents::fail(error)],
            Voice::Response(events) => events.fail(error),
        }
    }

    /// Whether chunks are events with a name, which is their `type`. Else they have none, and `[DONE]` follows the last.
    pub fn has_names(&self) -> bool {
        !matches!(self.0, Voice::OpenAi(_))
    }

    /// What to send while nothing else comes, if clients expect more than a comment.
    pub fn ping(&self) -> Option<Value> {
        matches!(self.0, Voice::Messages(_)).then(|| json!({"type": "ping"}))
    }
}

/// The chunks of chat completions and completions.
#[derive(Debug)]
struct OpenAi {
    engine: EngineHandle,
    form: Form,
    stamp: Stamp,
    choices: Vec<Choice>,
}

/// An answer, as far as it has come.
#[derive(Debug)]
struct Choice {
    index: usize,
    /// Takes the answer to a chat apart.
    parser: Option<AnswerParser>,
    /// It calls a tool.
    calls: bool,
    /// Tokens whose log-probabilities are in no chunk yet.
    unsaid: Vec<Token>,
    /// Characters of text before them.
    offset: usize,
    /// Tokens so far, and those up to the last one of the thoughts.
    tokens: usize,
    thought_tokens: usize,
    usage: Usage,
}

/// What a chunk adds to a choice: a field and its value.
type Delta = (&'static str, Value);

/// What an event adds to a choice; all but the deltas goes with the last of these.
struct Said {
    deltas: Vec<Delta>,
    logprobs: Option<Value>,
    finish_reason: Option<&'static str>,
}

impl OpenAi {
    fn new(engine: &EngineHandle, form: Form, stamp: Stamp, num_answers: usize) -> Self {
        let choice = |index| Choice {
            index,
            parser: match &form.shape {
                Shape::Chat(chat) => Some(AnswerParser::clone(&chat.parser)),
                Shape::Text => None,
            },
            calls: false,
            unsaid: Vec::new(),
            offset: 0,
            tokens: 0,
            thought_tokens: 0,
            usage: Usage::default(),
        };
        Self {
            engine: engine.clone(),
            choices: (0..num_answers).map(choice).collect(),
            form,
            stamp,
        }
    }

    /// Who speaks, for each answer to a chat.
    fn begin(&self) -> Vec<Value> {
        let chats = self.choices.iter().filter(|choice| choice.parser.is_some());
        chats
            .map(|choice| {
                let role = json!({"role": "assistant", "content": ""});
                self.piece(choice.index, ("delta", role), None, None)
            })
            .collect()
    }

    fn push(&mut self, answer: usize, event: Event) -> Result<Vec<Value>, EngineError> {
        let said = match event {
            Event::Failed(error) => return Err(error),
            Event::Token(token) => self.token(answer, token),
            Event::Finished(finished) => self.end(answer, &finished),
        };
        let mut deltas = said.deltas;
        let last = deltas.pop();
        let others = deltas.into_iter();
        let mut chunks: Vec<_> = others
            .map(|delta| self.piece(answer, delta, None, None))
            .collect();
        chunks
            .extend(last.map(|delta| self.piece(answer, delta, said.logprobs, said.finish_reason)));
        Ok(chunks)
    }

    fn token(&mut self, answer: usize, token: Token) -> Said {
        let Self { form, stamp, .. } = self;
        let tokenizer = self.engine.tokenizer().ok();
        let choice = &mut self.choices[answer];
        let deltas = choice.text(&token.text, form, stamp);
        let mut sayable = Vec::new();
        if form.logprobs {
            choice.unsaid.push(token);
            // With a chunk that says something, and without what may turn out to be the end.
            if !deltas.is_empty() {
                let end = choice.unsaid.pop_if(|t| form.is_end(t.id, tokenizer));
                sayable = std::mem::replace(&mut choice.unsaid, end.into_iter().collect());
            }
        }
        Said {
            deltas,
            logprobs: choice.logprobs(&sayable, form, tokenizer),
            finish_reason: None,
        }
    }

    fn end(&mut self, answer: usize, finished: &Finished) -> Said {
        let Self { form, stamp, .. } = self;
        let tokenizer = self.engine.tokenizer().ok();
        let choice = &mut self.choices[answer];
        let mut deltas = choice.end(form, stamp);
        deltas.push(match form.shape {
            Shape::Chat(_) => ("delta", json!({})),
            Shape::Text => ("text", json!("")),
        });
        if finished.reason == FinishReason::Stop {
            choice.unsaid.pop_if(|t| form.is_end(t.id, tokenizer));
        }
        let sayable = std::mem::take(&mut choice.unsaid);
        choice.usage = finished.usage;
        Said {
            deltas,
            logprobs: choice.logprobs(&sayable, form, tokenizer),
            finish_reason: Some(form.finish_reason(finished.reason, choice.calls)),
        }
    }

    /// The usage, if it was asked for.
    fn finish(&self) -> Option<Value> {
        if !self.form.include_usage {
            return None;
        }
        let usages: Vec<_> = self.choices.iter().map(|choice| choice.usage).collect();
        let thought_tokens = self.choices.iter().map(|choice| choice.thought_tokens);
        let mut chunk = self.chunk(json!([]));
        chunk["usage"] = self.form.usage(&usages, thought_tokens.sum());
        Some(chunk)
    }

    /// A chunk of one answer.
    fn piece(
        &self,
        answer: usize,
        (field, delta): Delta,
        logprobs: Option<Value>,
        finish_reason: Option<&str>,
    ) -> Value {
        self.chunk(json!([{
            "index": answer,
            field: delta,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }]))
    }

    fn chunk(&self, choices: Value) -> Value {
        let object = match self.form.shape {
            Shape::Chat(_) => "chat.completion.chunk",
            Shape::Text => "text_completion",
        };
        let mut chunk = json!({
            "id": self.form.id(&self.stamp),
            "object": object,
            "created": self.stamp.created,
            "model": self.form.model(&self.engine),
            "system_fingerprint": null,
            "choices": choices,
        });
        if self.form.include_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }
}

impl Choice {
    /// The log-probabilities of the next tokens of the text.
    fn logprobs(
        &mut self,
        tokens: &[Token],
        form: &Form,
        tokenizer: Option<&Tokenizer>,
    ) -> Option<Value> {
        let offset = self.offset;
        let chars = tokens.iter().map(|token| token.text.chars().count());
        self.offset += chars.sum::<usize>();
        (!tokens.is_empty()).then(|| form.logprobs(tokens, offset, tokenizer))
    }

    /// What the text of one more token says.
    fn text(&mut self, text: &str, form: &Form, stamp: &Stamp) -> Vec<Delta> {
        self.tokens += 1;
        match &mut self.parser {
            None if text.is_empty() => Vec::new(),
            None => vec![("text", text.into())],
            Some(parser) => {
                let events = parser.push(text);
                if has_thoughts(&events) {
                    self.thought_tokens = self.tokens;
                }
                self.deltas(events, form, stamp)
            }
        }
    }

    /// What was held back until the end.
    fn end(&mut self, form: &Form, stamp: &Stamp) -> Vec<Delta> {
        match self.parser.take() {
            None => Vec::new(),
            Some(parser) => self.deltas(parser.finish(), form, stamp),
        }
    }

    fn deltas(&mut self, events: Vec<AnswerEvent>, form: &Form, stamp: &Stamp) -> Vec<Delta> {
        let include_reasoning = match &form.shape {
            Shape::Chat(chat) => chat.include_reasoning,
            Shape::Text => false,
        };
        let delta = |event| match event {
            AnswerEvent::Reasoning(_) if !include_reasoning => None,
            AnswerEvent::Reasoning(text) => Some(json!({"reasoning_content": text})),
            AnswerEvent::Content(text) => Some(json!({"content": text})),
            AnswerEvent::CallStart { index, name } => {
                self.calls = true;
                Some(json!({"tool_calls": [{
                    "index": index,
                    "id": call_id(stamp, self.index, index),
                    "type": "function",
                    "function": {"name": name, "arguments": ""},
                }]}))
            }
            AnswerEvent::CallArguments { index, json } => Some(json!({"tool_calls": [{
                "index": index,
                "function": {"arguments": json},
            }]})),
            // That a call has ended shows in what follows it.
            _ => None,
        };
        let deltas = events.into_iter().filter_map(delta);
        deltas.map(|delta| ("delta", delta)).collect()
    }
}
