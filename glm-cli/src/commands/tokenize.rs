//! `tokenize`: text to token ids and back.

use std::path::Path;

use glm_core::chat::ChatRequest;
use glm_core::tokenizer::SpecialTokens;
use glm_core::{ChatFormat, Tokenizer};
use serde_json::{Value, json};

use super::generate::read_stdin;
use super::{open_source, read_text_file, refuse_cuda};
use crate::args::TokenizeArgs;
use crate::error::CliError;
use crate::terminal::output;
use crate::values::TokenIds;

/// What is to be turned into what.
enum Input {
    Text(String),
    Ids(Vec<u32>),
    Chat(ChatRequest),
}

pub fn run(args: &TokenizeArgs) -> Result<(), CliError> {
    refuse_cuda(args.model.device)?;
    let input = read_input(args)?;
    let source = open_source(&args.model)?;
    let checkpoint = source
        .checkpoint()
        .ok_or_else(|| CliError::Usage(format!("{} has no tokenizer", source.name())))?;
    let tokenizer = checkpoint.tokenizer().map_err(CliError::usage)?;
    let (text, ids) = match input {
        Input::Ids(ids) => (decode(&tokenizer, &ids)?, ids),
        Input::Text(text) => {
            let ids = tokenizer
                .encode(&text, SpecialTokens::Parse)
                .map_err(CliError::usage)?;
            (text, ids)
        }
        Input::Chat(chat) => render(
            &checkpoint.chat_format().map_err(CliError::usage)?,
            &tokenizer,
            &chat,
        )?,
    };
    if args.json {
        output::print_json(&report(&tokenizer, &text, &ids))
    } else if args.ids.is_some() {
        output::print_line(&text)
    } else {
        output::print_line(&ids.iter().map(u32::to_string).collect::<Vec<_>>().join(","))
    }
}

fn read_input(args: &TokenizeArgs) -> Result<Input, CliError> {
    if let Some(TokenIds(ids)) = &args.ids {
        return Ok(Input::Ids(ids.clone()));
    }
    if let Some(path) = &args.chat {
        return read_chat(path).map(Input::Chat);
    }
    match args.text.as_ref().or(args.positional.as_ref()) {
        Some(text) => Ok(Input::Text(text.clone())),
        None => read_stdin().map(Input::Text),
    }
}

/// A conversation in a file: a list of OpenAI messages, or an object with `messages` and perhaps `tools`.
pub(super) fn read_chat(path: &Path) -> Result<ChatRequest, CliError> {
    let wrong = |reason: String| CliError::Usage(format!("{}: {reason}", path.display()));
    let value: Value =
        serde_json::from_str(&read_text_file(path)?).map_err(|error| wrong(error.to_string()))?;
    match value {
        Value::Array(_) => serde_json::from_value(value).map(ChatRequest::new),
        Value::Object(mut object) => {
            object.retain(|_, value| !value.is_null()); // clients write `"tools": null` for none
            serde_json::from_value(Value::Object(object))
        }
        other => serde_json::from_value(other),
    }
    .map_err(|error| {
        wrong(format!(
            "expected a list of OpenAI messages or an object with `messages`: {error}"
        ))
    })
}

fn decode(tokenizer: &Tokenizer, ids: &[u32]) -> Result<String, CliError> {
    let size = tokenizer.vocab_size();
    match ids.iter().find(|&&id| id as usize >= size) {
        Some(id) => Err(CliError::Usage(format!(
            "token id {id} is outside the vocabulary of {size} tokens"
        ))),
        None => Ok(tokenizer.decode(ids, false)),
    }
}

fn render(
    format: &ChatFormat,
    tokenizer: &Tokenizer,
    chat: &ChatRequest,
) -> Result<(String, Vec<u32>), CliError> {
    let text = format.render(chat).map_err(CliError::usage)?;
    let ids = format.encode(tokenizer, chat).map_err(CliError::usage)?;
    Ok((text, ids))
}

fn report(tokenizer: &Tokenizer, text: &str, ids: &[u32]) -> Value {
    let piece = |&id: &u32| String::from_utf8_lossy(&tokenizer.token_bytes(id)).into_owned();
    let pieces: Vec<_> = ids.iter().map(piece).collect();
    json!({ "text": text, "token_ids": ids, "pieces": pieces, "count": ids.len() })
}
