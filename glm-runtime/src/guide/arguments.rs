//! [`Parameters`]: a tool's arguments one by one, for the formats that do not write them as one JSON object.

use serde_json::{Map, Value, json};

use super::GrammarError;
use super::tools::{KIND, Writer, nested_json, regex_literal};

const KEY: &str = "<arg_key>";
const END_KEY: &str = "</arg_key>";
const VALUE: &str = "<arg_value>";
const END_VALUE: &str = "</arg_value>";

/// What a schema of parameters may say besides its properties: nothing, or what is handled here.
const KNOWN: [&str; 14] = [
    "type",
    "properties",
    "required",
    "additionalProperties",
    "$defs",
    "definitions",
    "$schema",
    "$id",
    "title",
    "description",
    "default",
    "examples",
    "strict",
    "$comment",
];

/// The parameters of one tool.
pub(super) struct Parameters<'a> {
    schema: &'a Value,
    properties: Vec<Property>,
    /// Others may be given, of any name.
    open: bool,
    strict: bool,
}

struct Property {
    name: String,
    schema: Value,
    required: bool,
}

impl<'a> Parameters<'a> {
    pub(super) fn new(schema: &'a Value, strict: bool) -> Result<Self, GrammarError> {
        let empty = Map::new();
        let object = schema.as_object().unwrap_or(&empty);
        let unknown = object.keys().find(|key| !KNOWN.contains(&key.as_str()));
        if let Some(key) = unknown.filter(|_| strict) {
            let problem = format_args!("`{key}` in the parameters of a tool is not supported");
            return Err(GrammarError::invalid(KIND, problem));
        }
        let declared = object.get("properties").and_then(Value::as_object);
        let required = object.get("required").and_then(Value::as_array);
        let required: Vec<&str> = required
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let property = |(name, schema): (&String, &Value)| Property {
            name: name.clone(),
            schema: schema.clone(),
            required: required.contains(&name.as_str()),
        };
        let mut properties: Vec<Property> = declared.into_iter().flatten().map(property).collect();
        for name in required {
            if !properties.iter().any(|property| property.name == name) {
                properties.push(Property {
                    name: name.to_owned(),
                    schema: json!({}),
                    required: true,
                });
            }
        }
        let may_have_others = object.get("additionalProperties") != Some(&Value::Bool(false));
        let open = properties.is_empty() && declared.is_none() && may_have_others;
        Ok(Self {
            schema,
            properties,
            open,
            strict,
        })
    }

    /// Rules `prefix…` for keys and values between tags.
    pub(super) fn write_tagged(
        &self,
        writer: &mut Writer<'_>,
        prefix: &str,
        line_end: &str,
    ) -> Result<(), GrammarError> {
        let (key, end_key) = (writer.tag(KEY), writer.tag(END_KEY));
        let (value, end_value) = (writer.tag(VALUE), writer.tag(END_VALUE));
        let mut body = String::new();
        for (i, property) in self.properties.iter().enumerate() {
            let name = &property.name;
            if name.contains('<') || name.trim() != name {
                return Err(unwritable(name));
            }
            let rule = format!("{prefix}_{i}");
            let value_rule = match only_text(&property.schema, self.schema) {
                Some(text) => self.write_text(writer, &rule, &text)?,
                None => format!("{} {end_value}", self.json(&property.schema)),
            };
            let name = json!(name);
            let pair = format!("{key} {name} {end_key} {line_end} {value} {value_rule} {line_end}");
            writer.rule(&rule, &pair);
            let often = if property.required { "" } else { "?" };
            body += &format!(" {rule}{often}");
        }
        if self.open {
            let any = self.json(&json!({}));
            let pair = format!(
                "{key} /[^<>\\s]+/ {end_key} {line_end} {value} {any} {end_value} {line_end}"
            );
            body = format!("({pair})*");
        }
        writer.rule(prefix, if body.is_empty() { "\"\"" } else { &body });
        Ok(())
    }

    /// The rule for a text between its tags, the last one included.
    fn write_text(
        &self,
        writer: &mut Writer<'_>,
        rule: &str,
        text: &Map<String, Value>,
    ) -> Result<String, GrammarError> {
        let terminal = rule.to_uppercase();
        let end = json!(END_VALUE);
        let ends = format!("{terminal}_ENDS");
        writer.rule(&ends, &format!("/(?s:.*)/ {end} /(?s:.*)/"));
        let body = self.text(text)?;
        let body = format!("({body}) & ~{ends}");
        if (writer.is_token)(END_VALUE) {
            writer.rule(&terminal, &body);
            // A text may be empty, a word of the lexer may not.
            let optional = if may_be_empty(text) { "?" } else { "" };
            return Ok(format!("{terminal}{optional} {END_VALUE}"));
        }
        // One word of the lexer, which cannot go back to where the tag began.
        writer.rule(&format!("{terminal}_TEXT"), &body);
        writer.rule(&terminal, &format!("{terminal}_TEXT {end}"));
        Ok(terminal)
    }

    /// What a text must look like, as a part of a terminal.
    fn text(&self, schema: &Map<String, Value>) -> Result<String, GrammarError> {
        let mut parts = Vec::new();
        for (key, value) in schema {
            match (key.as_str(), value) {
                ("enum", Value::Array(values)) => {
                    let texts: Vec<_> = values.iter().map(Value::to_string).collect();
                    parts.push(format!("({})", texts.join(" | ")));
                }
                ("const", text) => parts.push(text.to_string()),
                ("pattern", Value::String(pattern)) => parts.push(regex_literal(&whole(pattern))),
                ("minLength" | "maxLength", _) => {}
                ("type" | "title" | "description" | "default" | "examples" | "$comment", _) => {}
                _ if !self.strict => {}
                _ => {
                    let problem =
                        format_args!("`{key}` of a text is not supported in this model's calls");
                    return Err(GrammarError::invalid(KIND, problem));
                }
            }
        }
        let length = |key: &str| schema.get(key).and_then(Value::as_u64);
        match (length("minLength").unwrap_or(0), length("maxLength")) {
            (0, None) => {}
            (min, None) => parts.push(format!("/(?s:.{{{min},}})/")),
            (min, Some(max)) if min <= max => parts.push(format!("/(?s:.{{{min},{max}}})/")),
            _ => {
                let problem = "`minLength` of a text is more than its `maxLength`";
                return Err(GrammarError::invalid(KIND, problem));
            }
        }
        if parts.is_empty() {
            parts.push("/(?s:.*)/".to_owned());
        }
        Ok(parts.join(" & "))
    }

    /// Rules `prefix_0`, … for `name=value` with commas between them: in each, something stands before it (`_n`) or nothing does.
    pub(super) fn write_python(
        &self,
        writer: &mut Writer<'_>,
        prefix: &str,
    ) -> Result<(), GrammarError> {
        for (i, property) in self.properties.iter().enumerate() {
            let name = &property.name;
            let breaks = |c: char| c.is_whitespace() || ",:=()[]{}\"'".contains(c);
            if name.is_empty() || name.contains(breaks) {
                return Err(unwritable(name));
            }
            let next = i + 1;
            let name = json!(format!("{name}="));
            let pair = format!("{prefix}_pair_{i}");
            writer.rule(&pair, &format!("{name} {}", self.json(&property.schema)));
            let (skip, skip_n) = if property.required {
                (String::new(), String::new())
            } else {
                (
                    format!(" | {prefix}_{next}"),
                    format!(" | {prefix}_{next}_n"),
                )
            };
            writer.rule(
                &format!("{prefix}_{i}"),
                &format!("{pair} {prefix}_{next}_n{skip}"),
            );
            let with_comma = format!("\", \" {pair} {prefix}_{next}_n{skip_n}");
            writer.rule(&format!("{prefix}_{i}_n"), &with_comma);
        }
        let last = self.properties.len();
        if self.open {
            let any = self.json(&json!({}));
            let pair = format!("/[A-Za-z_][A-Za-z0-9_]*/ \"=\" {any}");
            writer.rule(
                &format!("{prefix}_{last}"),
                &format!("({pair} (\", \" {pair})*)?"),
            );
        } else {
            writer.rule(&format!("{prefix}_{last}"), "\"\"");
        }
        writer.rule(&format!("{prefix}_{last}_n"), "\"\"");
        Ok(())
    }

    /// A value as JSON; its schema may refer to definitions of the whole.
    fn json(&self, schema: &Value) -> String {
        let mut schema = schema.clone();
        if let Value::Object(schema) = &mut schema {
            for key in ["$defs", "definitions"] {
                if let Some(definitions) = self.schema.get(key)
                    && !schema.contains_key(key)
                {
                    schema.insert(key.to_owned(), definitions.clone());
                }
            }
        }
        nested_json(schema, self.strict)
    }
}

/// Whether the empty text is one for sure.
fn may_be_empty(schema: &Map<String, Value>) -> bool {
    let is_empty = |text: &Value| text.as_str().is_some_and(str::is_empty);
    let listed = |key: &str| match schema.get(key) {
        None => true,
        Some(Value::Array(texts)) => texts.iter().any(is_empty),
        Some(text) => is_empty(text),
    };
    let min = schema.get("minLength").and_then(Value::as_u64);
    listed("enum") && listed("const") && !schema.contains_key("pattern") && min.unwrap_or(0) == 0
}

fn unwritable(name: &str) -> GrammarError {
    let problem = format_args!("the parameter `{name}` cannot be written in this model's calls");
    GrammarError::invalid(KIND, problem)
}

/// A pattern finds its text anywhere; a terminal is all of it.
fn whole(pattern: &str) -> String {
    let (start, inner) = match pattern.strip_prefix('^') {
        Some(inner) => ("", inner),
        None => ("(?s:.*)", pattern),
    };
    match inner.strip_suffix('$') {
        Some(inner) if !inner.ends_with('\\') => format!("{start}({inner})"),
        _ => format!("{start}({inner})(?s:.*)"),
    }
}

/// The schema of a value that is a text and nothing else, and so is written without quotes; references are followed.
fn only_text(schema: &Value, root: &Value) -> Option<Map<String, Value>> {
    /// Deepest chain of references followed.
    const MAX_DEPTH: usize = 16;
    let mut schema = schema;
    for _ in 0..MAX_DEPTH {
        let object = schema.as_object()?;
        if let Some(target) = object.get("$ref").and_then(Value::as_str)
            && !object.contains_key("type")
        {
            schema = root.pointer(target.strip_prefix('#')?)?;
            continue;
        }
        let is_text = glm_core::chat::is_only_text(schema, root);
        return is_text.then(|| object.clone());
    }
    None
}
