//! Python's string methods where `minijinja-contrib` lacks them or means something else.
//!
//! The difference that matters most is what counts as a blank: Python's `strip` takes the separators U+001C to U+001F too.

use minijinja::value::{Kwargs, Tuple, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};

/// Methods of strings, dicts and lists; what is not here is left to `minijinja_contrib::pycompat`.
pub(super) fn call_method(
    state: &mut State,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let own = match value.kind() {
        ValueKind::String => string_method(value.as_str().unwrap_or_default(), method, args),
        ValueKind::Map if method == "copy" => from_args::<()>(args).map(|()| value.clone()),
        ValueKind::Seq if method == "index" => list_index(value, args),
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    };
    match own {
        Err(error) if error.kind() == ErrorKind::UnknownMethod => {
            minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
        }
        result => result,
    }
}

fn string_method(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    Ok(match method {
        "strip" | "lstrip" | "rstrip" => {
            let (chars,): (Option<&str>,) = from_args(args)?;
            Value::from(strip(text, chars, method != "rstrip", method != "lstrip"))
        }
        "split" | "rsplit" => {
            let (separator, limit) = split_args(args)?;
            split(text, separator.as_deref(), limit, method == "rsplit")?
        }
        "splitlines" => {
            let (keep_ends, kwargs): (Option<bool>, Kwargs) = from_args(args)?;
            let keep_ends = keep_ends.or(kwargs.get("keepends")?).unwrap_or(false);
            kwargs.assert_all_used()?;
            splitlines(text, keep_ends)
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            refuse_empty(separator)?;
            let last = method == "rpartition";
            let found = if last {
                text.rsplit_once(separator)
            } else {
                text.split_once(separator)
            };
            let parts = match found {
                Some((before, after)) => [before, separator, after],
                None if last => ["", "", text],
                None => [text, "", ""],
            };
            Value::from(Tuple::from(parts.map(Value::from)))
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "title" => {
            let () = from_args(args)?;
            Value::from(title(text))
        }
        "index" => {
            let (wanted,): (&str,) = from_args(args)?;
            let at = text
                .find(wanted)
                .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "substring not found"))?;
            Value::from(text[..at].chars().count())
        }
        "ljust" | "rjust" => {
            let (width, fill): (usize, Option<char>) = from_args(args)?;
            let missing = width.min(MAX_WIDTH).saturating_sub(text.chars().count());
            let padding: String = std::iter::repeat_n(fill.unwrap_or(' '), missing).collect();
            Value::from(if method == "ljust" {
                format!("{text}{padding}")
            } else {
                format!("{padding}{text}")
            })
        }
        "zfill" => {
            let (width,): (usize,) = from_args(args)?;
            let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
            let missing = width.min(MAX_WIDTH).saturating_sub(text.chars().count());
            Value::from(format!("{sign}{}{digits}", "0".repeat(missing)))
        }
        _ => return Err(Error::from(ErrorKind::UnknownMethod)),
    })
}

/// Widest field that padding fills; a template has no use for wider ones.
const MAX_WIDTH: usize = 10_000;

/// Python's `str.isspace` for one character.
fn is_blank(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Python's `str.strip(chars)`, at the start, the end or both.
pub(super) fn strip<'t>(text: &'t str, chars: Option<&str>, start: bool, end: bool) -> &'t str {
    let drops = |c: char| chars.map_or_else(|| is_blank(c), |chars| chars.contains(c));
    let text = if start {
        text.trim_start_matches(drops)
    } else {
        text
    };
    if end {
        text.trim_end_matches(drops)
    } else {
        text
    }
}

fn split_args(args: &[Value]) -> Result<(Option<String>, Option<usize>), Error> {
    let (separator, limit, kwargs): (Option<String>, Option<i64>, Kwargs) = from_args(args)?;
    let separator = separator.or(kwargs.get("sep")?);
    let limit = limit.or(kwargs.get("maxsplit")?);
    kwargs.assert_all_used()?;
    Ok((
        separator,
        limit.and_then(|limit| usize::try_from(limit).ok()),
    ))
}

fn split(
    text: &str,
    separator: Option<&str>,
    limit: Option<usize>,
    from_right: bool,
) -> Result<Value, Error> {
    let most = limit.map_or(usize::MAX, |limit| limit.saturating_add(1));
    let mut parts: Vec<&str> = match (separator, from_right) {
        (Some(separator), _) if separator.is_empty() => {
            return refuse_empty(separator).map(|()| Value::UNDEFINED);
        }
        (Some(separator), false) => text.splitn(most, separator).collect(),
        (Some(separator), true) => text.rsplitn(most, separator).collect(),
        (None, _) => split_blanks(text, most, from_right),
    };
    if from_right {
        parts.reverse();
    }
    Ok(Value::from_iter(parts))
}

/// Splits at runs of blanks into at most `most` parts; from the right, the parts come last first.
fn split_blanks(text: &str, most: usize, from_right: bool) -> Vec<&str> {
    let mut parts = Vec::new();
    // blanks on the far side stay with the last part when the limit ends the splitting
    let mut rest = strip(text, None, !from_right, from_right);
    while !rest.is_empty() {
        if parts.len() + 1 == most {
            parts.push(rest);
            break;
        }
        let cut = if from_right {
            rest.rsplit_once(is_blank)
                .map(|(before, part)| (part, before))
        } else {
            rest.split_once(is_blank)
        };
        let (part, remaining) = cut.unwrap_or((rest, ""));
        parts.push(part);
        rest = strip(remaining, None, !from_right, from_right);
    }
    parts
}

/// Python's `str.title`: a letter is upper case where the character before it is no letter, the apostrophe of "they're" included.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut after_letter = false;
    for c in text.chars() {
        if after_letter {
            out.extend(c.to_lowercase())
        } else {
            out.extend(c.to_uppercase())
        }
        after_letter = c.is_alphabetic();
    }
    out
}

fn refuse_empty(separator: &str) -> Result<(), Error> {
    if separator.is_empty() {
        Err(Error::new(ErrorKind::InvalidOperation, "empty separator"))
    } else {
        Ok(())
    }
}

/// Python's line ends: more than newline and carriage return.
fn splitlines(text: &str, keep_ends: bool) -> Value {
    let is_end = |c: char| matches!(c, '\n'..='\r' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(is_end) {
        let end = rest[at..].chars().next().map_or(0, char::len_utf8)
            + usize::from(rest[at..].starts_with("\r\n"));
        lines.push(if keep_ends {
            &rest[..at + end]
        } else {
            &rest[..at]
        });
        rest = &rest[at + end..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    Value::from_iter(lines)
}

fn list_index(list: &Value, args: &[Value]) -> Result<Value, Error> {
    let (wanted,): (&Value,) = from_args(args)?;
    let position = list.try_iter()?.position(|item| item == *wanted);
    position.map(Value::from).ok_or_else(|| {
        Error::new(
            ErrorKind::InvalidOperation,
            format!("{wanted} is not in the list"),
        )
    })
}
