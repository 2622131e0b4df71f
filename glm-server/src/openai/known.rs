//! Every field that OpenAI's clients can send to chat completions and completions, and what becomes of it.

use super::fields::{Kind, Known, is_false, never};

/// Of chat completions.
pub(crate) const CHAT_FIELDS: &[Known] = &[
    Known::honoured("continue_final_message", Kind::Boolean),
    Known::honoured("include_reasoning", Kind::Boolean),
    Known::honoured("logprobs", Kind::Boolean),
    Known::honoured("max_completion_tokens", Kind::Count),
    Known::honoured("max_tokens", Kind::Count),
    Known::honoured("messages", Kind::Objects),
    Known::honoured("chat_template_kwargs", Kind::Object),
    Known::honoured("parallel_tool_calls", Kind::Boolean),
    Known::honoured("prediction", Kind::Object),
    Known::honoured("reasoning_effort", Kind::Text),
    Known::honoured("response_format", Kind::Object),
    Known::honoured("thinking_token_budget", Kind::Count),
    Known::honoured("tool_choice", Kind::TextOrObject),
    Known::honoured("tools", Kind::Objects),
    Known::honoured("top_logprobs", Kind::Count),
    // Accounts, tiers and caches are the business of OpenAI's own service; here every prompt's beginning is cached.
    Known::ignored("metadata"),
    Known::ignored("prompt_cache_key"),
    Known::ignored("prompt_cache_options"),
    Known::ignored("prompt_cache_retention"),
    Known::ignored("safety_identifier"),
    Known::ignored("service_tier"),
    Known::refused("audio", never),
    Known::refused("echo", is_false),
    Known::refused("function_call", |value| value == "none"),
    Known::refused("functions", |value| {
        value.as_array().is_some_and(Vec::is_empty)
    }),
    Known::refused("guided_whitespace_pattern", never),
    Known::refused("modalities", |value| *value == serde_json::json!(["text"])),
    Known::refused("moderation", never),
    Known::refused("prompt_logprobs", never),
    Known::refused("store", is_false),
    Known::refused("verbosity", |value| value == "medium"),
    Known::refused("web_search_options", never),
];

/// Of completions.
pub(crate) const COMPLETION_FIELDS: &[Known] = &[
    Known::honoured("echo", Kind::Boolean),
    Known::honoured("logprobs", Kind::Count),
    Known::honoured("max_tokens", Kind::Count),
    Known::honoured("prompt", Kind::Prompts),
    Known::refused("guided_whitespace_pattern", never),
    Known::refused("prompt_logprobs", never),
    Known::refused("suffix", |value| value == ""),
];

/// Of both.
pub(crate) const COMMON_FIELDS: &[Known] = &[
    Known::honoured("adapter", Kind::Text),
    Known::honoured("best_of", Kind::Count),
    Known::honoured("cache_salt", Kind::Text),
    Known::honoured("early_stopping", Kind::Any),
    Known::honoured("frequency_penalty", Kind::Number),
    Known::honoured("guided_choice", Kind::Texts),
    Known::honoured("guided_grammar", Kind::Text),
    Known::honoured("guided_json", Kind::Any),
    Known::honoured("guided_regex", Kind::Text),
    Known::honoured("ignore_eos", Kind::Boolean),
    Known::honoured("length_penalty", Kind::Number),
    Known::honoured("logit_bias", Kind::Object),
    Known::honoured("min_p", Kind::Number),
    Known::honoured("min_tokens", Kind::Count),
    Known::honoured("model", Kind::Text),
    Known::honoured("n", Kind::Count),
    Known::honoured("presence_penalty", Kind::Number),
    Known::honoured("priority", Kind::Integer),
    Known::honoured("repetition_penalty", Kind::Number),
    Known::honoured("seed", Kind::Integer),
    Known::honoured("skip_special_tokens", Kind::Boolean),
    Known::honoured("stop", Kind::TextOrTexts),
    Known::honoured("stop_token_ids", Kind::Ids),
    Known::honoured("stream", Kind::Boolean),
    Known::honoured("stream_options", Kind::Object),
    Known::honoured("structured_outputs", Kind::Object),
    Known::honoured("temperature", Kind::Number),
    Known::honoured("top_k", Kind::Integer),
    Known::honoured("top_p", Kind::Number),
    Known::honoured("typical_p", Kind::Number),
    Known::honoured("use_beam_search", Kind::Boolean),
    Known::ignored("user"),
];

/// What only a beam search understands.
pub(super) const ONLY_WITH_BEAMS: &[Known] = &[
    Known::refused("length_penalty", |value| value.as_f64() == Some(1.0)),
    Known::refused("early_stopping", is_false),
];
