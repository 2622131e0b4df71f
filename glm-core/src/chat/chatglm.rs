//! ChatGLM2 and ChatGLM3, whose chats are put together as tokens: role tokens are ids, and every text is encoded on its own, with
//! sentencepiece's dummy blank. Nothing in a text can become a role token.

use serde_json::Value as Json;

use super::message::{Content, Message};
use super::python::{self, JsonStyle};
use super::{ChatRequest, TemplateError};
use crate::tokenizer::{SpecialTokens, Tokenizer, TokenizerError};

/// What ChatGLM3 was trained to read before a list of tools.
const TOOLS_HEADER: &str =
    "Answer the following questions as best as you can. You have access to the following tools:";

/// A piece of a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    /// A special token.
    Token(String),
    /// Text that is encoded on its own.
    Text(String),
}

/// The ids of a prompt.
pub(super) fn encode(tokenizer: &Tokenizer, pieces: &[Piece]) -> Result<Vec<u32>, TokenizerError> {
    let mut ids = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Token(token) => ids.push(tokenizer.required_id(token)?),
            Piece::Text(text) => ids.extend(tokenizer.encode(text, SpecialTokens::Plain)?),
        }
    }
    Ok(ids)
}

/// The prompt as text; every text shows the blank that sentencepiece puts before it.
pub(super) fn to_text(pieces: &[Piece]) -> String {
    let mut out = String::new();
    for piece in pieces {
        match piece {
            Piece::Token(token) => out.push_str(token),
            Piece::Text(text) => {
                // the blank before a lone newline is not shown, as in the published format
                if !text.is_empty() && text != "\n" && out.ends_with('\n') {
                    out.push(' ');
                }
                out.push_str(text);
            }
        }
    }
    out
}

/// ChatGLM3: per message the role token, metadata and a newline, content; then `<|assistant|>`.
pub(super) fn chatglm3(request: &ChatRequest) -> Result<Vec<Piece>, TemplateError> {
    let mut pieces = vec![Piece::Token("[gMASK]".into()), Piece::Token("sop".into())];
    let mut turn = |role: &str, metadata: &str, content: String| {
        pieces.push(Piece::Token(format!("<|{role}|>")));
        pieces.push(Piece::Text(format!("{metadata}\n")));
        pieces.push(Piece::Text(content));
    };
    if !request.tools.is_empty() {
        let functions = request
            .tools
            .iter()
            .map(|tool| tool.get("function").unwrap_or(tool).clone())
            .collect();
        turn(
            "system",
            "",
            format!("{TOOLS_HEADER}\n{}", indented(&Json::Array(functions))),
        );
    }
    for (index, message) in request.messages.iter().enumerate() {
        let content = text_of(message, index)?;
        match message.role.as_str() {
            "system" | "user" | "observation" => turn(
                &message.role,
                message.metadata.as_deref().unwrap_or_default(),
                content,
            ),
            "tool" | "function" => turn("observation", "", content),
            "assistant" => {
                if !content.is_empty() || message.tool_calls.is_empty() {
                    turn(
                        "assistant",
                        message.metadata.as_deref().unwrap_or_default(),
                        content,
                    );
                }
                for call in &message.tool_calls {
                    turn("assistant", call.name(), python_call(&call.arguments()));
                }
            }
            role => {
                let known = "system, user, assistant, tool, observation";
                return Err(TemplateError::Role {
                    index,
                    role: role.to_owned(),
                    known,
                });
            }
        }
    }
    if request.add_generation_prompt {
        pieces.push(Piece::Token("<|assistant|>".into()));
    }
    Ok(pieces)
}

/// ChatGLM2: one text of numbered rounds. A system text stands before the first question, for want of a place of its own.
pub(super) fn chatglm2(request: &ChatRequest) -> Result<Vec<Piece>, TemplateError> {
    let mut text = String::new();
    let mut round = 0;
    let mut preamble = String::new();
    for (index, message) in request.messages.iter().enumerate() {
        let content = text_of(message, index)?;
        match message.role.as_str() {
            "system" => preamble.push_str(&(content + "\n\n")),
            "user" => {
                round += 1;
                let separator = if round == 1 { "" } else { "\n\n" };
                let preamble = std::mem::take(&mut preamble);
                text.push_str(&format!(
                    "{separator}[Round {round}]\n\n问：{preamble}{content}\n\n答："
                ));
            }
            "assistant" => text.push_str(&content),
            role => {
                return Err(TemplateError::Role {
                    index,
                    role: role.to_owned(),
                    known: "system, user, assistant",
                });
            }
        }
    }
    Ok(vec![
        Piece::Token("[gMASK]".into()),
        Piece::Token("sop".into()),
        Piece::Text(text),
    ])
}

fn text_of(message: &Message, index: usize) -> Result<String, TemplateError> {
    match &message.content {
        Some(Content::Text(text)) => Ok(text.clone()),
        _ => message
            .plain_text()
            .map_err(|kind| TemplateError::Content { index, kind }),
    }
}

/// `json.dumps(value, indent=4, ensure_ascii=False)`.
fn indented(value: &Json) -> String {
    let style = JsonStyle {
        ensure_ascii: false,
        indent: Some("    ".into()),
        item_separator: ",".into(),
        key_separator: ": ".into(),
        sort_keys: false,
    };
    python::dumps(&python::from_json(value), &style).unwrap_or_default() // fails only for what is not JSON
}

/// A call the way ChatGLM3 writes it: Python in a code block.
fn python_call(arguments: &Json) -> String {
    let arguments = match arguments {
        Json::Object(entries) => {
            let pairs = entries
                .iter()
                .map(|(key, value)| format!("{key}={}", python::repr(&python::from_json(value))));
            pairs.collect::<Vec<_>>().join(", ")
        }
        other => python::repr(&python::from_json(other)),
    };
    format!("```python\ntool_call({arguments})\n```")
}
