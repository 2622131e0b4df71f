//! The calls of GLM-4.5 and later: names and values between tags.
//!
//! A value is text if its parameter's type is a string, JSON otherwise; so the former is passed on as it comes, and the latter when it is
//! complete and known to be JSON of an allowed type. What is not is text after all. Text between the parts of a call, where the
//! format has none, is content of the answer.

use serde::de::IgnoredAny;

use super::content::Content;
use super::held::{Held, Seen};
use super::json_prefix::JsonPrefix;
use super::sink::{Sink, push_escaped, quoted};
use super::tools::{Tools, Types};
use super::{Rules, State};

pub(super) const CALL: &str = "<tool_call>";
const END_CALL: &str = "</tool_call>";
const KEY: &str = "<arg_key>";
const END_KEY: &str = "</arg_key>";
const VALUE: &str = "<arg_value>";
const END_VALUE: &str = "</arg_value>";

pub(super) const MARKERS: [&str; 6] = [CALL, END_CALL, KEY, END_KEY, VALUE, END_VALUE];

/// Longest name of a tool in bytes, white space around it included.
const MAX_NAME: usize = 512;

/// Inside `<tool_call>`.
#[derive(Debug, Clone, Default)]
pub(super) struct TaggedCall {
    place: Place,
    held: Held,
    name: String,
    /// Arguments so far.
    count: usize,
}

#[derive(Debug, Clone, Default)]
enum Place {
    /// In the name.
    #[default]
    Name,
    /// Before a key, or the end.
    Between,
    Key(String),
    /// Before the value of this key.
    Keyed(String),
    /// In a value that is passed on as it comes.
    Text,
    /// In a value that is looked at when it is complete. Its end may stand in one of its own strings, where it is none.
    Typed(String, Types, JsonPrefix),
}

impl State {
    /// One more character of a call.
    pub(super) fn feed_tagged(&mut self, c: char, rules: &Rules, sink: &mut Sink) {
        let Self::Tagged(call) = self else {
            return;
        };
        if !matches!(call.place, Place::Name) {
            if call.feed(c, &rules.tools, sink) {
                *self = Self::Content(Content::default());
            }
            return;
        }
        if c != '<' && (c != '\n' || call.name.trim().is_empty()) && call.name.len() <= MAX_NAME {
            call.name.push(c);
            return;
        }
        let name = call.name.trim();
        if rules.tools.has(name) || is_name(name) {
            sink.start_call(name);
            call.name = name.to_owned();
            call.place = Place::Between;
            self.feed(c, rules, sink);
        } else {
            // Somebody writes about the tag.
            let text = std::mem::take(&mut call.name);
            *self = Self::Content(Content::default());
            sink.say(CALL);
            self.feed_all(&text, rules, sink);
            self.feed(c, rules, sink);
        }
    }
}

/// What may be the name of a tool that was not declared.
fn is_name(text: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || "_-./:".contains(c);
    !text.is_empty() && text.chars().all(is_part)
}

impl TaggedCall {
    /// One more character behind the name; true if it was the last.
    fn feed(&mut self, c: char, tools: &Tools, sink: &mut Sink) -> bool {
        let markers: &[&'static str] = match self.place {
            Place::Name | Place::Between => &[KEY, END_CALL],
            Place::Key(_) => &[END_KEY],
            Place::Keyed(_) => &[VALUE, KEY, END_CALL],
            Place::Text | Place::Typed(..) => &[END_VALUE],
        };
        match self.held.push(c, markers) {
            Seen::Nothing => false,
            Seen::Char(c) => {
                self.text(c.encode_utf8(&mut [0; 4]), sink);
                false
            }
            Seen::Text(text) => {
                self.text(&text, sink);
                false
            }
            Seen::Marker(marker) => self.marker(marker, tools, sink),
        }
    }

    fn text(&mut self, text: &str, sink: &mut Sink) {
        match &mut self.place {
            Place::Key(key) => key.push_str(text),
            Place::Text => {
                let json = sink.arguments();
                text.chars().for_each(|c| push_escaped(json, c));
            }
            Place::Typed(value, _, prefix) => {
                value.push_str(text);
                prefix.push_str(text);
            }
            // Only blanks belong here.
            Place::Name | Place::Between | Place::Keyed(_) => sink.say(text),
        }
    }

    fn marker(&mut self, marker: &str, tools: &Tools, sink: &mut Sink) -> bool {
        match std::mem::take(&mut self.place) {
            Place::Key(key) => {
                self.place = Place::Keyed(key.trim().to_owned());
                return false;
            }
            Place::Keyed(key) => {
                self.write_key(&key, sink);
                if marker == VALUE {
                    let types = tools.types(&self.name, &key);
                    self.place = if types.is_only_string() {
                        sink.arguments().push('"');
                        Place::Text
                    } else {
                        Place::Typed(String::new(), types, JsonPrefix::default())
                    };
                    return false;
                }
                sink.arguments().push_str("null");
            }
            Place::Text => sink.arguments().push('"'),
            Place::Typed(value, types, mut prefix) if prefix.is_inside_string() => {
                prefix.push_str(marker);
                self.place = Place::Typed(value + marker, types, prefix);
                return false;
            }
            Place::Typed(value, types, _) => sink.arguments().push_str(&typed(&value, types)),
            Place::Name | Place::Between => {}
        }
        sink.forget_blanks();
        if marker == END_CALL {
            let end = if self.count == 0 { "{}" } else { "}" };
            sink.arguments().push_str(end);
            sink.end_call();
            return true;
        }
        self.place = if marker == KEY {
            Place::Key(String::new())
        } else {
            Place::Between
        };
        false
    }

    fn write_key(&mut self, key: &str, sink: &mut Sink) {
        let before = if self.count == 0 { "{" } else { ", " };
        self.count += 1;
        let json = sink.arguments();
        json.push_str(before);
        json.push_str(&quoted(key));
        json.push_str(": ");
    }

    /// The end of the answer inside the call: its arguments stay the beginning of an object, without a marker that was cut.
    pub(super) fn finish(self, sink: &mut Sink) {
        match self.place {
            Place::Name => {
                sink.say(CALL);
                sink.say(&self.name);
            }
            Place::Typed(value, ..) => {
                let value = value.trim();
                let is_json =
                    value.starts_with(|c: char| "{[\"-tfn".contains(c) || c.is_ascii_digit());
                let json = if is_json {
                    value.to_owned()
                } else {
                    let mut text = quoted(value);
                    text.pop();
                    text
                };
                if !value.is_empty() {
                    sink.arguments().push_str(&json);
                }
            }
            Place::Between | Place::Key(_) | Place::Keyed(_) | Place::Text => {}
        }
    }
}

/// A complete value as JSON text.
fn typed(value: &str, types: Types) -> String {
    let text = value.trim();
    let json = match text {
        // Models that have read much Python.
        "True" if types.allow(Types::BOOLEAN) && !types.allow(Types::STRING) => "true",
        "False" if types.allow(Types::BOOLEAN) && !types.allow(Types::STRING) => "false",
        "None" if types.allow(Types::NULL) && !types.allow(Types::STRING) => "null",
        _ => text,
    };
    let kind = match json.as_bytes().first() {
        Some(b'{') => Types::OBJECT,
        Some(b'[') => Types::ARRAY,
        Some(b'"') => Types::STRING,
        Some(b't' | b'f') => Types::BOOLEAN,
        Some(b'n') => Types::NULL,
        _ => Types::NUMBER,
    };
    let is_json = serde_json::from_str::<IgnoredAny>(json).is_ok();
    // Where no text is allowed either, JSON of another type says more than its text.
    if is_json && (types.allow(kind) || !types.allow(Types::STRING)) {
        json.to_owned()
    } else {
        quoted(value)
    }
}
