//! Python's view of JSON: what `str()`, `repr()` and `json.dumps` write, which templates rely on.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::sync::Arc;

use minijinja::value::{DynObject, Enumerator, Object, ObjectRepr, ValueKind};
use minijinja::{Error, ErrorKind, Value};

/// Nesting at which writing a value stops; JSON from outside ends at 128.
const MAX_DEPTH: usize = 256;

/// A JSON value as a template value whose dicts and lists print as Python's.
pub(super) fn from_json(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(value) => Value::from(*value),
        serde_json::Value::Number(number) => {
            let integer = number
                .as_u64()
                .map(Value::from)
                .or_else(|| number.as_i64().map(Value::from));
            integer.unwrap_or_else(|| Value::from(number.as_f64().unwrap_or(f64::NAN)))
        }
        serde_json::Value::String(text) => Value::from(text.as_str()),
        serde_json::Value::Array(items) => {
            Value::from_object(List(items.iter().map(from_json).collect()))
        }
        serde_json::Value::Object(entries) => {
            let pairs = entries
                .iter()
                .map(|(key, value)| (Value::from(key.as_str()), from_json(value)));
            Value::from_object(Dict::new(pairs.collect()))
        }
    }
}

/// A dict in insertion order.
#[derive(Debug)]
struct Dict {
    pairs: Vec<(Value, Value)>,
    index: HashMap<Value, usize>,
}

impl Dict {
    fn new(pairs: Vec<(Value, Value)>) -> Self {
        let index = pairs
            .iter()
            .enumerate()
            .map(|(at, (key, _))| (key.clone(), at))
            .collect();
        Self { pairs, index }
    }
}

impl Object for Dict {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.index.get(key).map(|&at| self.pairs[at].1.clone())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        let dict = Arc::clone(self);
        Enumerator::RevKeyValueIter(Box::new(
            (0..self.pairs.len()).map(move |at| dict.pairs[at].clone()),
        ))
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        Some(self.pairs.len())
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_repr(
            f,
            &Value::from_dyn_object(DynObject::new(Arc::clone(self))),
            0,
        )
    }
}

#[derive(Debug)]
struct List(Vec<Value>);

impl Object for List {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.get(key.as_usize()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.0.len())
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_repr(
            f,
            &Value::from_dyn_object(DynObject::new(Arc::clone(self))),
            0,
        )
    }
}

/// What `{{ value }}` writes: Python's `str(value)`.
pub(super) fn write_str(out: &mut impl fmt::Write, value: &Value) -> fmt::Result {
    match value.kind() {
        ValueKind::Number | ValueKind::Seq | ValueKind::Map => write_repr(out, value, 0),
        _ => write!(out, "{value}"),
    }
}

/// Python's `repr(value)`.
pub(super) fn repr(value: &Value) -> String {
    let mut out = String::new();
    let _ = write_repr(&mut out, value, 0); // writing to a String cannot fail
    out
}

fn write_repr(out: &mut impl fmt::Write, value: &Value, depth: usize) -> fmt::Result {
    if depth > MAX_DEPTH {
        return out.write_str("...");
    }
    let separator = |at: usize| if at == 0 { "" } else { ", " };
    match (value.kind(), value.as_object()) {
        (ValueKind::Number, _) if !value.is_integer() => match f64::try_from(value.clone()) {
            Ok(float) => out.write_str(&float_repr(float)),
            Err(_) => write!(out, "{value}"),
        },
        (ValueKind::String, _) => write_string_repr(out, value.as_str().unwrap_or_default()),
        // namespaces, loops, macros and tuples print as the engine prints them
        (ValueKind::Seq, Some(list)) if !value.is_tuple() => {
            out.write_char('[')?;
            for (at, item) in list.try_iter().into_iter().flatten().enumerate() {
                out.write_str(separator(at))?;
                write_repr(out, &item, depth + 1)?;
            }
            out.write_char(']')
        }
        (ValueKind::Map, Some(dict)) => {
            out.write_char('{')?;
            for (at, (key, item)) in dict.try_iter_pairs().into_iter().flatten().enumerate() {
                out.write_str(separator(at))?;
                write_repr(out, &key, depth + 1)?;
                out.write_str(": ")?;
                write_repr(out, &item, depth + 1)?;
            }
            out.write_char('}')
        }
        _ => write!(out, "{value}"),
    }
}

/// Single quotes, unless the text has such and no double ones.
fn write_string_repr(out: &mut impl fmt::Write, text: &str) -> fmt::Result {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    out.write_char(quote)?;
    for c in text.chars() {
        match c {
            '\n' => out.write_str("\\n")?,
            '\r' => out.write_str("\\r")?,
            '\t' => out.write_str("\\t")?,
            '\\' => out.write_str("\\\\")?,
            c if c == quote => write!(out, "\\{c}")?,
            c if !is_printable(c) => match u32::from(c) {
                code @ 0..=0xff => write!(out, "\\x{code:02x}")?,
                code @ 0x100..=0xffff => write!(out, "\\u{code:04x}")?,
                code => write!(out, "\\U{code:08x}")?,
            },
            c => out.write_char(c)?,
        }
    }
    out.write_char(quote)
}

/// Python's `str.isprintable`, for the characters that text holds in practice.
fn is_printable(c: char) -> bool {
    let format = matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    let private = matches!(c, '\u{e000}'..='\u{f8ff}' | '\u{f0000}'..);
    c == ' ' || !(c.is_control() || c.is_whitespace() || format || private)
}

/// Python's `repr(float)`: the shortest digits that read back, in exponent form below 1e-4 and from 1e16 on.
pub(super) fn float_repr(value: f64) -> String {
    if value.is_nan() {
        return "nan".into();
    }
    if value.is_infinite() {
        return if value > 0.0 {
            "inf".into()
        } else {
            "-inf".into()
        };
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if (-4..16).contains(&exponent) {
        let plain = value.to_string();
        return if plain.contains('.') {
            plain
        } else {
            plain + ".0"
        };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
}

/// How `json.dumps` lays its output out.
#[derive(Debug, Clone)]
pub(super) struct JsonStyle {
    pub ensure_ascii: bool,
    /// What one level of indentation is; `None` writes everything on one line.
    pub indent: Option<String>,
    pub item_separator: String,
    pub key_separator: String,
    pub sort_keys: bool,
}

/// Python's `json.dumps(value)`.
///
/// # Errors
/// If a value is of a kind that JSON does not have, undefined ones above all.
pub(super) fn dumps(value: &Value, style: &JsonStyle) -> Result<String, Error> {
    let mut out = String::new();
    write_json(&mut out, value, style, 0)?;
    Ok(out)
}

/// `json.dumps(value, ensure_ascii=False)`.
pub(super) fn compact_json(json: &serde_json::Value) -> String {
    let style = JsonStyle {
        ensure_ascii: false,
        indent: None,
        item_separator: ", ".into(),
        key_separator: ": ".into(),
        sort_keys: false,
    };
    dumps(&from_json(json), &style).unwrap_or_default() // fails only for what is not JSON
}

fn write_json(
    out: &mut String,
    value: &Value,
    style: &JsonStyle,
    depth: usize,
) -> Result<(), Error> {
    let refuse = |what: String| Error::new(ErrorKind::BadSerialization, what);
    if depth > MAX_DEPTH {
        return Err(refuse("the value is nested too deeply for JSON".into()));
    }
    match (value.kind(), value.as_object()) {
        (ValueKind::None, _) => out.push_str("null"),
        (ValueKind::Bool, _) => out.push_str(if value.is_true() { "true" } else { "false" }),
        (ValueKind::Number, _) if value.is_integer() => out.push_str(&value.to_string()),
        (ValueKind::Number, _) => out.push_str(&json_float(f64::try_from(value.clone())?)),
        (ValueKind::String, _) => {
            write_json_string(out, value.as_str().unwrap_or_default(), style.ensure_ascii)
        }
        (ValueKind::Seq | ValueKind::Iterable, Some(list)) => {
            let items = list.try_iter().into_iter().flatten();
            write_json_items(out, ['[', ']'], items, style, depth, |out, item| {
                write_json(out, &item, style, depth + 1)
            })?;
        }
        (ValueKind::Map, Some(dict)) => {
            let mut pairs: Vec<(Value, Value)> =
                dict.try_iter_pairs().into_iter().flatten().collect();
            if style.sort_keys {
                pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
            }
            write_json_items(
                out,
                ['{', '}'],
                pairs.into_iter(),
                style,
                depth,
                |out, (key, item)| {
                    write_json_string(out, &json_key(&key)?, style.ensure_ascii);
                    out.push_str(&style.key_separator);
                    write_json(out, &item, style, depth + 1)
                },
            )?;
        }
        (kind, _) => {
            return Err(refuse(format!(
                "an object of type {kind} is not JSON serializable"
            )));
        }
    }
    Ok(())
}

fn write_json_items<T>(
    out: &mut String,
    [open, close]: [char; 2],
    items: impl Iterator<Item = T>,
    style: &JsonStyle,
    depth: usize,
    mut write: impl FnMut(&mut String, T) -> Result<(), Error>,
) -> Result<(), Error> {
    let newline = |out: &mut String, level: usize| {
        if let Some(indent) = &style.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(indent.as_str(), level));
        }
    };
    out.push(open);
    let mut is_empty = true;
    for item in items {
        if !is_empty {
            out.push_str(&style.item_separator);
        }
        is_empty = false;
        newline(out, depth + 1);
        write(out, item)?;
    }
    if !is_empty {
        newline(out, depth);
    }
    out.push(close);
    Ok(())
}

fn json_float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 {
            "Infinity".into()
        } else {
            "-Infinity".into()
        };
    }
    float_repr(value)
}

/// Keys that are not text are written as JSON would write them.
fn json_key(key: &Value) -> Result<String, Error> {
    Ok(match key.kind() {
        ValueKind::String => key.as_str().unwrap_or_default().to_owned(),
        ValueKind::None => "null".into(),
        ValueKind::Bool => if key.is_true() { "true" } else { "false" }.into(),
        ValueKind::Number if key.is_integer() => key.to_string(),
        ValueKind::Number => json_float(f64::try_from(key.clone())?),
        kind => {
            return Err(Error::new(
                ErrorKind::BadSerialization,
                format!("keys must be strings or numbers, not {kind}"),
            ));
        }
    })
}

fn write_json_string(out: &mut String, text: &str, ensure_ascii: bool) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' || (ensure_ascii && !(' '..='~').contains(&c)) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}"); // writing to a String cannot fail
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn floats_print_as_in_python() {
        let cases = [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e-5, "1e-05"),
            (0.0001, "0.0001"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (-0.0, "-0.0"),
            (123456789012345680.0, "1.2345678901234568e+17"),
            (5e-324, "5e-324"),
        ];
        for (value, expected) in cases {
            assert_eq!(float_repr(value), expected);
        }
    }

    #[test]
    fn dicts_and_lists_print_as_in_python() {
        let value = from_json(
            &json!({"a": [1, "it's", "q\"", null, true], "é": {"n": 1e-7}, "nl": "x\ny\u{1}"}),
        );
        let expected =
            r#"{'a': [1, "it's", 'q"', None, True], 'é': {'n': 1e-07}, 'nl': 'x\ny\x01'}"#;
        assert_eq!(value.to_string(), expected);
    }
}
