//! The fields of a body, read one by one so that an error can name the one that is wrong.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::ApiError;

/// The fields of a body; `null` counts as absent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'a>(pub(crate) &'a Map<String, Value>);

/// A field that clients of an endpoint know, and what becomes of it. Fields that are in no table are ignored.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) fate: Fate,
}

/// What becomes of a field.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fate {
    /// It does what it is meant to do.
    Honoured,
    /// It is an error, unless its value asks for nothing.
    Refused(fn(&Value) -> bool),
    /// Any value may be there: here it could change no answer.
    Ignored,
}

/// What values a field has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Any,
    Boolean,
    /// A whole number from 0.
    Count,
    Integer,
    Number,
    Text,
    Texts,
    TextOrTexts,
    /// A text, texts, token ids or lists of token ids.
    Prompts,
    Ids,
    Object,
    Objects,
    TextOrObject,
    TextOrObjects,
}

impl Known {
    pub(crate) const fn honoured(name: &'static str, kind: Kind) -> Self {
        Self {
            name,
            kind,
            fate: Fate::Honoured,
        }
    }

    /// `asks_for_nothing`: of the values that are no error.
    pub(crate) const fn refused(name: &'static str, asks_for_nothing: fn(&Value) -> bool) -> Self {
        Self {
            name,
            kind: Kind::Any,
            fate: Fate::Refused(asks_for_nothing),
        }
    }

    pub(crate) const fn ignored(name: &'static str) -> Self {
        Self {
            name,
            kind: Kind::Any,
            fate: Fate::Ignored,
        }
    }
}

/// For fields of which no value is taken.
pub(crate) fn never(_: &Value) -> bool {
    false
}

/// For switches that may be off.
pub(crate) fn is_false(value: &Value) -> bool {
    value == false
}

/// Extensions of chats that other dialects take too.
pub(crate) const PASSED: &[&str] = &[
    "adapter",
    "cache_salt",
    "ignore_eos",
    "min_p",
    "min_tokens",
    "priority",
    "repetition_penalty",
    "seed",
    "stop_token_ids",
];

impl<'a> Fields<'a> {
    pub(crate) fn value(self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    pub(crate) fn get<T: DeserializeOwned>(self, name: &str) -> Result<Option<T>, ApiError> {
        let read = |value| {
            T::deserialize(value)
                .map_err(|error| ApiError::invalid(name, format!("`{name}`: {error}")))
        };
        self.value(name).map(read).transpose()
    }

    pub(crate) fn required<T: DeserializeOwned>(self, name: &str) -> Result<T, ApiError> {
        self.get(name)?.ok_or_else(|| ApiError::missing(name))
    }

    /// A text or a list of texts.
    pub(crate) fn texts(self, name: &str) -> Result<Vec<String>, ApiError> {
        match self.value(name) {
            Some(Value::String(text)) => Ok(vec![text.clone()]),
            _ => Ok(self.get(name)?.unwrap_or_default()),
        }
    }

    /// A seed; OpenAI's is signed.
    pub(crate) fn seed(self) -> Result<Option<u64>, ApiError> {
        let Some(value) = self.value("seed") else {
            return Ok(None);
        };
        let seed = value.as_u64().or(value.as_i64().map(i64::cast_unsigned));
        let wrong = || {
            ApiError::invalid(
                "seed",
                format!("`seed` must be an integer of 64 bits, found {value}"),
            )
        };
        seed.ok_or_else(wrong).map(Some)
    }

    /// Refuses the first field that must be and asks for something.
    pub(crate) fn check(self, known: &[Known]) -> Result<(), ApiError> {
        for &Known { name, fate, .. } in known {
            let Fate::Refused(asks_for_nothing) = fate else {
                continue;
            };
            if self
                .value(name)
                .is_some_and(|value| !asks_for_nothing(value))
            {
                let message = format!("`{name}` with this value is not supported yet");
                return Err(ApiError::not_supported(name, message));
            }
        }
        Ok(())
    }
}

/// Does with every field what its table says: a value of the wrong kind, or any, must be refused by name, or change nothing.
#[cfg(test)]
pub(crate) fn check_fates(
    tables: &[&[Known]],
    body: &Value,
    read: impl Fn(&Map<String, Value>) -> Result<(), ApiError>,
) {
    use serde_json::json;
    for &Known { name, kind, fate } in tables.iter().copied().flatten() {
        let with = |value: Value| {
            let mut body = body.as_object().unwrap().clone();
            body.insert(name.to_owned(), value);
            read(&body)
        };
        let odd = json!({"odd": [true]});
        let wrong = match kind {
            Kind::Any | Kind::Object | Kind::TextOrObject => json!([7]),
            _ => odd.clone(),
        };
        match fate {
            Fate::Honoured => {
                let error = with(wrong).expect_err(name);
                assert_eq!((error.status, error.param.as_deref()), (400, Some(name)));
            }
            Fate::Refused(_) => {
                let error = with(odd).expect_err(name);
                assert_eq!((error.status, error.param.as_deref()), (400, Some(name)));
                assert_eq!(error.code, Some("unsupported_parameter"), "{name}");
            }
            Fate::Ignored => with(odd).unwrap(),
        }
        with(Value::Null).map_or_else(
            |error| assert_eq!(error.param.as_deref(), Some(name)),
            |()| {},
        );
    }
}
