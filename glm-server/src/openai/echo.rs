//! Prompts that are said again before what follows them, with how likely each of their tokens was.

use std::time::Instant;

use glm_runtime::{EngineHandle, GenerateOptions, Pending, PromptLogprob, Token};

use super::ApiError;
use super::tokens::check_ids;

/// What a completion repeats.
#[derive(Debug, Clone)]
pub(super) struct Echo {
    prompts: Vec<Echoed>,
    /// Whether anything is to follow: nobody can ask the engine for no token, so what comes is left out.
    pub(super) continues: bool,
}

/// A prompt as it is said again.
#[derive(Debug, Clone)]
pub(super) struct Echoed {
    pub(super) text: String,
    /// With their log-probabilities, once these are known; none if nobody asked for them.
    pub(super) tokens: Vec<Token>,
}

/// The log-probabilities of prompts on their way. Dropping them gives them up.
pub(crate) type Scores = Vec<Pending<Vec<PromptLogprob>>>;

impl Echo {
    /// # Errors
    /// A prompt has ids that are no tokens.
    pub(super) fn of(
        engine: &EngineHandle,
        prompts: &[Vec<u32>],
        options: &GenerateOptions,
        continues: bool,
    ) -> Result<Self, ApiError> {
        let echoed = |prompt: &Vec<u32>| {
            check_ids(engine, "prompt", prompt)?;
            Ok(Echoed::new(engine, prompt, options))
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

    /// Takes the log-probabilities of prompt number `index`, of all its tokens but the first.
    pub(super) fn score(&mut self, index: usize, scores: Vec<PromptLogprob>) {
        let tokens = self.prompts[index].tokens.iter_mut().skip(1);
        for (token, score) in tokens.zip(scores) {
            token.logprob = Some(score.logprob);
            token.top_logprobs = score.top_logprobs;
        }
    }
}

impl Echoed {
    fn new(engine: &EngineHandle, prompt: &[u32], options: &GenerateOptions) -> Self {
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
        let token = |(index, text): (usize, String)| Token {
            index,
            id: prompt[index],
            text,
            logprob: None,
            top_logprobs: Vec::new(),
            part: glm_runtime::Part::default(),
            at: Instant::now(),
        };
        let tokens = texts.into_iter().enumerate().map(token).collect();
        Self { text, tokens }
    }
}
