//! The arguments of ChatGLM3's calls: those of a Python function, turned into JSON as they come.
//!
//! `city='Rome', days=[1, 2,], fresh=True)` becomes `{"city": "Rome", "days": [1, 2], "fresh": true}`. JSON's own `true`, `false` and `null` are
//! understood as well. What is no literal is passed on as text.

use super::Rules;
use super::sink::{Sink, push_escaped, quoted};
use super::tools::Tools;

/// Behind `tool_call(`.
#[derive(Debug, Clone)]
pub(super) struct PythonCall {
    name: String,
    /// Brackets that are open inside the arguments.
    open: Vec<Bracket>,
    token: Token,
    /// Arguments so far.
    count: usize,
    /// What comes next is written after a comma.
    comma: bool,
    /// Before the value of an argument, or in it.
    in_value: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bracket {
    List,
    /// `true` until the colon.
    Dict(bool),
}

/// What the characters are a part of.
#[derive(Debug, Clone, Default)]
enum Token {
    #[default]
    None,
    /// A name, number or keyword.
    Word(String),
    Text {
        quote: char,
        escape: Option<Escape>,
    },
}

/// Behind a backslash.
#[derive(Debug, Clone, Default)]
struct Escape {
    digits: String,
    /// How many there have to be; 0 before the letter that says so.
    len: usize,
}

impl PythonCall {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            open: Vec::new(),
            token: Token::None,
            count: 0,
            comma: false,
            in_value: false,
        }
    }

    /// One more character; true if it was the closing parenthesis.
    pub(super) fn feed(&mut self, c: char, rules: &Rules, sink: &mut Sink) -> bool {
        match std::mem::take(&mut self.token) {
            Token::Text { quote, escape } => {
                self.feed_text(c, quote, escape, sink);
                return false;
            }
            Token::Word(mut word) => {
                let is_word = !c.is_whitespace() && !",:=()[]{}\"'".contains(c);
                if is_word {
                    word.push(c);
                    self.token = Token::Word(word);
                    return false;
                }
                if c == '=' && self.open.is_empty() && !self.in_value {
                    self.begin_argument(&word, sink);
                    return false;
                }
                if c.is_whitespace() && self.open.is_empty() && !self.in_value {
                    // Perhaps a blank before `=`.
                    self.token = Token::Word(word);
                    return false;
                }
                self.begin_value(&rules.tools, sink);
                let is_key = self.open.last() == Some(&Bracket::Dict(true));
                sink.arguments().push_str(&literal(&word, is_key));
            }
            Token::None => {}
        }
        self.feed_between(c, rules, sink)
    }

    /// A character outside of words and texts.
    fn feed_between(&mut self, c: char, rules: &Rules, sink: &mut Sink) -> bool {
        match c {
            _ if c.is_whitespace() => {}
            '\'' | '"' => {
                self.begin_value(&rules.tools, sink);
                sink.arguments().push('"');
                let (quote, escape) = (c, None);
                self.token = Token::Text { quote, escape };
            }
            '(' | '[' | '{' => {
                self.begin_value(&rules.tools, sink);
                let is_dict = c == '{';
                sink.arguments().push(if is_dict { '{' } else { '[' });
                self.open.push(if is_dict {
                    Bracket::Dict(true)
                } else {
                    Bracket::List
                });
            }
            ')' | ']' | '}' => return self.close(sink),
            ',' if self.open.is_empty() => (self.comma, self.in_value) = (self.count > 0, false),
            ',' => {
                self.comma = true;
                if let Some(Bracket::Dict(is_key)) = self.open.last_mut() {
                    *is_key = true;
                }
            }
            ':' => {
                if let Some(Bracket::Dict(is_key)) = self.open.last_mut() {
                    *is_key = false;
                    sink.arguments().push_str(": ");
                }
            }
            _ => self.token = Token::Word(c.to_string()),
        }
        false
    }

    /// A closing bracket of any kind ends what was opened last.
    fn close(&mut self, sink: &mut Sink) -> bool {
        self.comma = false;
        if let Some(bracket) = self.open.pop() {
            let is_list = bracket == Bracket::List;
            sink.arguments().push(if is_list { ']' } else { '}' });
            return false;
        }
        let end = if self.count == 0 { "{}" } else { "}" };
        sink.arguments().push_str(end);
        sink.end_call();
        true
    }

    /// `name=`
    fn begin_argument(&mut self, name: &str, sink: &mut Sink) {
        let before = if self.count == 0 { "{" } else { ", " };
        let key = quoted(name.trim());
        let json = sink.arguments();
        json.push_str(before);
        json.push_str(&key);
        json.push_str(": ");
        self.count += 1;
        (self.comma, self.in_value) = (false, true);
    }

    /// A value begins, or a key in a dictionary. One that stands where an argument's name should gets the name of the parameter in its
    /// place.
    fn begin_value(&mut self, tools: &Tools, sink: &mut Sink) {
        if self.open.is_empty() && !self.in_value {
            let parameter = tools.parameter(&self.name, self.count);
            let name = parameter.map_or_else(|| self.count.to_string(), str::to_owned);
            self.begin_argument(&name, sink);
        } else if std::mem::take(&mut self.comma) {
            sink.arguments().push_str(", ");
        }
    }

    /// A character of a text in quotes.
    fn feed_text(&mut self, c: char, quote: char, escape: Option<Escape>, sink: &mut Sink) {
        let escape = match escape {
            Some(escape) => escape.feed(c, sink.arguments()),
            None if c == quote => {
                sink.arguments().push('"');
                return;
            }
            None if c == '\\' => Some(Escape::default()),
            None => {
                push_escaped(sink.arguments(), c);
                None
            }
        };
        self.token = Token::Text { quote, escape };
    }

    /// The end of the answer inside the call: what has begun stays unfinished.
    pub(super) fn finish(self, sink: &mut Sink) {
        if let Token::Word(word) = self.token
            && self.in_value
        {
            let comma = if self.comma { ", " } else { "" };
            let json = sink.arguments();
            json.push_str(comma);
            json.push_str(&word);
        }
    }
}

/// A word as JSON; keys are texts.
fn literal(word: &str, is_key: bool) -> String {
    let json = match word {
        "True" => "true",
        "False" => "false",
        "None" => "null",
        _ => word,
    };
    let is_json = serde_json::from_str::<serde::de::IgnoredAny>(json).is_ok();
    if is_json && !is_key {
        json.to_owned()
    } else {
        quoted(word)
    }
}

impl Escape {
    /// One more character behind the backslash; `None` when the escape is complete.
    fn feed(mut self, c: char, json: &mut String) -> Option<Self> {
        if self.len > 0 {
            if c.is_ascii_hexdigit() {
                self.digits.push(c);
                return if self.digits.len() < self.len {
                    Some(self)
                } else {
                    self.write(json);
                    None
                };
            }
            // No escape of Python.
            self.digits.chars().for_each(|c| push_escaped(json, c));
            push_escaped(json, c);
            return None;
        }
        match c {
            'x' | 'u' | 'U' => {
                self.len = match c {
                    'x' => 2,
                    'u' => 4,
                    _ => 8,
                };
                return Some(self);
            }
            'n' | 'r' | 't' | 'b' | 'f' => json.extend(['\\', c]),
            'a' => push_escaped(json, '\u{7}'),
            'v' => push_escaped(json, '\u{b}'),
            '0' => push_escaped(json, '\0'),
            '\\' | '\'' | '"' | '/' => push_escaped(json, c),
            // A line that goes on.
            '\n' => {}
            // Python keeps the backslash of an escape that it does not know.
            _ => {
                push_escaped(json, '\\');
                push_escaped(json, c);
            }
        }
        None
    }

    /// A character by its number. Halves of a pair are left to JSON, which has them too.
    fn write(&self, json: &mut String) {
        let code = u32::from_str_radix(&self.digits, 16).unwrap_or_default();
        match char::from_u32(code) {
            Some(c) => push_escaped(json, c),
            None if code <= 0xffff => json.push_str(&format!("\\u{code:04x}")),
            None => json.push('\u{fffd}'),
        }
    }
}
