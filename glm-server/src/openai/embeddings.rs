//! Embeddings: texts to vectors whose direction says what they are about.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use glm_runtime::{EngineHandle, PendingEmbedding};
use serde_json::{Map, Value, json};

use super::fields::{Fields, Kind, Known};
use super::request::{adapter, prompts};
use super::{ApiError, check_model};

/// Of embeddings.
pub(crate) const EMBEDDING_FIELDS: &[Known] = &[
    Known::honoured("adapter", Kind::Text),
    Known::honoured("dimensions", Kind::Count),
    Known::honoured("encoding_format", Kind::Text),
    Known::honoured("input", Kind::Prompts),
    Known::honoured("model", Kind::Text),
    Known::honoured("normalize", Kind::Boolean),
    Known::ignored("user"),
];

/// What a body asks of the engine.
#[derive(Debug)]
pub(crate) struct EmbeddingCall {
    inputs: Vec<Vec<u32>>,
    base64: bool,
    normalize: bool,
    adapter: Option<String>,
}

impl EmbeddingCall {
    /// Reads a body. Vectors have length 1 unless `normalize` is false, an extension: then they are the plain means.
    ///
    /// # Errors
    /// [`ApiError`] with status 400 and the field to blame, 404 for a model that is not here.
    pub(crate) fn read(engine: &EngineHandle, body: &Map<String, Value>) -> Result<Self, ApiError> {
        let fields = Fields(body);
        let base64 = match fields.get::<String>("encoding_format")?.as_deref() {
            None | Some("float") => false,
            Some("base64") => true,
            Some(_) => {
                let message = "`encoding_format` must be float or base64";
                return Err(ApiError::invalid("encoding_format", message));
            }
        };
        let hidden_size = engine.model_info().hidden_size;
        if let Some(dimensions) = fields.get::<usize>("dimensions")?
            && dimensions != hidden_size
        {
            let message = format!(
                "embeddings of this model have {hidden_size} dimensions, and cannot be shortened"
            );
            return Err(ApiError::not_supported("dimensions", message));
        }
        let is_empty = |value: &Value| value == "";
        let input = fields.value("input");
        if input
            .is_some_and(|i| is_empty(i) || i.as_array().is_some_and(|i| i.iter().any(is_empty)))
        {
            let message = "`input` must not be empty";
            return Err(ApiError::invalid("input", message));
        }
        let inputs = prompts(engine, fields, "input")?;
        Ok(Self {
            inputs,
            base64,
            normalize: fields.get("normalize")?.unwrap_or(true),
            adapter: adapter(engine, fields)?,
        })
    }

    /// Tokens of all inputs.
    pub(crate) fn num_tokens(&self) -> usize {
        self.inputs.iter().map(Vec::len).sum()
    }

    /// Hands the inputs to the engine.
    ///
    /// # Errors
    /// One of them is too long, or the engine takes nothing; then none of them is computed.
    pub(crate) fn submit(&self, engine: &EngineHandle) -> Result<Vec<PendingEmbedding>, ApiError> {
        let embed = |ids: &Vec<u32>| {
            let pending = engine.embed(ids, self.adapter.as_deref());
            pending.map_err(|error| {
                let error = ApiError::from(error);
                let param = error.param.clone().unwrap_or_else(|| "input".to_owned());
                ApiError {
                    param: Some(param),
                    ..error
                }
            })
        };
        self.inputs.iter().map(embed).collect()
    }

    /// The body of the response.
    pub(crate) fn response(&self, engine: &EngineHandle, means: &[Vec<f32>]) -> Value {
        let embedding = |(index, mean): (usize, &Vec<f32>)| {
            let vector = match self.normalize {
                true => normalized(mean),
                false => mean.clone(),
            };
            let value: Value = match self.base64 {
                true => {
                    let bytes: Vec<u8> = vector.iter().flat_map(|v| v.to_le_bytes()).collect();
                    BASE64_STANDARD.encode(bytes).into()
                }
                false => vector.into(),
            };
            json!({"object": "embedding", "index": index, "embedding": value})
        };
        let tokens = self.num_tokens();
        let model = self.adapter.as_ref().unwrap_or(&engine.model_info().name);
        json!({
            "object": "list",
            "data": means.iter().enumerate().map(embedding).collect::<Vec<_>>(),
            "model": model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        })
    }
}

/// A vector of the same direction and length 1; zeros stay zeros.
fn normalized(vector: &[f32]) -> Vec<f32> {
    let square: f64 = vector.iter().map(|v| f64::from(*v).powi(2)).sum();
    let length = square.sqrt();
    let scale = if length > 0.0 { 1.0 / length } else { 0.0 };
    vector
        .iter()
        .map(|v| (f64::from(*v) * scale) as f32)
        .collect()
}

/// The response to a body, waited for: for callers that have a thread to wait on.
///
/// # Errors
/// [`ApiError`], as HTTP clients get it.
pub fn embeddings(engine: &EngineHandle, body: &Map<String, Value>) -> Result<Value, ApiError> {
    check_model(engine, body)?;
    let call = EmbeddingCall::read(engine, body)?;
    let pending = call.submit(engine)?.into_iter();
    let means: Result<Vec<_>, _> = pending.map(PendingEmbedding::wait).collect();
    Ok(call.response(engine, &means?))
}

#[cfg(test)]
mod tests {
    use super::super::fields::check_fates;
    use super::super::tests::ENGINE;
    use super::*;

    fn ask(fields: Value) -> Result<Value, ApiError> {
        embeddings(&ENGINE, fields.as_object().unwrap())
    }

    fn vectors(body: &Value) -> Vec<Vec<f64>> {
        let vector = |entry: &Value| {
            let values = entry["embedding"].as_array().unwrap().iter();
            values.map(|v| v.as_f64().unwrap()).collect()
        };
        body["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(vector)
            .collect()
    }

    #[test]
    fn inputs_of_every_kind_are_embedded() {
        let ids = ENGINE.encode("Hello").unwrap();
        let one = ask(json!({"input": "Hello"})).unwrap();
        let hello = vectors(&one).remove(0);
        assert_eq!(hello.len(), ENGINE.model_info().hidden_size);
        let length: f64 = hello.iter().map(|v| v * v).sum();
        assert!((length - 1.0).abs() < 1e-5, "{length}");
        assert_eq!(
            one["usage"],
            json!({"prompt_tokens": ids.len(), "total_tokens": ids.len()})
        );
        for input in [json!(["Bye", "Hello"]), json!([[1, 2], ids])] {
            let two = ask(json!({"input": input})).unwrap();
            assert_eq!(vectors(&two)[1], hello);
            assert_eq!(two["data"][1]["index"], 1);
        }
        assert_eq!(
            vectors(&ask(json!({"input": ids})).unwrap()),
            std::slice::from_ref(&hello)
        );
        let plain = vectors(&ask(json!({"input": "Hello", "normalize": false})).unwrap()).remove(0);
        let mean = ENGINE.embed(&ids, None).unwrap().wait().unwrap();
        assert_eq!(
            plain,
            mean.iter().map(|v| f64::from(*v)).collect::<Vec<_>>()
        );
    }

    #[test]
    fn base64_says_the_same_in_less_room() {
        let float = vectors(&ask(json!({"input": "Hello"})).unwrap()).remove(0);
        let packed = ask(json!({"input": "Hello", "encoding_format": "base64"})).unwrap();
        let bytes = BASE64_STANDARD
            .decode(packed["data"][0]["embedding"].as_str().unwrap())
            .unwrap();
        let values = bytes
            .chunks_exact(4)
            .map(|v| f32::from_le_bytes(v.try_into().unwrap()));
        assert_eq!(values.map(f64::from).collect::<Vec<_>>(), float);
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_name() {
        let most = ENGINE.model_info().max_model_len;
        for (fields, param, code) in [
            (json!({}), "input", "missing_required_parameter"),
            (json!({"input": []}), "input", "invalid_value"),
            (json!({"input": ""}), "input", "invalid_value"),
            (json!({"input": ["a", ""]}), "input", "invalid_value"),
            (json!({"input": [[]]}), "input", "invalid_value"),
            (json!({"input": {"a": 1}}), "input", "invalid_value"),
            (
                json!({"input": vec![1; most + 1]}),
                "input",
                "context_length_exceeded",
            ),
            (json!({"input": [u32::MAX]}), "input", "invalid_value"),
            (
                json!({"input": "a", "dimensions": 3}),
                "dimensions",
                "unsupported_parameter",
            ),
            (
                json!({"input": "a", "encoding_format": "hex"}),
                "encoding_format",
                "invalid_value",
            ),
        ] {
            let error = ask(fields.clone()).unwrap_err();
            assert_eq!(
                (error.status, error.param.as_deref(), error.code),
                (400, Some(param), Some(code)),
                "{}",
                error.message
            );
        }
        let unknown = ask(json!({"input": "a", "model": "nobody"})).unwrap_err();
        assert_eq!(
            (unknown.status, unknown.code),
            (404, Some("model_not_found"))
        );
        check_fates(&[EMBEDDING_FIELDS], &json!({"input": "a"}), |body| {
            EmbeddingCall::read(&ENGINE, body).map(drop)
        });
    }
}
