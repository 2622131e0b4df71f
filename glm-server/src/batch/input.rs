//! A line of the input: what it asks, or what is wrong with it.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufRead};

use serde_json::{Map, Value};

use super::lines::{Line, Lines};
use crate::openai::{ApiError, Target};

/// Longest line of an input.
pub const MAX_LINE_BYTES: usize = 16 << 20;

/// A request of the input.
#[derive(Debug, PartialEq)]
pub(crate) struct BatchLine {
    pub(crate) custom_id: String,
    pub(crate) endpoint: Target,
    pub(crate) body: Map<String, Value>,
}

/// A line that is not a request.
#[derive(Debug, PartialEq)]
pub(crate) struct BadLine {
    pub(crate) custom_id: Option<String>,
    pub(crate) error: ApiError,
}

impl BatchLine {
    pub(super) fn parse(line: &Line<'_>) -> Result<Self, BadLine> {
        let mut fields = match object(line) {
            Ok(fields) => fields,
            Err(error) => {
                return Err(BadLine {
                    custom_id: None,
                    error,
                });
            }
        };
        let custom_id = match text(&fields, "custom_id") {
            Ok(custom_id) => custom_id.to_owned(),
            Err(error) => {
                return Err(BadLine {
                    custom_id: None,
                    error,
                });
            }
        };
        match target(&mut fields) {
            Ok((endpoint, body)) => Ok(Self {
                custom_id,
                endpoint,
                body,
            }),
            Err(error) => Err(BadLine {
                custom_id: Some(custom_id),
                error,
            }),
        }
    }
}

fn object(line: &Line<'_>) -> Result<Map<String, Value>, ApiError> {
    let invalid = |code, message| ApiError {
        param: None,
        code: Some(code),
        ..ApiError::invalid("", message)
    };
    let Some(text) = line.text else {
        let message = format!("the line is longer than {MAX_LINE_BYTES} bytes");
        return Err(invalid("line_too_long", message));
    };
    match serde_json::from_slice(text) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(invalid("invalid_json", "not a JSON object".to_owned())),
        Err(error) => Err(invalid("invalid_json", format!("not JSON: {error}"))),
    }
}

fn text<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<&'a str, ApiError> {
    match fields.get(name) {
        None | Some(Value::Null) => Err(ApiError::missing(name)),
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(ApiError::invalid(name, format!("`{name}` must be a text"))),
    }
}

fn target(fields: &mut Map<String, Value>) -> Result<(Target, Map<String, Value>), ApiError> {
    let method = text(fields, "method")?;
    if method != "POST" {
        let message = format!("`method` must be `POST`, found `{method}`");
        return Err(ApiError::invalid("method", message));
    }
    let endpoint = Target::from_path(text(fields, "url")?).map_err(|error| ApiError {
        param: Some("url".to_owned()),
        ..error
    })?;
    match fields.remove("body") {
        None | Some(Value::Null) => Err(ApiError::missing("body")),
        Some(Value::Object(body)) => Ok((endpoint, body)),
        Some(_) => Err(ApiError::invalid("body", "`body` must be an object")),
    }
}

/// The `custom_id` of a line, if it has one.
pub(super) fn custom_id(line: &Line<'_>) -> Option<String> {
    let fields = object(line).ok()?;
    text(&fields, "custom_id").ok().map(str::to_owned)
}

/// Makes 16 bytes of a `custom_id` of any length, so that millions of them can be held. Keyed afresh in every process: nobody can
/// write an input with two that collide, and for 128 bits chance will not.
#[derive(Debug, Default)]
pub(super) struct Fingerprints([RandomState; 2]);

impl Fingerprints {
    pub(super) fn of(&self, custom_id: Option<&str>) -> u128 {
        let [high, low] = self.0.each_ref().map(|state| state.hash_one(custom_id));
        u128::from(high) << 64 | u128::from(low)
    }
}

/// The request of a line; of several with the same `custom_id` only the first is one.
pub(super) fn parse(
    line: &Line<'_>,
    seen: &mut HashSet<u128>,
    fingerprints: &Fingerprints,
) -> Result<BatchLine, BadLine> {
    let parsed = BatchLine::parse(line);
    let custom_id = match &parsed {
        Ok(parsed) => Some(&parsed.custom_id),
        Err(bad) => bad.custom_id.as_ref(),
    };
    match custom_id {
        Some(custom_id) if !seen.insert(fingerprints.of(Some(custom_id))) => Err(BadLine {
            custom_id: Some(custom_id.clone()),
            error: ApiError {
                code: Some("duplicate_custom_id"),
                ..ApiError::invalid(
                    "custom_id",
                    format!("an earlier line has the custom_id `{custom_id}` too"),
                )
            },
        }),
        _ => parsed,
    }
}

/// The requests of an input, one after the other.
#[derive(Debug)]
pub(crate) struct Requests<R> {
    lines: Lines<R>,
    /// Fingerprints of every `custom_id` so far.
    seen: HashSet<u128>,
    fingerprints: Fingerprints,
}

impl<R: BufRead> Requests<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self {
            lines: Lines::new(reader, MAX_LINE_BYTES),
            seen: HashSet::new(),
            fingerprints: Fingerprints::default(),
        }
    }

    /// The next line that is not blank: its number, from 1, and its request.
    pub(crate) fn next(&mut self) -> io::Result<Option<(u64, Result<BatchLine, BadLine>)>> {
        let Some(line) = self.lines.next()? else {
            return Ok(None);
        };
        let number = line.number;
        let request = parse(&line, &mut self.seen, &self.fingerprints);
        Ok(Some((number, request)))
    }
}
