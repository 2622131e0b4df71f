//! Keeps special tokens that somebody typed from becoming special.
//!
//! A rendered prompt is one string, in which the template's `<|user|>` and a user's look the same. So before rendering, special tokens
//! in what users, tools and callers wrote are put between two markers; afterwards the markers come out again, and what stood between
//! them is encoded as text. transformers does the same when asked to (`sanitize_control_tokens`). What the assistant said is left
//! alone: its `<think>` blocks must come back as the tokens they were.

use std::ops::Range;

use serde_json::Value as Json;

use crate::tokenizer::Tokenizer;

/// Noncharacters, which Unicode reserves for use inside a program.
const OPEN: char = '\u{fdd0}';
const CLOSE: char = '\u{fdd1}';

/// Marks the special tokens in `messages` and `tools`; `false` if there are none and the prompt needs no guard.
pub(super) fn mark(tokenizer: &Tokenizer, messages: &mut [Json], tools: &mut [Json]) -> bool {
    let mut found = false;
    for message in messages
        .iter_mut()
        .filter(|message| message["role"] != "assistant")
    {
        if let Some(content) = message.get_mut("content") {
            found |= mark_value(tokenizer, content);
        }
    }
    for tool in tools {
        found |= mark_value(tokenizer, tool);
    }
    found
}

fn mark_value(tokenizer: &Tokenizer, value: &mut Json) -> bool {
    match value {
        Json::String(text) => match mark_text(tokenizer, text) {
            Some(marked) => {
                *text = marked;
                true
            }
            None => false,
        },
        // `|` and not `||`: every item is to be marked
        Json::Array(items) => items
            .iter_mut()
            .fold(false, |found, item| mark_value(tokenizer, item) | found),
        Json::Object(entries) => entries
            .values_mut()
            .fold(false, |found, item| mark_value(tokenizer, item) | found),
        _ => false,
    }
}

/// The text with its special tokens between markers, or `None` if it has none.
fn mark_text(tokenizer: &Tokenizer, text: &str) -> Option<String> {
    let clean = text.replace([OPEN, CLOSE], "");
    let tokens = tokenizer.special_token_ranges(&clean);
    if tokens.is_empty() {
        return None;
    }
    let mut marked = String::with_capacity(clean.len() + 8 * tokens.len());
    let mut done = 0;
    for token in tokens {
        marked.push_str(&clean[done..token.start]);
        marked.push(OPEN);
        marked.push_str(&clean[token.clone()]);
        marked.push(CLOSE);
        done = token.end;
    }
    marked.push_str(&clean[done..]);
    Some(marked)
}

/// Takes the markers out of a rendered prompt; the byte ranges that stood between them.
pub(super) fn unmark(marked: &str) -> (String, Vec<Range<usize>>) {
    let mut text = String::with_capacity(marked.len());
    let mut guarded = Vec::new();
    let mut open = None;
    for c in marked.chars() {
        match c {
            OPEN => open = Some(text.len()),
            CLOSE => guarded.extend(open.take().map(|start| start..text.len())),
            _ => text.push(c),
        }
    }
    (text, guarded)
}
