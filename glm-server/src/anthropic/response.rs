//! Answers to messages.

use glm_runtime::{Completion, EngineHandle, FinishReason, Finished, Usage};
use serde_json::{Value, json};

use super::partial_json;
use crate::openai::{Form, Stamp};
use crate::parts::{Part, Parts};

/// What a message says besides the answer.
#[derive(Debug, Clone)]
pub(crate) struct MessageForm {
    pub(super) prompt_tokens: usize,
    pub(super) thoughts: Thoughts,
}

/// What is said of the model's thoughts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Thoughts {
    /// Nothing.
    Hidden,
    /// That there were some.
    Omitted,
    /// All of them.
    Shown,
}

impl MessageForm {
    /// The body of a response. One prompt, one answer: the dialect knows no more.
    pub(crate) fn response(
        &self,
        form: &Form,
        engine: &EngineHandle,
        stamp: &Stamp,
        answer: &Completion,
    ) -> Value {
        let mut parts = self.parts(form);
        let texts = answer.tokens.iter().map(|token| token.text.as_str());
        let blocks = parts.whole(texts);
        let blocks = blocks.iter().enumerate();
        let blocks: Vec<Value> = blocks
            .map(|(index, part)| self.block(index, part, stamp))
            .collect();
        let mut message = self.message(form, engine, stamp);
        message["content"] = blocks.into();
        let (reason, sequence) = stop(&answer.finished, parts.has_calls());
        message["stop_reason"] = reason;
        message["stop_sequence"] = sequence;
        message["usage"] = usage(&answer.finished.usage, parts.thought_tokens());
        message
    }

    /// The message before anything is in it.
    pub(super) fn message(&self, form: &Form, engine: &EngineHandle, stamp: &Stamp) -> Value {
        let begun = Usage {
            prompt_tokens: self.prompt_tokens,
            ..Usage::default()
        };
        json!({
            "id": format!("msg_{}", stamp.id),
            "type": "message",
            "role": "assistant",
            "model": form.model(engine),
            "content": [],
            "stop_reason": null,
            "stop_sequence": null,
            "usage": usage(&begun, 0),
        })
    }

    /// Takes an answer apart as this message wants it.
    pub(super) fn parts(&self, form: &Form) -> Parts {
        Parts::new(form.parser(), self.thoughts != Thoughts::Hidden)
    }

    /// Block number `index`.
    pub(super) fn block(&self, index: usize, part: &Part, stamp: &Stamp) -> Value {
        match part {
            Part::Text(text) => json!({"type": "text", "text": text}),
            Part::Thought(text) => json!({
                "type": "thinking",
                "thinking": if self.thoughts == Thoughts::Shown { text } else { "" },
                "signature": signature(stamp),
            }),
            Part::Call {
                name, arguments, ..
            } => json!({
                "type": "tool_use",
                "id": format!("toolu_{}-{index}", stamp.id),
                "name": name,
                "input": partial_json::complete(arguments),
            }),
        }
    }
}

/// What clients give back with a thought. Nothing is signed: whoever owns the service may say what the model thought.
pub(super) fn signature(stamp: &Stamp) -> String {
    format!("unsigned_{}", stamp.id)
}

/// `stop_reason` and `stop_sequence`.
pub(super) fn stop(finished: &Finished, has_calls: bool) -> (Value, Value) {
    let reason = match finished.reason {
        FinishReason::Stop if finished.stop_string.is_some() => json!("stop_sequence"),
        FinishReason::Stop if has_calls => json!("tool_use"),
        FinishReason::Stop => json!("end_turn"),
        FinishReason::Length => json!("max_tokens"),
        FinishReason::Cancelled => Value::Null,
    };
    (reason, finished.stop_string.as_deref().into())
}

/// `input_tokens` are those that were computed: what the cache had comes on top of them.
pub(super) fn usage(usage: &Usage, thought_tokens: usize) -> Value {
    json!({
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": thought_tokens},
    })
}
