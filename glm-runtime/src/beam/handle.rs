//! Searches over an [`EngineHandle`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::search::{Ends, Found, Search};
use super::{Beam, BeamError, BeamOptions};
use crate::engine::{EngineHandle, RequestStream};
use crate::error::EngineError;
use crate::request::{
    Event, FinishReason, Finished, GenerateOptions, Part, Prompt, Request, Timings, Token, Usage,
};
use crate::sampling::{SamplingParams, TokenLogprob};
use crate::sync::channel::{self, Sender};
use crate::text::TextStream;

/// Candidates of every beam in every round, for those who ask for log-probabilities.
type History = Vec<Vec<Vec<TokenLogprob>>>;

/// What a search needs to know of its request.
struct Task {
    prompt: Vec<u32>,
    options: GenerateOptions,
    beams: BeamOptions,
    ends: Ends,
    started: Instant,
}

/// What a search has found, and what that took.
struct Outcome {
    found: Vec<Found>,
    history: History,
    cached_tokens: usize,
    timings: Timings,
}

impl EngineHandle {
    /// Searches for the most likely answers to a prompt, without a chat template: at most [`BeamOptions::width`] of them, best first.
    /// Of `options` those count that say when an answer ends (`max_tokens`, `min_tokens`, `stop_token_ids`, `ignore_eos`) and how the
    /// request is served.
    ///
    /// ```
    /// use glm_runtime::{BeamOptions, Engine, GenerateOptions};
    ///
    /// let engine = Engine::builder("demo").build()?;
    /// let options = GenerateOptions { max_tokens: Some(6), ..GenerateOptions::default() };
    /// let beams = engine.beam_search("Once upon", BeamOptions { width: 3, ..BeamOptions::default() }, options)?;
    /// assert!(beams.is_sorted_by(|a, b| a.score >= b.score));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`EngineError::Beam`] for options that a search cannot honour, and whatever [`Self::submit`] returns.
    pub fn beam_search(
        &self,
        prompt: impl Into<Prompt>,
        beams: BeamOptions,
        options: GenerateOptions,
    ) -> Result<Vec<Beam>, EngineError> {
        let prompt = match prompt.into() {
            Prompt::TokenIds(ids) => ids,
            Prompt::Text(text) => self.encode(&text)?,
        };
        let task = self.beam_task(Request { prompt, options }, beams)?;
        let outcome = self.search(&task, || false)?;
        let beam = |found: Found| Beam {
            token_ids: found.hypothesis.tokens.iter().map(|t| t.id).collect(),
            text: self.beam_tokens(&task, &found, &outcome).0,
            logprob: found.hypothesis.logprob,
            score: found.score,
            finish_reason: found.finish_reason,
        };
        Ok(outcome.found.iter().cloned().map(beam).collect())
    }

    /// The `n` best answers of the search that `request` asks for, as streams whose tokens come all at once. Dropping all of them ends it.
    pub(crate) fn submit_beams(
        &self,
        mut request: Request,
        beams: BeamOptions,
        n: usize,
    ) -> Result<Vec<RequestStream>, EngineError> {
        request.options.beams = None;
        if n > beams.width {
            let width = beams.width;
            return Err(BeamError::Answers { found: n, width }.into());
        }
        let prompt: Arc<[u32]> = request.prompt.clone().into();
        let task = self.beam_task(request, beams)?;
        self.check_queue(&task.prompt)?;
        let (senders, streams): (Vec<_>, Vec<_>) = (0..n)
            .map(|_| {
                let (sender, events) = channel::unbounded();
                (sender, self.stream(prompt.clone(), events))
            })
            .unzip();
        let engine = self.clone();
        std::thread::Builder::new()
            .name("glm-beams".to_owned())
            .spawn(move || engine.answer_with_beams(&task, &senders))
            .map_err(|_| EngineError::Stopped)?;
        Ok(streams)
    }

    /// Checks what is asked for.
    fn beam_task(&self, request: Request, beams: BeamOptions) -> Result<Task, EngineError> {
        let Request {
            prompt,
            mut options,
        } = request;
        options.beams = None;
        if let Some(wrong) = not_combinable(&options) {
            return Err(BeamError::Combined(wrong).into());
        }
        let mut ids = options.stop_token_ids.clone();
        if !options.ignore_eos {
            ids.extend_from_slice(self.eos_token_ids());
        }
        ids.sort_unstable();
        ids.dedup();
        beams.check(ids.len())?;
        let room = self
            .model_info()
            .max_model_len
            .saturating_sub(prompt.len())
            .max(1);
        let ends = Ends {
            ids,
            min_tokens: options.min_tokens,
            max_tokens: options.max_tokens.unwrap_or(room).min(room),
        };
        Ok(Task {
            prompt,
            options,
            beams,
            ends,
            started: Instant::now(),
        })
    }

    /// Runs a search to its end, or until nobody waits for it (`is_over`).
    fn search(&self, task: &Task, is_over: impl Fn() -> bool) -> Result<Outcome, EngineError> {
        let mut search = Search::new(task.beams, task.ends.clone());
        let num_top = task.options.sampling.logprobs.unwrap_or(0);
        let count = search.num_candidates().max(num_top);
        let mut history = History::new();
        let (mut cached_tokens, mut timings) = (0, Timings::default());
        loop {
            let requests = search.running().iter().map(|beam| {
                let ids = beam.tokens.iter().map(|token| token.id);
                task.round(ids, count)
            });
            let streams: Result<Vec<_>, _> = requests.map(|r| self.submit(r?)).collect();
            let mut next = Vec::new();
            for stream in streams? {
                let answer = stream.wait()?;
                let usage = answer.finished.usage;
                if history.is_empty() {
                    cached_tokens = usage.cached_tokens;
                    timings = answer.finished.timings;
                }
                let token = answer.tokens.into_iter().next();
                next.push(token.ok_or(EngineError::Stopped)?.top_logprobs);
            }
            let goes_on = search.advance(&next);
            if num_top > 0 || history.is_empty() {
                history.push(next);
            }
            if !goes_on || is_over() {
                break;
            }
        }
        timings.total = task.started.elapsed();
        Ok(Outcome {
            found: search.into_found(),
            history,
            cached_tokens,
            timings,
        })
    }

    /// Searches, and tells one answer to each sender.
    fn answer_with_beams(&self, task: &Task, senders: &[Sender<Event>]) {
        // Whoever has gone away does not hear the rest.
        let send = |to: &Sender<Event>, event| drop(to.try_send(event));
        let outcome = self.search(task, || senders.iter().all(Sender::is_closed));
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                for sender in senders {
                    send(sender, Event::Failed(error.clone()));
                }
                return;
            }
        };
        // A search that is given up has found fewer.
        for (sender, found) in senders.iter().zip(&outcome.found) {
            let (_, tokens) = self.beam_tokens(task, found, &outcome);
            for token in tokens {
                send(sender, Event::Token(token));
            }
            let finished = Finished {
                reason: found.finish_reason,
                stop_string: None,
                usage: Usage {
                    prompt_tokens: task.prompt.len(),
                    completion_tokens: found.hypothesis.tokens.len(),
                    cached_tokens: outcome.cached_tokens,
                    ..Usage::default()
                },
                timings: outcome.timings,
            };
            send(sender, Event::Finished(finished));
        }
    }

    /// The text and the tokens of an answer.
    fn beam_tokens(&self, task: &Task, found: &Found, outcome: &Outcome) -> (String, Vec<Token>) {
        let tokenizer = self.tokenizer().ok();
        let mut text = tokenizer.map(|tokenizer| TextStream::new(tokenizer, &task.options));
        let chosen = &found.hypothesis.tokens;
        let num_top = task.options.sampling.logprobs;
        let at = Instant::now();
        let token = |(index, token): (usize, &super::search::Chosen)| {
            let is_last = index + 1 == chosen.len();
            let piece = text.as_mut().map(|text| match found.finish_reason {
                // The id that ends the answer is not part of its text.
                FinishReason::Stop if is_last => text.finish(),
                _ if is_last => text.push_last(token.id),
                _ => text.push(token.id),
            });
            let round = outcome.history.get(index);
            let top = round.and_then(|round| round.get(token.from));
            let mut top_logprobs = top.cloned().unwrap_or_default();
            top_logprobs.truncate(num_top.unwrap_or(0));
            Token {
                index,
                id: token.id,
                text: piece.map(|piece| piece.text).unwrap_or_default(),
                logprob: num_top.map(|_| token.logprob),
                top_logprobs,
                part: Part::Answer,
                at,
            }
        };
        let tokens: Vec<Token> = chosen.iter().enumerate().map(token).collect();
        let whole = tokens.iter().map(|token| token.text.as_str()).collect();
        (whole, tokens)
    }
}

impl Task {
    /// The request for the likeliest tokens after `answer`.
    fn round(
        &self,
        answer: impl Iterator<Item = u32>,
        count: usize,
    ) -> Result<Request, EngineError> {
        let mut prompt = self.prompt.clone();
        prompt.extend(answer);
        let timeout = match self.options.timeout {
            None => None,
            Some(timeout) => {
                let left = timeout.saturating_sub(self.started.elapsed());
                if left == Duration::ZERO {
                    let completion_tokens = prompt.len() - self.prompt.len();
                    return Err(EngineError::TimedOut {
                        timeout,
                        completion_tokens,
                    });
                }
                Some(left)
            }
        };
        Ok(Request::new(prompt).with_options(GenerateOptions {
            sampling: SamplingParams {
                logprobs: Some(count),
                ..SamplingParams::greedy()
            },
            max_tokens: Some(1),
            min_tokens: 0,
            stop_token_ids: Vec::new(),
            timeout,
            ..self.options.clone()
        }))
    }
}

/// The first option that a search does not know how to honour.
fn not_combinable(options: &GenerateOptions) -> Option<&'static str> {
    let sampling = &options.sampling;
    let set = [
        ("temperature", !sampling.is_greedy()),
        ("logit_bias", !sampling.logit_bias.is_empty()),
        ("repetition_penalty", sampling.repetition_penalty != 1.0),
        ("presence_penalty", sampling.presence_penalty != 0.0),
        ("frequency_penalty", sampling.frequency_penalty != 0.0),
        ("grammar", options.grammar.is_some()),
        ("max_thinking_tokens", options.max_thinking_tokens.is_some()),
        ("stop", !options.stop.is_empty()),
    ];
    let found = set.into_iter().find(|(_, is_set)| *is_set);
    found.map(|(name, _)| name)
}
