//! [`Grammar`]: the languages a request can ask for.

use llguidance::api::TopLevelGrammar;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::GrammarError;
use super::tools::{self, ToolCalls};

/// Longest grammar in bytes of its text: larger than any published schema that the parser's own limits let through.
const MAX_BYTES: usize = 1 << 20;
/// Deepest nesting of a schema: what `serde_json` reads.
const MAX_DEPTH: usize = 128;
/// Whitespace between two parts of a JSON value. Without a limit a model can put blanks there until its tokens are used up.
const JSON_WHITESPACE: &str = r"[\x20\x0A\x0D\x09]{1,40}";

/// What an answer must look like, from its first token (after the thinking, if it thinks) to its end.
///
/// ```
/// use glm_runtime::{GenerateOptions, Grammar};
///
/// let city = serde_json::json!({
///     "type": "object",
///     "properties": { "name": { "type": "string" }, "people": { "type": "integer", "minimum": 0 } },
///     "required": ["name", "people"],
///     "additionalProperties": false
/// });
/// let options = GenerateOptions { grammar: Some(Grammar::JsonSchema(city)), ..GenerateOptions::default() };
/// # let _ = options;
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Grammar {
    /// Any JSON object.
    JsonObject,
    /// A JSON value that satisfies this schema. A keyword that cannot be enforced is an error, never ignored.
    JsonSchema(Value),
    /// Text that matches this regular expression from its beginning to its end (syntax of the `regex` crate, no anchors).
    Regex(String),
    /// Text of this context-free grammar, in `llguidance`'s dialect of Lark; its start rule is `start`.
    Lark(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// Calls of tools, in the form that the model writes them.
    Tools(ToolCalls),
}

impl Grammar {
    /// The kind, as errors name it.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::JsonObject | Self::JsonSchema(_) => "JSON schema",
            Self::Regex(_) => "regular expression",
            Self::Lark(_) => "Lark grammar",
            Self::Choice(_) => "list of choices",
            Self::Tools(_) => tools::KIND,
        }
    }

    /// The same for the parser; `is_token`: whether a text is a token of its own in the vocabulary.
    pub(super) fn compile(
        &self,
        is_token: impl Fn(&str) -> bool,
    ) -> Result<TopLevelGrammar, GrammarError> {
        self.check_size()?;
        Ok(match self {
            Self::JsonObject => json_schema(json!({ "type": "object" })),
            Self::JsonSchema(schema) => json_schema(schema.clone()),
            Self::Regex(regex) => TopLevelGrammar::from_regex(regex),
            Self::Lark(grammar) => TopLevelGrammar::from_lark(grammar.clone()),
            Self::Choice(texts) => choice(texts)?,
            Self::Tools(calls) => TopLevelGrammar::from_lark(calls.to_lark(is_token)?),
        })
    }

    fn check_size(&self) -> Result<(), GrammarError> {
        let bytes = match self {
            Self::JsonObject => 0,
            Self::JsonSchema(schema) => {
                // Before the schema is written out, which takes a stack frame for every level.
                self.check("levels", depth(schema), MAX_DEPTH)?;
                schema.to_string().len()
            }
            Self::Regex(text) | Self::Lark(text) => text.len(),
            Self::Choice(texts) => texts.iter().map(String::len).sum(),
            Self::Tools(calls) => {
                if let Some(content) = &calls.content {
                    content.check_size()?;
                }
                let levels = calls.tools.iter().map(depth).max();
                self.check("levels", levels.unwrap_or(0), MAX_DEPTH)?;
                calls.tools.iter().map(|tool| tool.to_string().len()).sum()
            }
        };
        self.check("bytes", bytes, MAX_BYTES)
    }

    fn check(&self, unit: &'static str, found: usize, limit: usize) -> Result<(), GrammarError> {
        if found <= limit {
            return Ok(());
        }
        Err(GrammarError::TooLarge {
            kind: self.kind(),
            unit,
            found,
            limit,
        })
    }
}

/// Levels of nesting, level by level rather than by recursion: the value may come from outside.
fn depth(value: &Value) -> usize {
    let mut level = vec![value];
    let mut depth = 0;
    while !level.is_empty() {
        depth += 1;
        let inside = level.into_iter().flat_map(|value| match value {
            Value::Array(items) => items.iter().collect(),
            Value::Object(map) => map.values().collect(),
            _ => Vec::new(),
        });
        level = inside.collect();
    }
    depth
}

fn json_schema(schema: Value) -> TopLevelGrammar {
    TopLevelGrammar::from_json_schema(with_rules(schema))
}

/// A schema with our rules of writing. A schema's own `x-guidance` could make the parser lenient, and then what it accepts would
/// not satisfy the schema.
pub(super) fn with_rules(schema: Value) -> Value {
    let schema = match schema {
        Value::Bool(true) => Value::Object(Map::new()),
        other => other,
    };
    match schema {
        Value::Object(mut schema) => {
            let rules = json!({ "whitespace_pattern": JSON_WHITESPACE });
            schema.insert("x-guidance".to_owned(), rules);
            Value::Object(schema)
        }
        other => other,
    }
}

/// Lark writes its strings as JSON does.
fn choice(texts: &[String]) -> Result<TopLevelGrammar, GrammarError> {
    if texts.is_empty() {
        return Err(GrammarError::NoChoice);
    }
    let texts = texts.iter().map(|text| json!(text).to_string());
    let alternatives = texts.collect::<Vec<_>>().join(" | ");
    Ok(TopLevelGrammar::from_lark(format!("start: {alternatives}")))
}
