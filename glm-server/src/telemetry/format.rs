//! [`Lines`]: events to lines.

use std::error::Error;
use std::fmt::{self, Write};

use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::LogFormat;
use super::writer::Writer;
use crate::http;

/// Libraries are heard from here on; below it they describe their own insides.
const OTHERS: Level = Level::WARN;
const OWN: [&str; 3] = ["glm_", "glm-", "request"];

pub(super) struct Lines {
    format: LogFormat,
    service_name: String,
    writer: Writer,
}

impl Lines {
    pub(super) fn new(format: LogFormat, service_name: String, writer: Writer) -> Self {
        Self {
            format,
            service_name,
            writer,
        }
    }

    fn write(&self, level: &str, target: &str, fields: Fields) {
        let timestamp = OffsetDateTime::now_utc()
            .format(&Rfc3339)
            .unwrap_or_default();
        let line = match self.format {
            LogFormat::Json => {
                let mut object = Map::new();
                object.insert("timestamp".to_owned(), timestamp.into());
                object.insert("level".to_owned(), level.into());
                object.insert("service_name".to_owned(), self.service_name.as_str().into());
                object.insert("message".to_owned(), fields.message.into());
                object.insert("target".to_owned(), target.into());
                for (name, value) in fields.others {
                    object.entry(name).or_insert(value);
                }
                format!("{}\n", Value::Object(object))
            }
            LogFormat::Text => {
                let mut line = format!("{timestamp} {level:<5} {}", one_line(&fields.message));
                for (name, value) in &fields.others {
                    let value = match value {
                        Value::String(text) if !text.contains(' ') => one_line(text),
                        value => value.to_string(),
                    };
                    // Writing to a string does not fail.
                    let _ = write!(line, " {name}={value}");
                }
                line.push('\n');
                line
            }
        };
        self.writer.line(line);
    }
}

/// Whatever a client has made up cannot begin a line of its own, or move a cursor.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let is_own = OWN.iter().any(|own| metadata.target().starts_with(own));
        if !is_own && *metadata.level() > OTHERS {
            return;
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        for (name, value) in http::request_fields() {
            fields.others.entry(name).or_insert(Value::String(value));
        }
        let dropped = self.writer.take_dropped();
        if dropped > 0 {
            let message = "lines of the log were dropped: what reads it is too slow".to_owned();
            let mut fields = Fields {
                message,
                others: Map::new(),
            };
            fields.others.insert("lines".to_owned(), dropped.into());
            self.write("WARN", "glm_server::telemetry", fields);
        }
        self.write(metadata.level().as_str(), metadata.target(), fields);
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    others: Map<String, Value>,
}

impl Fields {
    fn record(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            (name, value) => {
                self.others.insert(name.to_owned(), value);
            }
        }
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.record(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.record(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.record(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.record(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record(field, value.into());
    }

    fn record_error(&mut self, field: &Field, error: &(dyn Error + 'static)) {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let _ = write!(text, ": {error}");
            cause = error.source();
        }
        self.record(field, text.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record(field, format!("{value:?}").into());
    }
}
