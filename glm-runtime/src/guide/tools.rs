//! [`ToolCalls`] as a grammar: calls in the form that the model writes them, with arguments that satisfy their parameters.
//!
//! Tags are the vocabulary's own tokens where it has them, and text where it has not. What is written here is what
//! [`AnswerParser`](glm_core::chat::AnswerParser) reads: a text that follows the grammar gives calls whose arguments satisfy the schema.

use std::fmt::Write;

use glm_core::chat::CallFormat;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::arguments::Parameters;
use super::grammar::with_rules;
use super::{Grammar, GrammarError};

/// In errors.
pub(super) const KIND: &str = "set of tools";
const CALL: &str = "<tool_call>";
const END_CALL: &str = "</tool_call>";
const ASSISTANT: &str = "<|assistant|>";

/// An answer that calls tools, or may.
///
/// A tool whose `strict` is true has its parameters enforced to the letter, and a keyword of its schema that cannot be is an error; for
/// the others such keywords are left out of account.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolCalls {
    /// How the model writes calls: see [`Generation::call_format`](glm_core::chat::Generation::call_format).
    pub format: CallFormat,
    /// The tools that may be called, as OpenAI has them: `{"type": "function", "function": {"name": …, "parameters": …}}`.
    pub tools: Vec<Value>,
    /// The answer consists of calls. Otherwise it may be text as well, and text may come before calls unless
    /// [`Self::content`] says what it must look like.
    pub required: bool,
    /// There may be more than one call.
    pub parallel: bool,
    /// What the answer must look like if it calls nothing; no Lark grammar.
    pub content: Option<Box<Grammar>>,
}

/// One of them.
struct Tool<'a> {
    name: &'a str,
    parameters: Value,
    strict: bool,
}

impl<'a> Tool<'a> {
    fn new(tool: &'a Value) -> Result<Self, GrammarError> {
        let function = tool.get("function").unwrap_or(tool);
        let name = function["name"].as_str().filter(|name| !name.is_empty());
        let Some(name) = name else {
            return Err(GrammarError::invalid(KIND, "a tool has no name"));
        };
        if name.contains(['\n', '<']) || name.trim() != name {
            let problem = format_args!("the name `{name}` cannot be written in a call");
            return Err(GrammarError::invalid(KIND, problem));
        }
        let parameters = match &function["parameters"] {
            Value::Null => json!({ "type": "object", "properties": {} }),
            schema => schema.clone(),
        };
        let strict = function["strict"] == true;
        Ok(Self {
            name,
            parameters,
            strict,
        })
    }
}

impl ToolCalls {
    /// The grammar in llguidance's dialect of Lark; `is_token`: whether a text is a token of its own in the vocabulary.
    pub(super) fn to_lark(&self, is_token: impl Fn(&str) -> bool) -> Result<String, GrammarError> {
        let tools: Result<Vec<_>, _> = self.tools.iter().map(Tool::new).collect();
        let tools = tools?;
        if tools.is_empty() {
            return Err(GrammarError::NoChoice);
        }
        let mut writer = Writer {
            lark: String::new(),
            is_token: &is_token,
        };
        for (i, tool) in tools.iter().enumerate() {
            match self.format {
                CallFormat::Tagged { lines } => writer.tagged(i, tool, lines)?,
                CallFormat::Python => writer.python(i, tool)?,
                _ => writer.json(i, tool),
            }
        }
        let calls: Vec<_> = (0..tools.len()).map(|i| format!("call_{i}")).collect();
        writer.rule("one", &calls.join(" | "));
        // Between a thought and a call.
        writer.rule("LEAD", r"/\n{1,2}/");
        match self.format {
            CallFormat::Tagged { .. } => self.tagged_start(&mut writer)?,
            _ => self.untagged_start(&mut writer, &tools)?,
        }
        Ok(writer.lark)
    }

    /// `more` as often as the answer may have calls beyond the first.
    fn repeated(&self, more: &str) -> String {
        if self.parallel {
            format!("({more})*")
        } else {
            String::new()
        }
    }

    /// What an answer is that may not say what it likes: calls, or the content that is asked for. `None` if it may.
    fn start_of_form(&self) -> Result<Option<String>, GrammarError> {
        if self.required {
            return Ok(Some("calls".to_owned()));
        }
        let content = self.content.as_deref().map(content_rule).transpose()?;
        Ok(content.map(|content| format!("calls | {content}")))
    }

    fn tagged_start(&self, writer: &mut Writer<'_>) -> Result<(), GrammarError> {
        let open = writer.tag(CALL);
        let more = self.repeated(&format!("\"\\n\"? {open} one"));
        writer.rule("calls", &format!("LEAD? {open} one {more}"));
        if let Some(start) = self.start_of_form()? {
            writer.rule("start", &start);
            return Ok(());
        }
        writer.rule("CALLING", &format!("/(?s:.*)/ {} /(?s:.*)/", json!(CALL)));
        writer.rule("TEXT", "/(?s:.+)/ & ~CALLING");
        if (writer.is_token)(CALL) {
            writer.rule("start", "TEXT? | TEXT calls | calls");
        } else {
            // Text and the tag are one word of the lexer, for it cannot go back to where the tag began.
            writer.rule(
                "TEXT_CALL",
                &format!("(/(?s:.*)/ & ~CALLING) {}", json!(CALL)),
            );
            writer.rule("start", &format!("TEXT? | TEXT_CALL one {more}"));
        }
        Ok(())
    }

    fn untagged_start(&self, writer: &mut Writer<'_>, tools: &[Tool]) -> Result<(), GrammarError> {
        let separator = if (writer.is_token)(ASSISTANT) {
            format!("{ASSISTANT}?")
        } else {
            String::new()
        };
        let more = self.repeated(&format!("{separator} one"));
        writer.rule("calls", &format!("LEAD? one {more}"));
        if let Some(start) = self.start_of_form()? {
            writer.rule("start", &start);
            return Ok(());
        }
        let names: Vec<_> = tools
            .iter()
            .map(|tool| json!(tool.name).to_string())
            .collect();
        writer.rule("NAME", &names.join(" | "));
        // What a reader takes for the beginning of a call must be one.
        writer.rule("CALLING", r"/(?s:(.*\n)?)\s*/ NAME /[ \t]*\n(?s:.*)/");
        writer.rule("TEXT", "/(?s:.+)/ & ~CALLING");
        let after = if (writer.is_token)(ASSISTANT) {
            format!(" | TEXT {ASSISTANT} one {more}")
        } else {
            String::new()
        };
        writer.rule("start", &format!("TEXT? | calls{after}"));
        Ok(())
    }
}

/// The rule for an answer that calls nothing.
fn content_rule(grammar: &Grammar) -> Result<String, GrammarError> {
    Ok(match grammar {
        Grammar::JsonObject => nested_json(json!({ "type": "object" }), true),
        Grammar::JsonSchema(schema) => nested_json(schema.clone(), true),
        Grammar::Regex(regex) => regex_literal(regex),
        Grammar::Choice(texts) if !texts.is_empty() => {
            let texts: Vec<_> = texts.iter().map(|text| json!(text).to_string()).collect();
            texts.join(" | ")
        }
        Grammar::Choice(_) => return Err(GrammarError::NoChoice),
        Grammar::Lark(_) | Grammar::Tools(_) => {
            let problem = "an answer with tools cannot follow a Lark grammar as well";
            return Err(GrammarError::invalid(KIND, problem));
        }
    })
}

/// A schema inside a grammar.
pub(super) fn nested_json(schema: Value, strict: bool) -> String {
    let mut schema = with_rules(schema);
    if !strict && let Some(rules) = schema.pointer_mut("/x-guidance") {
        rules["lenient"] = true.into();
    }
    format!("%json {schema}")
}

/// A regular expression as Lark writes it.
pub(super) fn regex_literal(regex: &str) -> String {
    let mut literal = String::from("/");
    let mut escaped = false;
    for c in regex.chars() {
        match c {
            '/' if !escaped => literal.push_str("\\/"),
            '\n' => literal.push_str("\\n"),
            _ => literal.push(c),
        }
        escaped = !escaped && c == '\\';
    }
    literal + "/"
}

/// A grammar on its way.
pub(super) struct Writer<'a> {
    lark: String,
    pub(super) is_token: &'a dyn Fn(&str) -> bool,
}

impl Writer<'_> {
    pub(super) fn rule(&mut self, name: &str, body: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.lark, "{name}: {body}");
    }

    /// A tag: the token, or its text.
    pub(super) fn tag(&self, text: &str) -> String {
        if (self.is_token)(text) {
            text.to_owned()
        } else {
            json!(text).to_string()
        }
    }

    /// Everything behind `<tool_call>`.
    fn tagged(&mut self, i: usize, tool: &Tool, lines: bool) -> Result<(), GrammarError> {
        let end = self.tag(END_CALL);
        let line_end = if lines { "\"\\n\"" } else { "" };
        let name = json!(tool.name);
        let parameters = Parameters::new(&tool.parameters, tool.strict)?;
        let arguments = format!("call_{i}_arguments");
        self.rule(
            &format!("call_{i}"),
            &format!("{name} {line_end} {arguments} {end}"),
        );
        parameters.write_tagged(self, &arguments, line_end)
    }

    /// The name on a line, then the arguments.
    fn json(&mut self, i: usize, tool: &Tool) {
        let name = json!(format!("{}\n", tool.name));
        let mut parameters = tool.parameters.clone();
        if let Value::Object(schema) = &mut parameters {
            schema.insert("type".to_owned(), "object".into());
        } else {
            parameters = Value::Object(Map::from_iter([("type".to_owned(), "object".into())]));
        }
        let arguments = nested_json(parameters, tool.strict);
        self.rule(&format!("call_{i}"), &format!("{name} {arguments}"));
    }

    /// Keywords of a Python function, their values as JSON, which the reader takes too.
    fn python(&mut self, i: usize, tool: &Tool) -> Result<(), GrammarError> {
        let head = json!(format!("{}\n", tool.name));
        let parameters = Parameters::new(&tool.parameters, tool.strict)?;
        let arguments = format!("call_{i}_arguments");
        self.rule(
            &format!("call_{i}"),
            &format!("\" \"? {head} \" \"? \"```python\\ntool_call(\" {arguments}_0 \")\\n```\""),
        );
        parameters.write_python(self, &arguments)
    }
}
