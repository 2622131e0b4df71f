//! Which model answers: one function for everything that takes requests.

use glm_runtime::EngineHandle;
use serde_json::{Map, Value};

use super::ApiError;

/// Refuses a `model` that is not here. None at all is the one that is.
///
/// # Errors
/// 404, as HTTP clients and lines of a batch get it.
pub fn check_model(engine: &EngineHandle, body: &Map<String, Value>) -> Result<(), ApiError> {
    match body.get("model").and_then(Value::as_str) {
        Some(name) if !serves(engine, name) => Err(ApiError {
            param: Some("model".to_owned()),
            ..no_model(name)
        }),
        _ => Ok(()),
    }
}

/// Whether this is a name of the model (its own, or what it was asked for as) or of one of its adapters.
pub(crate) fn serves(engine: &EngineHandle, name: &str) -> bool {
    let info = engine.model_info();
    info.name == name || info.asked_as == name || engine.has_adapter(name)
}

/// 404: there is no such model.
pub(crate) fn no_model(name: &str) -> ApiError {
    ApiError {
        code: Some("model_not_found"),
        ..ApiError::not_found(format!(
            "the model `{name}` is not here; GET /v1/models lists those that are"
        ))
    }
}
