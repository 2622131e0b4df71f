//! A checkpoint's own Jinja template, rendered as transformers renders it.
//!
//! transformers compiles templates in Jinja2's sandbox with `trim_blocks` and `lstrip_blocks`, its own `tojson`, and four functions.
//! Here minijinja does the same with an instruction budget and a bound on the output, since a template is data from outside.

use std::io;
use std::path::{Path, PathBuf};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value};
use serde_json::{Map, Value as Json};

use super::TemplateError;
use super::python::{self, JsonStyle};
use super::{complexity, methods, strftime};

/// Instructions one rendering may take: a chat of a thousand turns needs a few hundred thousand.
const FUEL: u64 = 5_000_000;

/// Bytes one prompt may have; the longest context of the family is far below.
const MAX_OUTPUT_BYTES: usize = 64 << 20;

const DEFAULT: &str = "default";
const TOOL_USE: &str = "tool_use";

/// Compiled templates of one checkpoint: `default`, and `tool_use` where the file has one for requests with tools.
#[derive(Debug)]
pub(super) struct Templates {
    env: Environment<'static>,
    /// `bos_token`, `eos_token` and so on.
    special_tokens: Map<String, Json>,
    source: String,
    file: PathBuf,
}

impl Templates {
    /// Compiles a template.
    pub fn new(
        source: &str,
        special_tokens: Map<String, Json>,
        file: &Path,
    ) -> Result<Self, TemplateError> {
        let mut env = environment();
        add_template(&mut env, DEFAULT, source, file)?;
        Ok(Self {
            env,
            special_tokens,
            source: source.to_owned(),
            file: file.to_owned(),
        })
    }

    /// Adds the template for requests with tools.
    pub fn with_tool_use(mut self, source: &str) -> Result<Self, TemplateError> {
        add_template(&mut self.env, TOOL_USE, source, &self.file)?;
        Ok(self)
    }

    /// The same templates on a smaller budget, for trying them out.
    pub fn with_fuel(&self, fuel: u64) -> Self {
        let mut env = self.env.clone();
        env.set_fuel(Some(fuel));
        let (special_tokens, source) = (self.special_tokens.clone(), self.source.clone());
        Self {
            env,
            special_tokens,
            source,
            file: self.file.clone(),
        }
    }

    /// The default template's text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Renders messages and tools with the request's other variables.
    pub fn render(
        &self,
        messages: &[Json],
        tools: &[Json],
        variables: &Map<String, Json>,
    ) -> Result<String, TemplateError> {
        let name = if tools.is_empty() || self.env.get_template(TOOL_USE).is_err() {
            DEFAULT
        } else {
            TOOL_USE
        };
        let list = |items: &[Json]| python::from_json(&Json::Array(items.to_vec()));
        let tools = if tools.is_empty() {
            Value::from(())
        } else {
            list(tools)
        };
        let json = self
            .special_tokens
            .iter()
            .chain(variables)
            .map(|(key, value)| (key.clone(), python::from_json(value)));
        let own = [
            ("messages", list(messages)),
            ("tools", tools),
            ("documents", Value::from(())),
        ];
        let context =
            Value::from_pairs(json.chain(own.map(|(key, value)| (key.to_owned(), value))));

        let mut output = BoundedOutput::default();
        let rendered = self
            .env
            .get_template(name)
            .and_then(|template| template.render_captured_to(context, &mut output).map(drop));
        match rendered {
            Ok(()) => Ok(String::from_utf8_lossy(&output.bytes).into_owned()),
            Err(_) if output.is_full => Err(TemplateError::TooLong {
                file: self.file.clone(),
                limit: MAX_OUTPUT_BYTES,
            }),
            Err(error) => Err(self.render_error(&error)),
        }
    }

    fn render_error(&self, error: &Error) -> TemplateError {
        let file = self.file.clone();
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(inner) = cause {
            if let Some(Raised(message)) = inner.downcast_ref() {
                return TemplateError::Raised {
                    message: message.clone(),
                };
            }
            if inner
                .downcast_ref::<Error>()
                .is_some_and(|error| error.kind() == ErrorKind::OutOfFuel)
            {
                return TemplateError::Endless { file, limit: FUEL };
            }
            cause = inner.source();
        }
        TemplateError::Render {
            file,
            line: error.line().unwrap_or(0),
            reason: reason(error),
        }
    }
}

/// The engine's message without its position, which is told separately.
fn reason(error: &Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

fn add_template(
    env: &mut Environment<'static>,
    name: &'static str,
    source: &str,
    file: &Path,
) -> Result<(), TemplateError> {
    let wrong = |line, reason| TemplateError::Syntax {
        file: file.to_owned(),
        line,
        reason,
    };
    complexity::check(source).map_err(|(line, what)| wrong(line, what))?;
    env.add_template_owned(name, without_generation_tags(source))
        .map_err(|error| wrong(error.line().unwrap_or(0), reason(&error)))
}

/// Replaces transformers' `{% generation %}` block, which marks assistant text for training and writes nothing, by a plain scope.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let tag_start = start + 2;
        let Some(len) = rest[tag_start..].find("%}") else {
            break;
        };
        let tag_end = tag_start + len;
        let tag = &rest[tag_start..tag_end];
        let name = tag.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        let replacement = match name {
            "generation" => Some("with"),
            "endgeneration" => Some("endwith"),
            _ => None,
        };
        out.push_str(&rest[..tag_start]);
        match replacement {
            Some(replacement) => out.push_str(&tag.replace(name, replacement)),
            None => out.push_str(tag),
        }
        rest = &rest[tag_end..];
    }
    out + rest
}

fn environment() -> Environment<'static> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build();
    env.set_syntax(syntax.unwrap_or_default());
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.set_fuel(Some(FUEL));
    env.set_unknown_method_callback(methods::call_method);
    env.set_formatter(|out, _, value| Ok(python::write_str(out, value)?));
    env.add_filter("tojson", tojson);
    env.add_filter("trim", trim);
    env.add_test("sequence", is_sequence);
    env.add_function("cycler", |items: Rest<Value>| {
        minijinja_contrib::globals::cycler(items.to_vec())
    });
    env.add_function("joiner", minijinja_contrib::globals::joiner);
    env.add_function("raise_exception", raise_exception);
    env.add_function("strftime_now", |format: &str| strftime::now(format));
    env
}

/// What `raise_exception` carries through the engine.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn raise_exception(message: &str) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, "raise_exception")
        .with_source(Raised(message.to_owned())))
}

/// Jinja's `is sequence`: whatever has a length and can be indexed.
fn is_sequence(value: &Value) -> bool {
    matches!(
        value.kind(),
        ValueKind::String | ValueKind::Seq | ValueKind::Map
    )
}

/// Python's `str.strip`, as the filter of that engine.
fn trim(value: &Value, chars: Option<&str>) -> String {
    methods::strip(&value.to_string(), chars, true, true).to_owned()
}

/// transformers' `tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`: `json.dumps` without HTML escapes.
fn tojson(
    value: &Value,
    ensure_ascii: Option<Value>,
    indent: Option<Value>,
    kwargs: Kwargs,
) -> Result<String, Error> {
    let flag = |name: &'static str| {
        kwargs
            .get::<Option<Value>>(name)
            .map(|value| value.is_some_and(|value| value.is_true()))
    };
    let indent = indent.or(kwargs.get("indent")?);
    let indent = match &indent {
        Some(text) if text.as_str().is_some() => text.as_str().map(str::to_owned),
        Some(width) => Some(" ".repeat(usize::try_from(width.clone())?.min(64))),
        None => None,
    };
    let separators: Option<Vec<String>> = kwargs.get("separators")?;
    let (item_separator, key_separator) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                "separators must be two strings",
            ));
        }
        None if indent.is_some() => (",".into(), ": ".into()),
        None => (", ".into(), ": ".into()),
    };
    let ensure_ascii = ensure_ascii.map_or(flag("ensure_ascii")?, |value| value.is_true());
    let style = JsonStyle {
        ensure_ascii,
        indent,
        item_separator,
        key_separator,
        sort_keys: flag("sort_keys")?,
    };
    kwargs.assert_all_used()?;
    python::dumps(value, &style)
}

/// Collects output up to [`MAX_OUTPUT_BYTES`].
#[derive(Default)]
struct BoundedOutput {
    bytes: Vec<u8>,
    is_full: bool,
}

impl io::Write for &mut BoundedOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > MAX_OUTPUT_BYTES {
            self.is_full = true;
            return Err(io::Error::other("the prompt is too long"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
