//! What goes into the engine and what comes out: [`Request`] and [`Event`].

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::beam::BeamOptions;
use crate::error::EngineError;
use crate::guide::Grammar;
use crate::sampling::{SamplingParams, TokenLogprob};

/// Names a request for the life of its engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId(pub u64);

impl std::fmt::Display for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// How a continuation is made and when it ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GenerateOptions {
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// Most tokens to generate; `None`: until the context is full.
    pub max_tokens: Option<usize>,
    /// Fewest tokens to generate: until there are as many, no token id and no stop string ends the answer.
    pub min_tokens: usize,
    /// The text ends before the first of these; none of it is ever shown. Needs a tokenizer.
    pub stop: Vec<String>,
    /// Token ids that end the answer, besides the checkpoint's own end-of-sequence ids.
    pub stop_token_ids: Vec<u32>,
    /// Do not end at the checkpoint's end-of-sequence ids.
    pub ignore_eos: bool,
    /// What the answer must look like; behind `</think>` if it thinks. Needs a tokenizer. What ends an answer from outside can
    /// cut it short: `max_tokens`, `stop`, `stop_token_ids`. It ends where the grammar leaves nothing else to say, even before
    /// `min_tokens` and with `ignore_eos`.
    pub grammar: Option<Grammar>,
    /// Most tokens of the thought that the answer begins with; then `</think>` comes, whatever the model would rather say, and the answer
    /// goes on behind it. `None`: no limit. Needs a tokenizer; a thought is known by `<think>` at the end of the prompt, or as
    /// the first token of the answer.
    pub max_thinking_tokens: Option<usize>,
    /// Search for the most likely answer along several beams, and not token by token. It needs greedy sampling, no grammar and no stop
    /// strings, and the tokens come all at once; see [`EngineHandle::beam_search`](crate::EngineHandle::beam_search).
    pub beams: Option<BeamOptions>,
    /// The LoRA adapter to answer with, by the name that it was loaded under; `None`: the model as it is.
    pub adapter: Option<String>,
    /// Leave special tokens such as `<|user|>` out of the text. Default: true.
    pub skip_special_tokens: bool,
    /// Begin with keys and values that earlier requests left for the same tokens, and leave one's own. Default: true.
    /// The answer is the same either way; only its time differs.
    pub prefix_cache: bool,
    /// Shares them only among requests with the same salt, so that nobody else can tell from the time of an answer what was
    /// asked before: one per tenant.
    pub cache_salt: Option<String>,
    /// Guess its next tokens if the engine does that at all ([`Speculation`](crate::Speculation)). Default: true. The answer is the
    /// same either way; only its time differs.
    pub speculation: bool,
    /// Token ids of a text that the answer may resemble, such as the one that it is to edit. Prompt lookup guesses from it; what it gets
    /// wrong costs time only.
    pub prediction: Vec<u32>,
    /// Higher is served first, and may preempt what runs with less. Who waits moves up with time, so nobody waits for ever:
    /// see [`EngineOptions::priority_aging`](crate::EngineOptions::priority_aging). Range: -[`MAX_PRIORITY`] ..=
    /// [`MAX_PRIORITY`]; default 0.
    pub priority: i32,
    /// Longest time from submission to the end, waiting included; then the request ends with
    /// [`EngineError::TimedOut`], between two steps. Default: no limit.
    pub timeout: Option<Duration>,
}

/// Largest priority of a request; the smallest is its negative.
pub const MAX_PRIORITY: i32 = 100;

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            sampling: SamplingParams::default(),
            max_tokens: None,
            min_tokens: 0,
            stop: Vec::new(),
            stop_token_ids: Vec::new(),
            ignore_eos: false,
            grammar: None,
            max_thinking_tokens: None,
            beams: None,
            adapter: None,
            skip_special_tokens: true,
            prefix_cache: true,
            cache_salt: None,
            speculation: true,
            prediction: Vec::new(),
            priority: 0,
            timeout: None,
        }
    }
}

/// How a chat answer is made: the generation, and what the chat template is told.
#[derive(Debug, Clone, Default)]
pub struct ChatOptions {
    /// The generation itself.
    pub generate: GenerateOptions,
    /// Tools as OpenAI function objects, rendered by the template.
    pub tools: Vec<serde_json::Value>,
    /// Thinking on or off for models that have both; `None`: the template's own default.
    pub enable_thinking: Option<bool>,
    /// Further variables of the chat template.
    pub template_kwargs: serde_json::Map<String, serde_json::Value>,
}

/// A prompt: text goes through the tokenizer, ids go in as they are.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    /// Text; special tokens in it are recognised, and the tokenizer's own prefix is added unless the text starts with it.
    Text(String),
    /// Token ids, used exactly as given.
    TokenIds(Vec<u32>),
}

impl From<&str> for Prompt {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Prompt {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<Vec<u32>> for Prompt {
    fn from(ids: Vec<u32>) -> Self {
        Self::TokenIds(ids)
    }
}

impl From<&[u32]> for Prompt {
    fn from(ids: &[u32]) -> Self {
        Self::TokenIds(ids.to_vec())
    }
}

/// One continuation asked of the engine, in token ids.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The prompt's token ids, at least one.
    pub prompt: Vec<u32>,
    /// How to continue it.
    pub options: GenerateOptions,
}

impl Request {
    /// A greedy continuation of `prompt`.
    pub fn new(prompt: impl Into<Vec<u32>>) -> Self {
        Self {
            prompt: prompt.into(),
            options: GenerateOptions::default(),
        }
    }

    /// The same prompt with these options.
    #[must_use]
    pub fn with_options(mut self, options: GenerateOptions) -> Self {
        self.options = options;
        self
    }
}

/// What a request's stream carries: any number of tokens, then exactly one of the other two.
#[derive(Debug, Clone)]
pub enum Event {
    /// One more token of the answer.
    Token(Token),
    /// The answer is complete. Final.
    Finished(Finished),
    /// There will be no (further) answer. Final.
    Failed(EngineError),
}

/// One generated token.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// Position in the answer, from 0.
    pub index: usize,
    /// Token id.
    pub id: u32,
    /// Text that became certain with this token: empty while a UTF-8 character is incomplete, or while the text could
    /// still turn out to be a stop string; whole words may arrive at once afterwards. Empty without a tokenizer and for
    /// the token id that ends the answer.
    pub text: String,
    /// Log-probability of this token, if asked for.
    pub logprob: Option<f32>,
    /// The most likely tokens at this position, most likely first, if asked for.
    pub top_logprobs: Vec<TokenLogprob>,
    /// What it is a part of, if the answer follows a grammar.
    pub part: Part,
    /// When the engine chose it; it may have waited for its reader since.
    pub at: Instant,
}

/// The parts of an answer that follows a [`Grammar`]. An answer that follows none is not looked at: all of it is [`Part::Answer`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Part {
    /// The text that the grammar is about.
    #[default]
    Answer,
    /// What the model thinks before it answers, `<think>` and `</think>` included.
    Thought,
    /// A line end that models were taught to write before their text, which is no part of it: its [`Token::text`] is empty.
    Format,
}

/// How and at what cost an answer ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finished {
    /// Why it ended.
    pub reason: FinishReason,
    /// The stop string that ended it, if one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_string: Option<String>,
    /// Token counts.
    pub usage: Usage,
    /// Durations.
    pub timings: Timings,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// An end-of-sequence id, a stop token id or a stop string.
    Stop,
    /// `max_tokens` or the end of the context.
    Length,
    /// The caller cancelled the request or dropped its stream.
    Cancelled,
}

/// Token counts of one request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens in the prompt.
    pub prompt_tokens: usize,
    /// Tokens generated, the one that ended the answer included.
    pub completion_tokens: usize,
    /// Tokens of the prompt whose keys and values an earlier request had left: they were not computed.
    pub cached_tokens: usize,
    /// Tokens of [`GenerateOptions::prediction`] that were guessed and became part of the answer; each spared a step. Which are guessed depends
    /// on time, so this and the next count can differ where answers do not.
    pub accepted_prediction_tokens: usize,
    /// Tokens of it that were guessed, computed, and not part of the answer.
    pub rejected_prediction_tokens: usize,
}

/// Durations of one request, measured in the engine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Timings {
    /// From submission to the first step that worked on it.
    pub queued: Duration,
    /// From submission to the first token (TTFT).
    pub time_to_first_token: Duration,
    /// From submission to the end.
    pub total: Duration,
}

impl Timings {
    /// Tokens per second after the first token, or `None` with fewer than two tokens.
    pub fn decode_tok_s(&self, usage: Usage) -> Option<f64> {
        let decode = self
            .total
            .saturating_sub(self.time_to_first_token)
            .as_secs_f64();
        (usage.completion_tokens > 1 && decode > 0.0)
            .then(|| (usage.completion_tokens - 1) as f64 / decode)
    }
}
