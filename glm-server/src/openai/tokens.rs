//! Text to token ids and back, in the bodies that vLLM made common: `/tokenize` and `/detokenize`.

use glm_core::tokenizer::SpecialTokens;
use glm_runtime::EngineHandle;
use serde_json::{Map, Value, json};

use super::ApiError;
use super::fields::{Fields, Kind, Known};
use super::request::chat_request;
use super::tools::Tools;

/// Of `/tokenize`.
pub(crate) const TOKENIZE_FIELDS: &[Known] = &[
    Known::honoured("add_generation_prompt", Kind::Boolean),
    Known::honoured("add_special_tokens", Kind::Boolean),
    Known::honoured("chat_template_kwargs", Kind::Object),
    Known::honoured("continue_final_message", Kind::Boolean),
    Known::honoured("messages", Kind::Objects),
    Known::honoured("model", Kind::Text),
    Known::honoured("prompt", Kind::Text),
    Known::honoured("reasoning_effort", Kind::Text),
    Known::honoured("tool_choice", Kind::TextOrObject),
    Known::honoured("tools", Kind::Objects),
];

/// The token ids of a `prompt`, or of a chat: what the endpoints for completions would give to the model.
///
/// `add_special_tokens: false` leaves out the tokenizer's own prefix of a prompt, `add_generation_prompt: false` the beginning
/// of the answer to a chat.
///
/// # Errors
/// [`ApiError`] with status 400 and the field to blame.
pub fn tokenize(engine: &EngineHandle, body: &Map<String, Value>) -> Result<Value, ApiError> {
    let fields = Fields(body);
    let tokens = match (fields.value("messages"), fields.get::<String>("prompt")?) {
        (None, Some(prompt)) if fields.get("add_special_tokens")?.unwrap_or(true) => {
            engine.encode(&prompt)?
        }
        (None, Some(prompt)) => {
            let tokens = engine.tokenizer()?.encode(&prompt, SpecialTokens::Parse);
            tokens.map_err(|error| ApiError::invalid("prompt", error.to_string()))?
        }
        (Some(_), None) => chat_tokens(engine, fields)?,
        (None, None) => return Err(ApiError::missing("prompt")),
        (Some(_), Some(_)) => {
            let message = "either `prompt` or `messages`, not both";
            return Err(ApiError::invalid("messages", message));
        }
    };
    Ok(json!({
        "count": tokens.len(),
        "max_model_len": engine.model_info().max_model_len,
        "tokens": tokens,
    }))
}

fn chat_tokens(engine: &EngineHandle, fields: Fields<'_>) -> Result<Vec<u32>, ApiError> {
    let mut request = chat_request(fields, &Tools::read(fields)?)?;
    if let Some(add) = fields.get("add_generation_prompt")? {
        request.add_generation_prompt = add;
    }
    let tokens = engine.chat_format()?.encode(engine.tokenizer()?, &request);
    tokens.map_err(|error| ApiError::invalid("messages", error.to_string()))
}

/// The text of `tokens`, special tokens included.
///
/// # Errors
/// [`ApiError`] with status 400 and the field to blame.
pub fn detokenize(engine: &EngineHandle, body: &Map<String, Value>) -> Result<Value, ApiError> {
    let tokens: Vec<u32> = Fields(body).required("tokens")?;
    check_ids(engine, "tokens", &tokens)?;
    Ok(json!({"prompt": engine.tokenizer()?.decode(&tokens, false)}))
}

/// Refuses ids that are no tokens.
pub(super) fn check_ids(engine: &EngineHandle, field: &str, ids: &[u32]) -> Result<(), ApiError> {
    let vocab_size = engine.model_info().vocab_size;
    match ids.iter().find(|id| **id as usize >= vocab_size) {
        None => Ok(()),
        Some(id) => {
            let message = format!("token id {id} is outside the vocabulary of {vocab_size} tokens");
            Err(ApiError::invalid(field, message))
        }
    }
}
