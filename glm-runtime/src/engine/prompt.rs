//! Looking at given tokens instead of generating: their likelihood, and everything the model computes on the way. Both go
//! through the same paged cache as generation, in chunks of one step's budget.

use glm_kernels::{Indices, KernelError, gather_rows};

use super::Engine;
use crate::error::EngineError;
use crate::forward::ForwardBatch;
use crate::kv::{BlockId, blocks_for};
use crate::lora::{AdapterRows, AdapterUse};
use crate::sampling::{InvalidSampling, LogProbs, MAX_LOGPROBS, TokenLogprob, log_sum_exp};
use crate::scheduler::ChunkTokens;

/// Rows of logits held at once: with a vocabulary of 150 000 tokens each takes 600 kB.
const LOGIT_ROWS: usize = 64;

/// How likely a given token is.
#[derive(Debug, Clone, PartialEq)]
pub struct PromptLogprob {
    /// The token's id.
    pub id: u32,
    /// Its log-probability.
    pub logprob: f32,
    /// The most likely tokens in its place, most likely first.
    pub top_logprobs: Vec<TokenLogprob>,
}

/// Everything a model computes for a text, to compare it with another implementation. T: tokens of the text, all row-major.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Trace {
    /// `[T, hidden_size]` each: the embedding output, then the output of every layer.
    pub hidden_states: Vec<Vec<f32>>,
    /// `[T, hidden_size]`: after the final norm.
    pub final_norm: Vec<f32>,
    /// `[T, vocab_size]`.
    pub logits: Vec<f32>,
}

impl Engine {
    /// Negative log-likelihood (natural logarithm) of every token after the first, given all before it: `ids.len() - 1`
    /// values. Running requests are not disturbed.
    ///
    /// # Errors
    /// [`EngineError::ContextLength`] if `ids` do not fit into the context; [`EngineError::KvCacheFull`] if running
    /// requests hold the blocks it needs, which cannot happen while the engine is idle; [`EngineError::NotFinite`].
    pub fn score(&mut self, ids: &[u32]) -> Result<Vec<f32>, EngineError> {
        self.score_under(ids, None)
    }

    /// As [`Self::score`], by the model under a LoRA adapter.
    ///
    /// # Errors
    /// As [`Self::score`]; [`EngineError::Adapter`] if there is none of this name.
    pub fn score_with_adapter(&mut self, ids: &[u32], name: &str) -> Result<Vec<f32>, EngineError> {
        self.score_under(ids, Some(name))
    }

    fn score_under(&mut self, ids: &[u32], adapter: Option<&str>) -> Result<Vec<f32>, EngineError> {
        self.score_whole(Scoring::nll(ids, adapter))
    }

    /// Log-probability of every token after the first, given all before it, and the `top` most likely tokens in its place:
    /// `ids.len() - 1` values. Running requests are not disturbed.
    ///
    /// # Errors
    /// As [`Self::score`]; [`EngineError::Sampling`] if `top` is more than [`MAX_LOGPROBS`].
    pub fn prompt_logprobs(
        &mut self,
        ids: &[u32],
        top: usize,
    ) -> Result<Vec<PromptLogprob>, EngineError> {
        check_top(top)?;
        self.score_whole(Scoring::logprobs(ids, top, None))
    }

    /// As [`Self::prompt_logprobs`], by the model under a LoRA adapter.
    ///
    /// # Errors
    /// As [`Self::prompt_logprobs`]; [`EngineError::Adapter`] if there is none of this name.
    pub fn prompt_logprobs_with_adapter(
        &mut self,
        ids: &[u32],
        top: usize,
        name: &str,
    ) -> Result<Vec<PromptLogprob>, EngineError> {
        check_top(top)?;
        self.score_whole(Scoring::logprobs(ids, top, Some(name)))
    }

    fn score_whole<T>(&mut self, mut scoring: Scoring<T>) -> Result<Vec<T>, EngineError> {
        let step = self.max_num_batched_tokens;
        while !scoring.advance(self, step)? {}
        scoring.into_scores()
    }

    /// Hidden states of every layer and logits of every position. Holds all of them in memory: for short texts.
    ///
    /// # Errors
    /// As [`Self::score`].
    pub fn trace(&mut self, ids: &[u32]) -> Result<Trace, EngineError> {
        self.trace_under(ids, None)
    }

    /// As [`Self::trace`], of the model under a LoRA adapter.
    ///
    /// # Errors
    /// As [`Self::trace`]; [`EngineError::Adapter`] if there is none of this name.
    pub fn trace_with_adapter(&mut self, ids: &[u32], name: &str) -> Result<Trace, EngineError> {
        self.trace_under(ids, Some(name))
    }

    fn trace_under(&mut self, ids: &[u32], adapter: Option<&str>) -> Result<Trace, EngineError> {
        let mut trace = Trace::default();
        let mut look = self.begin_look(ids, adapter)?;
        let mut result = Ok(());
        while look.end < ids.len() && result.is_ok() {
            let batch = look.next_chunk(ids, self.max_num_batched_tokens);
            result = self.trace_chunk(&batch, &mut trace);
        }
        self.end_look(look);
        result?;
        Ok(trace)
    }

    fn trace_chunk(&mut self, batch: &ForwardBatch, trace: &mut Trace) -> Result<(), KernelError> {
        let mut layer = 0;
        let hidden_states = &mut trace.hidden_states;
        let mut copied = Ok(());
        let x = self.model.hidden_states(batch, &mut self.kv, &mut |x| {
            hidden_states.resize(hidden_states.len().max(layer + 1), Vec::new());
            match x.to_f32_vec() {
                Ok(values) => hidden_states[layer].extend(values),
                Err(error) => copied = Err(error),
            }
            layer += 1;
        })?;
        copied?;
        trace.final_norm.extend(x.to_f32_vec()?);
        let logits = self.model.logits(&x, &batch.adapters)?;
        trace.logits.extend(logits.to_f32_vec()?);
        Ok(())
    }

    /// Whether [`Self::score`] would find enough free blocks for `len` tokens now.
    pub(super) fn can_score(&self, len: usize) -> bool {
        blocks_for(len) <= self.blocks.num_free()
    }

    /// How many tokens a job may work on between two steps.
    pub(super) fn job_step(&self) -> usize {
        self.scheduler.tokens_between_steps()
    }

    /// Takes blocks for a text.
    pub(super) fn begin_look(
        &mut self,
        ids: &[u32],
        adapter: Option<&str>,
    ) -> Result<Look, EngineError> {
        self.front.limits.check_score(ids)?;
        let adapter = self.front.adapters.find(adapter)?;
        let needed = blocks_for(ids.len());
        let block_table = self
            .blocks
            .allocate(needed)
            .ok_or(EngineError::KvCacheFull)?;
        self.blocks_of_looks += needed;
        Ok(Look {
            block_table,
            adapter,
            end: 0,
        })
    }

    pub(super) fn end_look(&mut self, look: Look) {
        self.blocks_of_looks -= look.block_table.len();
        self.blocks.release(look.block_table);
    }

    /// Calls `each` with the logits of row `i` of the batch, which has at least as many rows, and `next[i]`.
    fn score_rows(
        &mut self,
        batch: &ForwardBatch,
        next: &[u32],
        mut each: impl FnMut(&[f32], u32),
    ) -> Result<(), KernelError> {
        let kv = &mut self.kv;
        let x = self.model.hidden_states(batch, kv, &mut |_| {})?; // [T, C]
        let vocab_size = self.model.config().vocab_size;
        for (i, next) in next.chunks(LOGIT_ROWS).enumerate() {
            let first = (i * LOGIT_ROWS) as u32;
            let rows = (first..first + next.len() as u32).collect::<Vec<_>>();
            let rows = Indices::from(rows);
            let adapters = AdapterRows::picked(&batch.adapters, &rows);
            let logits = self.model.logits(&gather_rows(&x, &rows)?, &adapters)?; // [R, V]
            let logits = logits.to_host()?;
            let logits = logits.as_f32()?.chunks_exact(vocab_size);
            logits.zip(next).for_each(|(row, &id)| each(row, id));
        }
        Ok(())
    }
}

/// A text on its way through the model.
pub(super) struct Look {
    block_table: Vec<BlockId>,
    adapter: Option<AdapterUse>,
    /// Tokens that are through.
    end: usize,
}

impl Look {
    /// Tokens that are through.
    pub(super) fn end(&self) -> usize {
        self.end
    }

    /// The next tokens of `ids`, at most `step`.
    pub(super) fn next_chunk(&mut self, ids: &[u32], step: usize) -> ForwardBatch {
        let start = self.end;
        self.end = ids.len().min(start + step);
        let chunk = ChunkTokens {
            start,
            tokens: &ids[start..self.end],
            draft: &[],
            prompt_len: self.end,
            block_table: &self.block_table,
            samples: false,
        };
        let mut batch = ForwardBatch::new(std::iter::once(chunk));
        let adapter = self.adapter.as_ref().map(AdapterUse::adapter);
        batch.adapters = AdapterRows::group(&batch.attn.query_start, std::iter::once(adapter));
        batch
    }
}

/// What is said of a token and the logits that predict it, `[V]`.
type Score<T> = Box<dyn Fn(&[f32], u32) -> T + Send>;

/// Every token of a text after the first is given a score, a chunk at a time.
pub(super) struct Scoring<T> {
    ids: Vec<u32>,
    adapter: Option<String>,
    look: Option<Look>,
    score: Score<T>,
    /// What must be finite in a score.
    value: fn(&T) -> f32,
    scores: Vec<T>,
}

impl Scoring<f32> {
    /// See [`Engine::score`].
    pub(super) fn nll(ids: &[u32], adapter: Option<&str>) -> Self {
        let nll = |row: &[f32], id: u32| (log_sum_exp(row) - f64::from(row[id as usize])) as f32;
        Self::new(ids, adapter, Box::new(nll), |&nll| nll)
    }
}

impl Scoring<PromptLogprob> {
    /// See [`Engine::prompt_logprobs`]; `top` has been checked.
    pub(super) fn logprobs(ids: &[u32], top: usize, adapter: Option<&str>) -> Self {
        let logprob = move |row: &[f32], id: u32| {
            let report = LogProbs::new(row, top);
            PromptLogprob {
                id,
                logprob: report.of(id),
                top_logprobs: report.into_top(),
            }
        };
        Self::new(ids, adapter, Box::new(logprob), |token| token.logprob)
    }
}

impl<T> Scoring<T> {
    fn new(ids: &[u32], adapter: Option<&str>, score: Score<T>, value: fn(&T) -> f32) -> Self {
        Self {
            ids: ids.to_vec(),
            adapter: adapter.map(str::to_owned),
            look: None,
            score,
            value,
            scores: Vec::with_capacity(ids.len().saturating_sub(1)),
        }
    }

    /// The text.
    pub(super) fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Whether it holds blocks.
    pub(super) fn is_under_way(&self) -> bool {
        self.look.is_some()
    }

    /// Scores at most `step` more tokens; true when all are. It holds blocks in between.
    pub(super) fn advance(
        &mut self,
        engine: &mut Engine,
        step: usize,
    ) -> Result<bool, EngineError> {
        let mut look = match self.look.take() {
            Some(look) => look,
            None => engine.begin_look(&self.ids, self.adapter.as_deref())?,
        };
        let start = look.end;
        let batch = look.next_chunk(&self.ids, step);
        // The row of a token predicts the next one; the last token of all predicts nothing that is known.
        let next = &self.ids[start + 1..self.ids.len().min(look.end + 1)];
        let (score, scores) = (&self.score, &mut self.scores);
        let scored = engine.score_rows(&batch, next, |row, id| scores.push(score(row, id)));
        let done = look.end == self.ids.len();
        self.look = Some(look);
        if done || scored.is_err() {
            self.abandon(engine);
        }
        scored?;
        Ok(done)
    }

    /// Gives its blocks back.
    pub(super) fn abandon(&mut self, engine: &mut Engine) {
        if let Some(look) = self.look.take() {
            engine.end_look(look);
        }
    }

    /// The scores of all tokens after the first.
    ///
    /// # Errors
    /// [`EngineError::NotFinite`].
    pub(super) fn into_scores(self) -> Result<Vec<T>, EngineError> {
        if self
            .scores
            .iter()
            .all(|score| (self.value)(score).is_finite())
        {
            Ok(self.scores)
        } else {
            Err(EngineError::NotFinite)
        }
    }
}

/// Refuses to list more than [`MAX_LOGPROBS`] tokens in place of one.
pub(super) fn check_top(top: usize) -> Result<(), EngineError> {
    if top <= MAX_LOGPROBS {
        return Ok(());
    }
    Err(EngineError::Sampling(InvalidSampling {
        name: "top",
        allowed: "at most 100",
        found: top as f64,
    }))
}
