//! The fields of a body, read one by one so that an error can name the one that is wrong.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::ApiError;

/// The fields of a body; `null` counts as absent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a>(pub(super) &'a Map<String, Value>);

/// A field that is not supported, and the values of it that ask for nothing.
pub(super) type Refusal = (&'static str, fn(&Value) -> bool);

impl<'a> Fields<'a> {
    pub(super) fn value(self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    pub(super) fn get<T: DeserializeOwned>(self, name: &str) -> Result<Option<T>, ApiError> {
        let read = |value| {
            T::deserialize(value)
                .map_err(|error| ApiError::invalid(name, format!("`{name}`: {error}")))
        };
        self.value(name).map(read).transpose()
    }

    pub(super) fn required<T: DeserializeOwned>(self, name: &str) -> Result<T, ApiError> {
        self.get(name)?.ok_or_else(|| ApiError::missing(name))
    }

    /// A text or a list of texts.
    pub(super) fn texts(self, name: &str) -> Result<Vec<String>, ApiError> {
        match self.value(name) {
            Some(Value::String(text)) => Ok(vec![text.clone()]),
            _ => Ok(self.get(name)?.unwrap_or_default()),
        }
    }

    /// A seed; OpenAI's is signed.
    pub(super) fn seed(self) -> Result<Option<u64>, ApiError> {
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

    /// The first of `refusals` that is there and asks for something.
    pub(super) fn refuse(self, refusals: &[Refusal]) -> Result<(), ApiError> {
        for &(name, asks_for_nothing) in refusals {
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
