//! Doors to parsers for the fuzz targets and their replayed cases; no part of the public interface.

use std::collections::BTreeMap;
use std::path::Path;

use serde::de::IgnoredAny;
use serde_json::{Value as Json, json};

use crate::chat::{Answer, AnswerEvent, AnswerParser, CallFormat};
use crate::checkpoint::parse_index;
use crate::error::LoadError;
use crate::source::SourceFile;
use crate::{pytorch, safetensors};

/// Shards of an index, each with its tensors.
///
/// # Errors
/// As opening a checkpoint with this index.
pub fn index(text: &str) -> Result<BTreeMap<String, Vec<String>>, LoadError> {
    parse_index(text, Path::new("model.safetensors.index.json"))
}

/// Number of tensors in a safetensors file.
///
/// # Errors
/// As opening a checkpoint with this file.
pub fn safetensors_header(bytes: Vec<u8>) -> Result<usize, LoadError> {
    let file = SourceFile::in_memory("model.safetensors".into(), bytes);
    safetensors::read_header(&file, 0).map(|tensors| tensors.len())
}

/// Number of tensors in a PyTorch file.
///
/// # Errors
/// As opening a checkpoint with this file.
pub fn pytorch_header(bytes: Vec<u8>) -> Result<usize, LoadError> {
    let file = SourceFile::in_memory("pytorch_model.bin".into(), bytes);
    pytorch::read_header(&file, 0).map(|tensors| tensors.len())
}

/// Number of tensors in a bare pickle; `None` if it is no state dict.
pub fn pickle(program: &[u8]) -> Option<usize> {
    pytorch::count_tensors(program)
}

/// Reads an answer in one piece and in several: what comes out must be the same. The first character of `input` says how it is read, `0` to
/// `7`: without calls, or with those of ChatGLM3, GLM-4 or GLM-4.5, and 4 more where the prompt has opened a thought. Behind it is the
/// answer, with a `~` wherever it is cut.
///
/// # Panics
/// If it is not, or if a complete call of GLM-4.5 has arguments that are no JSON.
pub fn check_answer(input: &str) {
    let Some(how) = input.chars().next() else {
        return;
    };
    let format = match u32::from(how) % 4 {
        0 => None,
        1 => Some(CallFormat::Python),
        2 => Some(CallFormat::Json),
        _ => Some(CallFormat::Tagged { lines: true }),
    };
    let opens_think = u32::from(how) % 8 >= 4;
    let text = &input[how.len_utf8()..];
    let read = |pieces: &mut dyn Iterator<Item = &str>| {
        let mut parser = AnswerParser::new(format, &tools(), opens_think);
        let mut events: Vec<_> = pieces.flat_map(|piece| parser.push(piece)).collect();
        events.extend(parser.finish());
        joined(events)
    };
    let whole = read(&mut std::iter::once(&*text.replace('~', "")));
    let cut = read(&mut text.split('~'));
    assert_eq!(whole, cut);

    let mut answer = Answer::default();
    answer.extend(whole);
    if let Some(CallFormat::Tagged { .. }) = format {
        for call in answer.calls.iter().filter(|call| call.complete) {
            let json = serde_json::from_str::<IgnoredAny>(&call.arguments);
            assert!(json.is_ok(), "{}", call.arguments);
        }
    }
}

/// Tools with parameters of every type that the formats tell apart.
fn tools() -> [Json; 2] {
    let properties = json!({
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "fresh": {"type": "boolean"},
        "area": {"type": ["object", "array", "null"]},
        "any": {},
    });
    let parameters = json!({"type": "object", "properties": properties});
    [
        json!({"type": "function", "function": {"name": "weather", "parameters": parameters}}),
        json!({"type": "function", "function": {"name": "now"}}),
    ]
}

/// The same events with texts that follow each other put together, and without empty ones.
fn joined(events: Vec<AnswerEvent>) -> Vec<AnswerEvent> {
    use AnswerEvent::{CallArguments, Content, Reasoning};
    let mut joined: Vec<AnswerEvent> = Vec::new();
    for event in events {
        match (joined.last_mut(), event) {
            (_, Content(text) | Reasoning(text)) if text.is_empty() => {}
            (_, CallArguments { json, .. }) if json.is_empty() => {}
            (Some(Content(before)), Content(text)) => before.push_str(&text),
            (Some(Reasoning(before)), Reasoning(text)) => before.push_str(&text),
            (Some(CallArguments { index: of, json }), CallArguments { index, json: more })
                if *of == index =>
            {
                json.push_str(&more);
            }
            (_, event) => joined.push(event),
        }
    }
    joined
}
