//! Answers of the engine to bodies.

use glm_runtime::{Completion, EngineHandle, FinishReason, Token, Tokenizer};
use serde_json::{Map, Value, json};

/// What a response says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// Unique part of the response's id; its kind is put before it.
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
}

/// How the response to one request is made of the answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Form {
    pub(super) shape: Shape,
    pub(super) n: usize,
    pub(super) logprobs: bool,
    /// What answers instead of the model itself.
    pub(super) adapter: Option<String>,
    pub(super) stop_token_ids: Vec<u32>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Shape {
    Chat(Chat),
    Text,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Chat {
    /// The prompt ends inside a think block.
    pub(super) opens_think: bool,
    /// Say what the model thought, in `reasoning_content`.
    pub(super) include_reasoning: bool,
}

impl Form {
    /// The body of a response: `answers` to the first prompt, then to the second, and so on.
    pub fn response(&self, engine: &EngineHandle, stamp: &Stamp, answers: &[Completion]) -> Value {
        let (prefix, object) = match self.shape {
            Shape::Chat(_) => ("chatcmpl", "chat.completion"),
            Shape::Text => ("cmpl", "text_completion"),
        };
        let tokenizer = engine.tokenizer().ok();
        let choice = |(index, answer)| self.choice(index, answer, tokenizer);
        json!({
            "id": format!("{prefix}-{}", stamp.id),
            "object": object,
            "created": stamp.created,
            "model": self.adapter.as_ref().unwrap_or(&engine.model_info().name),
            "choices": answers.iter().enumerate().map(choice).collect::<Vec<_>>(),
            "usage": self.usage(answers),
            "system_fingerprint": null,
        })
    }

    fn choice(&self, index: usize, answer: &Completion, tokenizer: Option<&Tokenizer>) -> Value {
        let logprobs = self.logprobs.then(|| {
            let tokens = self.without_end(answer, tokenizer);
            match self.shape {
                Shape::Chat(_) => json!({
                    "content": tokens.iter().map(|t| chat_logprob(t, tokenizer)).collect::<Vec<_>>(),
                    "refusal": null,
                }),
                Shape::Text => text_logprobs(tokens, tokenizer),
            }
        });
        let finish_reason = match answer.finished.reason {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::Cancelled => "cancelled",
        };
        match &self.shape {
            Shape::Chat(chat) => json!({
                "index": index,
                "message": chat.message(&answer.text),
                "logprobs": logprobs,
                "finish_reason": finish_reason,
            }),
            Shape::Text => json!({
                "index": index,
                "text": answer.text,
                "logprobs": logprobs,
                "finish_reason": finish_reason,
            }),
        }
    }

    /// The tokens of an answer but for the one that ended it, which is not part of the text.
    fn without_end<'a>(
        &self,
        answer: &'a Completion,
        tokenizer: Option<&Tokenizer>,
    ) -> &'a [Token] {
        let is_end =
            |id| self.stop_token_ids.contains(&id) || tokenizer.is_some_and(|t| t.is_special(id));
        match answer.tokens.split_last() {
            Some((last, rest))
                if answer.finished.reason == FinishReason::Stop && is_end(last.id) =>
            {
                rest
            }
            _ => &answer.tokens,
        }
    }

    /// A prompt is counted once, however many answers it has.
    fn usage(&self, answers: &[Completion]) -> Value {
        let of_prompts = || answers.iter().step_by(self.n).map(|a| a.finished.usage);
        let prompt_tokens: usize = of_prompts().map(|usage| usage.prompt_tokens).sum();
        let cached_tokens: usize = of_prompts().map(|usage| usage.cached_tokens).sum();
        let all = answers.iter();
        let completion_tokens: usize = all.map(|a| a.finished.usage.completion_tokens).sum();
        json!({
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "prompt_tokens_details": {"cached_tokens": cached_tokens},
        })
    }
}

impl Chat {
    fn message(&self, text: &str) -> Value {
        let (reasoning, answer) = split_thinking(text, self.opens_think);
        // Templates begin a turn with the line end that models put before their answer.
        let answer = answer.trim_start_matches('\n');
        let mut message = json!({"role": "assistant", "content": answer, "refusal": null});
        if let Some(reasoning) = reasoning.filter(|_| self.include_reasoning) {
            message["reasoning_content"] = reasoning.into();
        }
        message
    }
}

/// What the model thought before its answer, and the answer; `inside`: the prompt began the thought.
pub(super) fn split_thinking(text: &str, inside: bool) -> (Option<&str>, &str) {
    let thought = match text.trim_start().strip_prefix("<think>") {
        Some(thought) => thought,
        None if inside => text,
        None => return (None, text),
    };
    let (thought, answer) = thought.split_once("</think>").unwrap_or((thought, ""));
    (Some(thought.trim()), answer.trim_start())
}

/// A token as text; without a tokenizer its id, as vLLM writes it.
fn token_text(id: u32, tokenizer: Option<&Tokenizer>) -> String {
    match tokenizer {
        Some(tokenizer) => String::from_utf8_lossy(&tokenizer.token_bytes(id)).into_owned(),
        None => format!("token_id:{id}"),
    }
}

fn chat_logprob(token: &Token, tokenizer: Option<&Tokenizer>) -> Value {
    let entry = |id, logprob: Option<f32>| {
        json!({
            "token": token_text(id, tokenizer),
            "logprob": logprob,
            "bytes": tokenizer.map(|tokenizer| tokenizer.token_bytes(id)),
        })
    };
    let mut chosen = entry(token.id, token.logprob);
    let top = token.top_logprobs.iter();
    chosen["top_logprobs"] = top.map(|top| entry(top.id, Some(top.logprob))).collect();
    chosen
}

fn text_logprobs(tokens: &[Token], tokenizer: Option<&Tokenizer>) -> Value {
    let texts: Vec<_> = tokens.iter().map(|t| token_text(t.id, tokenizer)).collect();
    let ends = tokens.iter().scan(0, |end, token| {
        let start = *end;
        *end += token.text.chars().count();
        Some(start)
    });
    let top = |token: &Token| -> Map<String, Value> {
        let entry =
            |top: &glm_runtime::TokenLogprob| (token_text(top.id, tokenizer), top.logprob.into());
        token.top_logprobs.iter().map(entry).collect()
    };
    json!({
        "tokens": texts,
        "token_logprobs": tokens.iter().map(|token| token.logprob).collect::<Vec<_>>(),
        "top_logprobs": tokens.iter().map(top).collect::<Vec<_>>(),
        "text_offset": ends.collect::<Vec<_>>(),
    })
}
