//! Answers of the engine to bodies.

use std::sync::Arc;

use glm_core::chat::{Answer, AnswerCall, AnswerParser};
use glm_runtime::{Completion, EngineHandle, FinishReason, PromptLogprob, Token, Tokenizer, Usage};
use serde_json::{Map, Value, json};

use super::echo::Echo;
use crate::anthropic::MessageForm;
use crate::parts::has_thoughts;
use crate::responses::ResponseForm;

/// What a response says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// Unique part of the response's id; its kind is put before it.
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
}

/// How the response to one request is made of the answers.
#[derive(Debug, Clone)]
pub struct Form {
    pub(super) shape: Shape,
    /// Answers to each prompt in the response.
    pub(super) n: usize,
    /// Answers to each prompt that it is chosen from: the likeliest per token.
    pub(super) asked: usize,
    pub(super) logprobs: bool,
    /// A stream ends with a chunk that has the usage.
    pub(super) include_usage: bool,
    /// What answers instead of the model itself.
    pub(super) adapter: Option<String>,
    pub(super) stop_token_ids: Vec<u32>,
    /// Whose clients read it.
    pub(crate) dialect: Dialect,
    /// Prompts that are said again.
    pub(super) echo: Option<Arc<Echo>>,
}

/// Ways to write the answer to a chat.
#[derive(Debug, Clone)]
pub(crate) enum Dialect {
    OpenAi,
    Messages(MessageForm),
    Response(Box<ResponseForm>),
}

#[derive(Debug, Clone)]
pub(super) enum Shape {
    Chat(Chat),
    Text,
}

#[derive(Debug, Clone)]
pub(super) struct Chat {
    /// At the beginning of the answer.
    pub(super) parser: Box<AnswerParser>,
    /// The tool to call was named in the request.
    pub(super) names_tool: bool,
    /// Say what the model thought, in `reasoning_content`.
    pub(super) include_reasoning: bool,
}

/// An answer of the engine, and what it says.
struct Said<'a> {
    completion: &'a Completion,
    /// Taken apart, if it is one to a chat.
    answer: Answer,
    /// Tokens up to the last one of its thoughts.
    thought_tokens: usize,
}

impl Form {
    /// The body of a response: `answers` to the first prompt, then to the second, and so on.
    pub fn response(&self, engine: &EngineHandle, stamp: &Stamp, answers: &[Completion]) -> Value {
        match (&self.dialect, answers) {
            (Dialect::Messages(message), [answer, ..]) => {
                message.response(self, engine, stamp, answer)
            }
            (Dialect::Response(response), [answer, ..]) => {
                response.response(self, engine, stamp, answer)
            }
            _ => self.own_response(engine, stamp, answers),
        }
    }

    fn own_response(&self, engine: &EngineHandle, stamp: &Stamp, answers: &[Completion]) -> Value {
        let object = match self.shape {
            Shape::Chat(_) => "chat.completion",
            Shape::Text => "text_completion",
        };
        let tokenizer = engine.tokenizer().ok();
        let choice = |(index, said)| self.choice(index, said, stamp, tokenizer);
        let said: Vec<Said<'_>> = answers.iter().map(|answer| self.said(answer)).collect();
        let thought_tokens = said.iter().map(|said| said.thought_tokens).sum();
        let choices = self.best(said).into_iter().enumerate();
        let mut usages: Vec<_> = answers.iter().map(|a| a.finished.usage).collect();
        if self.echo.as_ref().is_some_and(|echo| !echo.continues) {
            usages
                .iter_mut()
                .for_each(|usage| usage.completion_tokens = 0);
        }
        json!({
            "id": self.id(stamp),
            "object": object,
            "created": stamp.created,
            "model": self.model(engine),
            "choices": choices.map(choice).collect::<Vec<_>>(),
            "usage": self.usage(&usages, thought_tokens),
            "system_fingerprint": null,
        })
    }

    /// What a response of that dialect says and keeps.
    pub(crate) fn response_form(&self) -> Option<&ResponseForm> {
        match &self.dialect {
            Dialect::Response(response) => Some(response),
            _ => None,
        }
    }

    /// Takes the log-probabilities of prompt number `index`, which is said again.
    pub(crate) fn score(&mut self, index: usize, scores: Vec<PromptLogprob>) {
        if let Some(echo) = &mut self.echo {
            Arc::make_mut(echo).score(index, scores);
        }
    }

    /// A parser at the beginning of an answer.
    pub(crate) fn parser(&self) -> AnswerParser {
        match &self.shape {
            Shape::Chat(chat) => AnswerParser::clone(&chat.parser),
            Shape::Text => AnswerParser::new(None, &[], false),
        }
    }

    pub(super) fn id(&self, stamp: &Stamp) -> String {
        let prefix = match self.shape {
            Shape::Chat(_) => "chatcmpl",
            Shape::Text => "cmpl",
        };
        format!("{prefix}-{}", stamp.id)
    }

    /// Who answers.
    pub(crate) fn model<'a>(&'a self, engine: &'a EngineHandle) -> &'a str {
        self.adapter.as_ref().unwrap_or(&engine.model_info().name)
    }

    /// Takes an answer apart.
    fn said<'a>(&self, completion: &'a Completion) -> Said<'a> {
        let mut said = Said {
            completion,
            answer: Answer::default(),
            thought_tokens: 0,
        };
        if let Shape::Chat(chat) = &self.shape {
            let mut parser = AnswerParser::clone(&chat.parser);
            for (index, token) in completion.tokens.iter().enumerate() {
                let events = parser.push(&token.text);
                if has_thoughts(&events) {
                    said.thought_tokens = index + 1;
                }
                said.answer.extend(events);
            }
            said.answer.extend(parser.finish());
        }
        said
    }

    /// The answers of the response: of those to each prompt the best.
    fn best<'a>(&self, mut said: Vec<Said<'a>>) -> Vec<Said<'a>> {
        if self.asked > self.n {
            let likely = |said: &Said<'_>| mean_logprob(said.completion);
            for of_prompt in said.chunks_mut(self.asked) {
                of_prompt.sort_by(|a, b| likely(b).total_cmp(&likely(a)));
            }
        }
        let said = said.into_iter().enumerate();
        let best = said.filter(|(index, _)| index % self.asked < self.n);
        best.map(|(_, said)| said).collect()
    }

    fn choice(
        &self,
        index: usize,
        said: Said<'_>,
        stamp: &Stamp,
        tokenizer: Option<&Tokenizer>,
    ) -> Value {
        let answer = said.completion;
        let logprobs = self
            .logprobs
            .then(|| self.logprobs(self.without_end(answer, tokenizer), 0, tokenizer));
        match &self.shape {
            Shape::Chat(chat) => {
                let (message, calls) = chat.message(said.answer, stamp, index);
                json!({
                    "index": index,
                    "message": message,
                    "logprobs": logprobs,
                    "finish_reason": self.finish_reason(answer.finished.reason, calls),
                })
            }
            Shape::Text => {
                let mut choice = json!({
                    "index": index,
                    "text": answer.text,
                    "logprobs": logprobs,
                    "finish_reason": self.finish_reason(answer.finished.reason, false),
                });
                if let Some(echo) = &self.echo {
                    self.say_again(echo, &mut choice, answer, tokenizer);
                }
                choice
            }
        }
    }

    /// Puts the prompt before the answer of a choice.
    fn say_again(
        &self,
        echo: &Echo,
        choice: &mut Value,
        answer: &Completion,
        tokenizer: Option<&Tokenizer>,
    ) {
        let index = choice["index"].as_u64().unwrap_or_default() as usize;
        let prompt = echo.prompt(index / self.n);
        let (text, tokens) = match echo.continues {
            true => (&*answer.text, self.without_end(answer, tokenizer)),
            false => {
                choice["finish_reason"] = "length".into();
                ("", &[][..])
            }
        };
        choice["text"] = format!("{}{text}", prompt.text).into();
        if self.logprobs {
            let all = [&prompt.tokens[..], tokens].concat();
            choice["logprobs"] = text_logprobs(&all, 0, tokenizer);
        }
    }

    /// Why an answer ended; `calls`: it calls tools.
    pub(super) fn finish_reason(&self, reason: FinishReason, calls: bool) -> &'static str {
        let names_tool = matches!(&self.shape, Shape::Chat(chat) if chat.names_tool);
        match reason {
            FinishReason::Stop if calls && !names_tool => "tool_calls",
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::Cancelled => "cancelled",
        }
    }

    /// The log-probabilities of tokens, the first of which begins `offset` characters into the text.
    pub(super) fn logprobs(
        &self,
        tokens: &[Token],
        offset: usize,
        tokenizer: Option<&Tokenizer>,
    ) -> Value {
        match self.shape {
            Shape::Chat(_) => json!({
                "content": tokens.iter().map(|t| chat_logprob(t, tokenizer)).collect::<Vec<_>>(),
                "refusal": null,
            }),
            Shape::Text => text_logprobs(tokens, offset, tokenizer),
        }
    }

    /// The tokens of an answer but for the one that ended it, which is not part of the text.
    fn without_end<'a>(
        &self,
        answer: &'a Completion,
        tokenizer: Option<&Tokenizer>,
    ) -> &'a [Token] {
        match answer.tokens.split_last() {
            Some((last, rest))
                if answer.finished.reason == FinishReason::Stop
                    && self.is_end(last.id, tokenizer) =>
            {
                rest
            }
            _ => &answer.tokens,
        }
    }

    /// Whether a token that ended an answer did so by itself, and not by its text.
    pub(super) fn is_end(&self, id: u32, tokenizer: Option<&Tokenizer>) -> bool {
        self.stop_token_ids.contains(&id) || tokenizer.is_some_and(|t| t.is_special(id))
    }

    /// A prompt is counted once, however many answers it has. `thought_tokens`: of all answers.
    pub(super) fn usage(&self, answers: &[Usage], thought_tokens: usize) -> Value {
        let of_prompts = || answers.iter().step_by(self.asked);
        let prompt_tokens: usize = of_prompts().map(|usage| usage.prompt_tokens).sum();
        let cached_tokens: usize = of_prompts().map(|usage| usage.cached_tokens).sum();
        let sum = |count: fn(&Usage) -> usize| answers.iter().map(count).sum::<usize>();
        let completion_tokens = sum(|usage| usage.completion_tokens);
        let accepted = sum(|usage| usage.accepted_prediction_tokens);
        let rejected = sum(|usage| usage.rejected_prediction_tokens);
        json!({
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "prompt_tokens_details": {"cached_tokens": cached_tokens},
            "completion_tokens_details": {
                "accepted_prediction_tokens": accepted,
                "reasoning_tokens": thought_tokens,
                "rejected_prediction_tokens": rejected,
            },
        })
    }
}

impl Chat {
    /// The message of a choice, and whether it calls tools.
    fn message(&self, answer: Answer, stamp: &Stamp, choice: usize) -> (Value, bool) {
        let mut message = json!({"role": "assistant", "content": answer.content, "refusal": null});
        if let Some(reasoning) = answer.reasoning.filter(|_| self.include_reasoning) {
            message["reasoning_content"] = reasoning.into();
        }
        let call = |(index, call): (usize, AnswerCall)| {
            json!({
                "id": call_id(stamp, choice, index),
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            })
        };
        let calls: Vec<Value> = answer.calls.into_iter().enumerate().map(call).collect();
        let has_calls = !calls.is_empty();
        if has_calls {
            if answer.content.is_empty() {
                message["content"] = Value::Null;
            }
            message["tool_calls"] = calls.into();
        }
        (message, has_calls)
    }
}

/// The id of a choice's call.
pub(super) fn call_id(stamp: &Stamp, choice: usize, call: usize) -> String {
    format!("call_{}-{choice}-{call}", stamp.id)
}

/// How likely an answer is, per token.
fn mean_logprob(answer: &Completion) -> f64 {
    let logprobs = answer.tokens.iter().filter_map(|token| token.logprob);
    let sum: f64 = logprobs.map(f64::from).sum();
    sum / answer.tokens.len().max(1) as f64
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

fn text_logprobs(tokens: &[Token], offset: usize, tokenizer: Option<&Tokenizer>) -> Value {
    let texts: Vec<_> = tokens.iter().map(|t| token_text(t.id, tokenizer)).collect();
    let starts = tokens.iter().scan(offset, |end, token| {
        let start = *end;
        *end += token.text.chars().count();
        Some(start)
    });
    // Nothing predicts the first token of a prompt.
    let top = |token: &Token| -> Option<Map<String, Value>> {
        let entry =
            |top: &glm_runtime::TokenLogprob| (token_text(top.id, tokenizer), top.logprob.into());
        token.logprob?;
        Some(token.top_logprobs.iter().map(entry).collect())
    };
    json!({
        "tokens": texts,
        "token_logprobs": tokens.iter().map(|token| token.logprob).collect::<Vec<_>>(),
        "top_logprobs": tokens.iter().map(top).collect::<Vec<_>>(),
        "text_offset": starts.collect::<Vec<_>>(),
    })
}
