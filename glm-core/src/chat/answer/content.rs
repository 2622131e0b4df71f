//! [`Content`]: text in which calls may begin.
//!
//! GLM-4.5 marks a call with `<tool_call>`. ChatGLM3 and GLM-4 do not: a line that is the name of a tool, followed by what begins
//! its arguments, is one. The model ends a turn before the call with `<|assistant|>`, which is seen if special tokens are shown.

use super::held::{Held, Seen};
use super::json_call::JsonCall;
use super::python_call::PythonCall;
use super::sink::Sink;
use super::tagged_call::{CALL, TaggedCall};
use super::tools::Tools;
use super::{ASSISTANT, CallFormat, Rules, State};

/// White space accepted behind a name on its line.
const MAX_BLANKS: usize = 16;
/// What opens a call of ChatGLM3, behind the name.
const TOOL_CALL: &str = "tool_call(";
const FENCE: &str = "```";
/// Longest opening without white space: a fence, a language, `tool_call(`.
const MAX_OPENING: usize = 40;

#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    held: Held,
    /// The beginning of a call, perhaps.
    header: Option<Header>,
    line: Line,
}

/// Where in a line the text stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Line {
    /// At its start, but for white space.
    #[default]
    Start,
    Inside,
    /// Behind a call of ChatGLM3, whose closing fence is no text.
    AfterBlock,
}

impl Content {
    /// The text after a call of ChatGLM3.
    pub(super) fn after_block() -> Self {
        Self {
            line: Line::AfterBlock,
            ..Self::default()
        }
    }

    /// What was held back is text.
    pub(super) fn finish(mut self, sink: &mut Sink) {
        if let Some(header) = &self.header
            && !(self.line == Line::AfterBlock && FENCE.starts_with(header.text.as_str()))
        {
            sink.say(&header.text);
        }
        sink.say(&self.held.take());
    }

    fn say(&mut self, c: char, sink: &mut Sink) {
        sink.say_char(c);
        if c == '\n' && self.line == Line::Inside {
            self.line = Line::Start;
        } else if !c.is_whitespace() {
            self.line = Line::Inside;
        }
    }
}

/// A line that may be the name of a tool, and what follows it.
#[derive(Debug, Clone, Default)]
struct Header {
    /// All of it, from its first visible character.
    text: String,
    /// The name, once its line is over.
    name: Option<String>,
    /// What follows it, without white space.
    opening: String,
}

/// What a header has turned out to be.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Open,
    Call,
    None,
}

impl Header {
    /// One more character.
    fn push(&mut self, c: char, format: CallFormat, tools: &Tools) -> Verdict {
        self.text.push(c);
        if self.name.is_none() {
            if c != '\n' {
                let could = tools.could_be_named(&self.text, MAX_BLANKS);
                return if could { Verdict::Open } else { Verdict::None };
            }
            let name = self.text.trim_end();
            if !tools.has(name) {
                return Verdict::None;
            }
            self.name = Some(name.to_owned());
            return Verdict::Open;
        }
        if c.is_whitespace() {
            return Verdict::Open;
        }
        if format == CallFormat::Json {
            return if c == '{' {
                Verdict::Call
            } else {
                Verdict::None
            };
        }
        self.opening.push(c);
        let fenced = self.opening.strip_prefix(FENCE);
        let call = fenced.unwrap_or(&self.opening);
        let is_word = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if let Some(language) = call.strip_suffix(TOOL_CALL) {
            let is_call = language.is_empty() || fenced.is_some() && is_word(language);
            return if is_call {
                Verdict::Call
            } else {
                Verdict::None
            };
        }
        let may_open = self.opening.len() <= MAX_OPENING
            && (FENCE.starts_with(&self.opening)
                || TOOL_CALL.starts_with(call)
                || fenced.is_some_and(is_word));
        if may_open {
            Verdict::Open
        } else {
            Verdict::None
        }
    }

    /// What is text for sure now that this is no call, and what has to be looked at again: another header may begin in its last line.
    fn give_up(self) -> (String, String) {
        let mut text = self.text;
        match text.rfind('\n') {
            Some(at) => {
                let rest = text.split_off(at + 1);
                (text, rest)
            }
            None => {
                // The last character begins nothing, unless it is a line end or a marker's.
                let last = text.pop().map(String::from).unwrap_or_default();
                (text, last)
            }
        }
    }
}

impl State {
    /// One more character of the text.
    pub(super) fn feed_content(&mut self, c: char, rules: &Rules, sink: &mut Sink) {
        let Self::Content(content) = self else {
            return;
        };
        match rules.format {
            None => content.say(c, sink),
            Some(CallFormat::Tagged { .. }) => match content.held.push(c, &[CALL]) {
                Seen::Nothing => {}
                Seen::Char(c) => content.say(c, sink),
                Seen::Text(text) => sink.say(&text),
                Seen::Marker(_) => *self = Self::Tagged(TaggedCall::default()),
            },
            Some(format) => self.feed_untagged(c, format, rules, sink),
        }
    }

    /// The same where lines begin calls.
    fn feed_untagged(&mut self, c: char, format: CallFormat, rules: &Rules, sink: &mut Sink) {
        let Self::Content(content) = self else {
            return;
        };
        if content.header.is_some() {
            return self.feed_header(c, format, rules, sink);
        }
        match content.held.push(c, &[ASSISTANT]) {
            Seen::Nothing => {}
            // Behind it is a new turn: text, or a call.
            Seen::Marker(_) => content.line = Line::Start,
            Seen::Text(text) => {
                // A name cannot begin with `<`, so none begins here.
                let held = content.held.take();
                text.chars().for_each(|c| content.say(c, sink));
                self.feed_all(&held, rules, sink);
            }
            Seen::Char(c) if content.line != Line::Inside && !c.is_whitespace() => {
                content.header = Some(Header::default());
                self.feed_header(c, format, rules, sink);
            }
            Seen::Char(c) => content.say(c, sink),
        }
    }

    fn feed_header(&mut self, c: char, format: CallFormat, rules: &Rules, sink: &mut Sink) {
        let Self::Content(content) = self else {
            return;
        };
        let Some(mut header) = content.header.take() else {
            return;
        };
        let verdict = header.push(c, format, &rules.tools);
        if content.line == Line::AfterBlock && FENCE.starts_with(&header.text) {
            if header.text == FENCE {
                content.line = Line::Start;
            } else {
                content.header = Some(header);
            }
            return;
        }
        match (verdict, header.name) {
            (Verdict::Call, Some(name)) => {
                sink.start_call(&name);
                *self = match format {
                    CallFormat::Json => Self::Json(JsonCall::default()),
                    _ => Self::Python(PythonCall::new(&name)),
                };
                if format == CallFormat::Json {
                    self.feed(c, rules, sink);
                }
            }
            (Verdict::Open, name) => content.header = Some(Header { name, ..header }),
            (_, name) => {
                let (text, rest) = Header { name, ..header }.give_up();
                text.chars().for_each(|c| content.say(c, sink));
                if text.is_empty() {
                    // Nothing begins with the first character: it must not be tried again.
                    rest.chars().for_each(|c| content.say(c, sink));
                } else {
                    self.feed_all(&rest, rules, sink);
                }
            }
        }
    }
}
