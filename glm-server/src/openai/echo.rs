//! Prompts that are said again before what follows them, with how likely each of their tokens was.

use std::time::Instant;

use glm_runtime::{EngineHandle, GenerateOptions, PromptLogprob, Token};

use super::ApiError;
use super::tokens::check_ids;

/// What a completion repeats.
#[derive(Debug)]
pub(super) struct Echo {
    prompts: Vec<Echoed>,
    /// Whether anything is to follow: nobody can ask the engine for no token, so what comes is left out.
    pub(super) continues: bool,
}

/// A prompt as it is said again.
#[derive(Debug)]
pub(super) struct Echoed {
    pub(super) text: String,
    /// With their log-probabilities; none if nobody asked for these.
    pub(super) tokens: Vec<Token>,
}

impl Echo {
    /// Takes as long as reading the prompts does, if log-probabilities are asked for.
    ///
    /// # Errors
    /// A prompt has ids that are no tokens, or does not fit into the context.
    pub(super) fn of(
        engine: &EngineHandle,
        prompts: &[Vec<u32>],
        options: &GenerateOptions,
        continues: bool,
    ) -> Result<Self, ApiError> {
        let echoed = |prompt: &Vec<u32>| {
            check_ids(engine, "prompt", prompt)?;
            let scores = match options.sampling.logprobs {
                None => Vec::new(),
                Some(top) => logprobs(engine, prompt, top, options.adapter.as_deref())?,
            };
            Ok(Echoed::new(engine, prompt, options, scores))
        };
        let prompts: Result<_, ApiError> = prompts.iter().map(echoed).collect();
        Ok(Self {
            prompts: prompts?,
            continues,
        })
    }

    /// Prompt number `index`.
    pub(super) fn prompt(&self, index: usize) -> &Echoed {
        &self.prompts[index]
    }
}

fn logprobs(
    engine: &EngineHandle,
    prompt: &[u32],
    top: usize,
    adapter: Option<&str>,
) -> Result<Vec<PromptLogprob>, ApiError> {
    let scores = match adapter {
        None => engine.prompt_logprobs(prompt, top),
        Some(name) => engine.prompt_logprobs_with_adapter(prompt, top, name),
    };
    Ok(scores?)
}

impl Echoed {
    /// `scores`: of all tokens but the first, or nothing.
    fn new(
        engine: &EngineHandle,
        prompt: &[u32],
        options: &GenerateOptions,
        scores: Vec<PromptLogprob>,
    ) -> Self {
        let tokenizer = engine.tokenizer().ok();
        let mut decoded = tokenizer.map(|t| t.decode_stream(options.skip_special_tokens));
        let mut piece = |id: u32| decoded.as_mut().and_then(|decoded| decoded.push(id));
        let texts: Vec<String> = prompt
            .iter()
            .map(|id| piece(*id).unwrap_or_default())
            .collect();
        let text = texts.concat()
            + &decoded
                .and_then(|mut rest| rest.finish())
                .unwrap_or_default();
        if options.sampling.logprobs.is_none() {
            return Self {
                text,
                tokens: Vec::new(),
            };
        }
        let scores = [None].into_iter().chain(scores.into_iter().map(Some));
        let token = |(index, (text, score)): (usize, (String, Option<PromptLogprob>))| {
            let (logprob, top_logprobs) = score
                .map(|score| (Some(score.logprob), score.top_logprobs))
                .unwrap_or_default();
            Token {
                index,
                id: prompt[index],
                text,
                logprob,
                top_logprobs,
                part: glm_runtime::Part::default(),
                at: Instant::now(),
            }
        };
        let tokens = texts.into_iter().zip(scores).enumerate().map(token);
        Self {
            text,
            tokens: tokens.collect(),
        }
    }
}
