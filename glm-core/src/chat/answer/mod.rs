//! Answers taken apart while they stream: what the model thought, what it says, and the tools it calls.
//!
//! The generations write calls in three ways ([`CallFormat`]); an [`AnswerParser`] turns each into the same [`AnswerEvent`]s, with
//! arguments as the JSON text that OpenAI's clients expect. It is a machine over characters, so how a text is cut into pieces cannot
//! matter; it looks at each character a bounded number of times and never waits for more than a marker, a name, or an argument
//! whose type is not known before its end.
//!
//! ```
//! use glm_core::chat::{Answer, ChatFormat, Generation};
//! use serde_json::json;
//!
//! let format = ChatFormat::built_in(Generation::Glm4_0414);
//! let tools = [json!({"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}})];
//! let mut parser = format.answer_parser(&tools, false);
//! let mut answer = Answer::default();
//! for piece in ["weath", "er\n{\"city\": \"Ro", "me\"}"] {
//!     answer.extend(parser.push(piece));
//! }
//! answer.extend(parser.finish());
//! assert_eq!((&*answer.calls[0].name, &*answer.calls[0].arguments), ("weather", r#"{"city": "Rome"}"#));
//! assert!(answer.calls[0].complete && answer.content.is_empty());
//! ```

mod collected;
mod content;
mod held;
mod json_call;
mod json_prefix;
mod python_call;
mod sink;
mod tagged_call;
#[cfg(test)]
mod tests;
mod tools;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

pub use self::collected::{Answer, AnswerCall};
use self::content::Content;
use self::held::{Held, Seen};
use self::json_call::JsonCall;
use self::python_call::PythonCall;
use self::sink::Sink;
use self::tagged_call::TaggedCall;
use self::tools::Tools;
pub use self::tools::is_only_text;

const THINK: &str = "<think>";
const END_THINK: &str = "</think>";
const ASSISTANT: &str = "<|assistant|>";

/// The tokens that a parser looks for, in answers that may call tools in this format.
pub(super) fn markers(calls: Option<CallFormat>) -> impl Iterator<Item = &'static str> {
    let calls: &[&str] = match calls {
        None => &[],
        Some(CallFormat::Tagged { .. }) => &tagged_call::MARKERS,
        Some(_) => &[ASSISTANT],
    };
    [THINK, END_THINK].iter().chain(calls).copied()
}

/// How a generation writes a call of a tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CallFormat {
    /// ChatGLM3: the name on a line, then `tool_call(city='Rome')` in a block of Python.
    Python,
    /// GLM-4, GLM-4-0414, GLM-Z1: the name on a line, then a JSON object.
    Json,
    /// GLM-4.5 and later: `<tool_call>name<arg_key>city</arg_key><arg_value>Rome</arg_value></tool_call>`.
    Tagged {
        /// A line end behind each part but the last (4.5, 4.6), or none (4.7 and later). Both are understood.
        lines: bool,
    },
}

/// A piece of an answer. Pieces of one kind that follow each other are parts of one text.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum AnswerEvent {
    /// More of what the model thinks before it answers.
    Reasoning(String),
    /// More of what it says.
    Content(String),
    /// It calls a tool.
    CallStart {
        /// Number of the call in this answer, from 0.
        index: usize,
        /// The tool's name.
        name: String,
    },
    /// More of a call's arguments.
    CallArguments {
        /// Number of the call.
        index: usize,
        /// A piece of JSON text; all of them together are an object.
        json: String,
    },
    /// The call is complete. One that is cut off by the end of the answer has no such event.
    CallEnd {
        /// Number of the call.
        index: usize,
    },
}

/// Takes one answer apart. Made by [`ChatFormat::answer_parser`](super::ChatFormat::answer_parser).
///
/// White space around a thought, before the text that follows it, and between text and calls belongs to the format and is left out;
/// so are line ends before the first text. All else is in the events, calls that are malformed as text.
#[derive(Debug, Clone)]
pub struct AnswerParser {
    rules: Rules,
    state: State,
    sink: Sink,
}

/// What does not change while an answer is read.
#[derive(Debug, Clone)]
struct Rules {
    /// `None` where calls are text like any other.
    format: Option<CallFormat>,
    tools: Arc<Tools>,
}

#[derive(Debug, Clone)]
enum State {
    /// White space, and perhaps `<think>`; `inside`: the prompt has opened the thought already.
    Start {
        inside: bool,
        held: Held,
    },
    Reasoning(Held),
    Content(Content),
    Json(JsonCall),
    Python(PythonCall),
    Tagged(TaggedCall),
}

impl AnswerParser {
    /// A parser for an answer that may call `tools` (OpenAI tool objects, or the functions in them).
    ///
    /// - `format`: how; `None` if the model cannot. Without tools nothing is a call.
    /// - `opens_think`: the prompt ends inside a thought, see [`prompt_opens_think`](super::prompt_opens_think).
    pub fn new(format: Option<CallFormat>, tools: &[Json], opens_think: bool) -> Self {
        let format = format.filter(|_| !tools.is_empty());
        Self {
            rules: Rules {
                format,
                tools: Arc::new(Tools::new(tools)),
            },
            state: State::Start {
                inside: opens_think,
                held: Held::default(),
            },
            // ChatGLM3's sentencepiece puts a blank before every text.
            sink: Sink::new(format == Some(CallFormat::Python)),
        }
    }

    /// For an answer whose first words are in the prompt: the white space that it goes on with belongs to its text.
    pub fn going_on(mut self) -> Self {
        self.sink.go_on();
        self
    }

    /// Takes more text; returns what is certain by now.
    pub fn push(&mut self, text: &str) -> Vec<AnswerEvent> {
        for c in text.chars() {
            self.state.feed(c, &self.rules, &mut self.sink);
        }
        self.sink.take()
    }

    /// The end of the answer: what could have become a marker is text, and a call that has not ended stays incomplete.
    pub fn finish(mut self) -> Vec<AnswerEvent> {
        match self.state {
            State::Start { inside, mut held } if inside => self.sink.reason(&held.take()),
            State::Start { mut held, .. } => self.sink.say(&held.take()),
            State::Reasoning(mut held) => self.sink.reason(&held.take()),
            State::Content(content) => content.finish(&mut self.sink),
            State::Json(_) => {}
            State::Python(call) => call.finish(&mut self.sink),
            State::Tagged(call) => call.finish(&mut self.sink),
        }
        self.sink.finish()
    }

    /// Takes a whole answer apart.
    pub fn parse(mut self, text: &str) -> Answer {
        let mut answer = Answer::default();
        answer.extend(self.push(text));
        answer.extend(self.finish());
        answer
    }
}

impl State {
    /// One more character. States change in place, and a character that ends one may be the first of the next.
    fn feed(&mut self, c: char, rules: &Rules, sink: &mut Sink) {
        match self {
            Self::Start { held, .. } => match held.push(c, &[THINK]) {
                Seen::Nothing => {}
                Seen::Marker(_) => {
                    sink.forget_blanks();
                    *self = Self::Reasoning(Held::default());
                }
                Seen::Char(c) if c.is_whitespace() => sink.blank(c),
                Seen::Char(c) => self.begin(c.to_string(), rules, sink),
                Seen::Text(text) => self.begin(text, rules, sink),
            },
            Self::Reasoning(held) => match held.push(c, &[END_THINK]) {
                Seen::Nothing => {}
                Seen::Char(c) => sink.reason_char(c),
                Seen::Text(text) => sink.reason(&text),
                Seen::Marker(_) => {
                    sink.end_reasoning();
                    *self = Self::Content(Content::default());
                }
            },
            Self::Content(_) => self.feed_content(c, rules, sink),
            Self::Json(call) => {
                if call.feed(c, sink) {
                    *self = Self::Content(Content::default());
                }
            }
            Self::Python(call) => {
                if call.feed(c, rules, sink) {
                    *self = Self::Content(Content::after_block());
                }
            }
            Self::Tagged(_) => self.feed_tagged(c, rules, sink),
        }
    }

    /// Leaves the start with text that is no `<think>`.
    fn begin(&mut self, mut text: String, rules: &Rules, sink: &mut Sink) {
        let Self::Start { inside, held } = self else {
            return;
        };
        text += &held.take();
        *self = if *inside {
            sink.forget_blanks();
            Self::Reasoning(Held::default())
        } else {
            Self::Content(Content::default())
        };
        self.feed_all(&text, rules, sink);
    }

    fn feed_all(&mut self, text: &str, rules: &Rules, sink: &mut Sink) {
        for c in text.chars() {
            self.feed(c, rules, sink);
        }
    }
}
