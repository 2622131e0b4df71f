//! What an answer must look like: OpenAI's `response_format`, and what vLLM's clients send.

use glm_runtime::{EngineHandle, Grammar};
use serde_json::{Map, Value};

use super::ApiError;
use super::fields::Fields;

/// A grammar and the field that asks for it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wanted {
    pub(super) grammar: Grammar,
    pub(super) field: &'static str,
}

const RESPONSE_FORMAT: &str = "response_format";
const STRUCTURED_OUTPUTS: &str = "structured_outputs";

/// vLLM's fields, and the names of the same in its `structured_outputs`.
const GUIDED: [(&str, &str); 4] = [
    ("guided_json", "json"),
    ("guided_regex", "regex"),
    ("guided_choice", "choice"),
    ("guided_grammar", "grammar"),
];

impl Wanted {
    /// What a body asks for.
    ///
    /// # Errors
    /// The field is malformed, or another one asks for something as well.
    pub(super) fn read(fields: Fields<'_>) -> Result<Option<Self>, ApiError> {
        let mut wanted: Vec<Self> = Vec::new();
        let format = response_format(fields)?;
        wanted.extend(format.map(|grammar| Self {
            grammar,
            field: RESPONSE_FORMAT,
        }));
        for (field, kind) in GUIDED {
            if let Some(value) = fields.value(field) {
                let grammar = guided(field, kind, value)?;
                wanted.push(Self { grammar, field });
            }
        }
        wanted.extend(structured_outputs(fields)?);
        if let [first, second, ..] = &wanted[..] {
            let message = format!(
                "`{}` and `{}` cannot both say what the answer looks like",
                first.field, second.field
            );
            return Err(ApiError::invalid(second.field, message));
        }
        Ok(wanted.pop())
    }

    /// Whether it is one of OpenAI's own fields, which has no say where only tools are called.
    pub(super) fn is_response_format(&self) -> bool {
        self.field == RESPONSE_FORMAT
    }

    /// Refuses a grammar that cannot be used, in the name of its field.
    pub(super) fn check(&self, engine: &EngineHandle) -> Result<(), ApiError> {
        check(engine, &self.grammar, self.field)
    }
}

/// Refuses a grammar that cannot be used, in the name of `field`.
pub(super) fn check(
    engine: &EngineHandle,
    grammar: &Grammar,
    field: &'static str,
) -> Result<(), ApiError> {
    engine.check_grammar(grammar).map_err(|error| ApiError {
        param: Some(field.to_owned()),
        ..ApiError::from(error)
    })
}

fn response_format(fields: Fields<'_>) -> Result<Option<Grammar>, ApiError> {
    let Some(format) = fields.get::<Map<String, Value>>(RESPONSE_FORMAT)? else {
        return Ok(None);
    };
    let kind = format.get("type").and_then(Value::as_str);
    let Some(kind) = kind else {
        let message = "`response_format.type` must be text, json_object or json_schema";
        return Err(ApiError::invalid(RESPONSE_FORMAT, message));
    };
    Ok(match kind {
        "text" => None,
        "json_object" => Some(Grammar::JsonObject),
        "json_schema" => {
            let Some(Value::Object(format)) = format.get("json_schema") else {
                let message = "`response_format.json_schema` must be an object with the schema";
                return Err(ApiError::invalid(RESPONSE_FORMAT, message));
            };
            Some(match format.get("schema") {
                None | Some(Value::Null) => Grammar::JsonObject,
                Some(schema) => Grammar::JsonSchema(schema.clone()),
            })
        }
        other => {
            let message = format!("`response_format` of type `{other}` is not supported");
            return Err(ApiError::not_supported(RESPONSE_FORMAT, message));
        }
    })
}

/// `kind`: `json`, `regex`, `choice` or `grammar`.
fn guided(field: &'static str, kind: &str, value: &Value) -> Result<Grammar, ApiError> {
    let wrong =
        |expected: &str| ApiError::invalid(field, format!("`{field}`: expected {expected}"));
    let text = || value.as_str().map(str::to_owned);
    match kind {
        "json" => {
            let schema = match value {
                Value::String(json) => serde_json::from_str(json).ok(),
                Value::Object(_) | Value::Bool(_) => Some(value.clone()),
                _ => None,
            };
            let schema = schema.ok_or_else(|| wrong("a JSON schema"))?;
            Ok(Grammar::JsonSchema(schema))
        }
        "regex" => Ok(Grammar::Regex(
            text().ok_or_else(|| wrong("a regular expression"))?,
        )),
        "choice" => {
            let texts = value.as_array().map(|texts| {
                let texts = texts.iter().map(|text| text.as_str().map(str::to_owned));
                texts.collect::<Option<Vec<_>>>()
            });
            let texts = texts.flatten().ok_or_else(|| wrong("a list of texts"))?;
            Ok(Grammar::Choice(texts))
        }
        _ => Ok(Grammar::Lark(
            text().ok_or_else(|| wrong("a Lark grammar"))?,
        )),
    }
}

/// vLLM's newer spelling: an object with one of the kinds.
fn structured_outputs(fields: Fields<'_>) -> Result<Option<Wanted>, ApiError> {
    let field = STRUCTURED_OUTPUTS;
    let Some(outputs) = fields.get::<Map<String, Value>>(field)? else {
        return Ok(None);
    };
    let mut found = Vec::new();
    for (kind, value) in outputs.iter().filter(|(_, value)| !value.is_null()) {
        match kind.as_str() {
            "json" | "regex" | "choice" | "grammar" => found.push(guided(field, kind, value)?),
            "json_object" if *value == true => found.push(Grammar::JsonObject),
            "structural_tag" | "whitespace_pattern" => {
                let message = format!("`{field}.{kind}` is not supported");
                return Err(ApiError::not_supported(field, message));
            }
            // Hints for other engines.
            _ => {}
        }
    }
    if found.len() > 1 {
        let message =
            format!("`{field}` may have one of json, regex, choice, grammar, json_object");
        return Err(ApiError::invalid(field, message));
    }
    Ok(found.pop().map(|grammar| Wanted { grammar, field }))
}
