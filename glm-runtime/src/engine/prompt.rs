//! Looking at given tokens instead of generating: their likelihood, and everything the model computes on the way. Both go
//! through the same paged cache as generation, in chunks of one step's budget.

use glm_kernels::{KernelError, Tensor, gather_rows};

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
        let nll = self.score_with(ids, adapter, |row, id| {
            (log_sum_exp(row) - f64::from(row[id as usize])) as f32
        })?;
        all_finite(nll, |&nll| nll)
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
        self.prompt_logprobs_under(ids, top, None)
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
        self.prompt_logprobs_under(ids, top, Some(name))
    }

    fn prompt_logprobs_under(
        &mut self,
        ids: &[u32],
        top: usize,
        adapter: Option<&str>,
    ) -> Result<Vec<PromptLogprob>, EngineError> {
        check_top(top)?;
        let logprobs = self.score_with(ids, adapter, |row, id| {
            let report = LogProbs::new(row, top);
            PromptLogprob {
                id,
                logprob: report.of(id),
                top_logprobs: report.into_top(),
            }
        })?;
        all_finite(logprobs, |token| token.logprob)
    }

    /// What `each` says of every token after the first and the logits that predict it, `[V]`.
    fn score_with<T>(
        &mut self,
        ids: &[u32],
        adapter: Option<&str>,
        each: impl Fn(&[f32], u32) -> T,
    ) -> Result<Vec<T>, EngineError> {
        let mut scores = Vec::with_capacity(ids.len().saturating_sub(1));
        self.for_each_chunk(ids, adapter, |engine, batch, end| {
            let x = engine
                .model
                .hidden_states(batch, &mut engine.kv, &mut |_| {})?; // [T, C]
            // The row of a token predicts the next one; the last token of all predicts nothing that is known.
            let start = end - batch.token_ids.len();
            engine.score_rows(&x, &ids[start + 1..ids.len().min(end + 1)], |row, id| {
                scores.push(each(row, id));
            })
        })?;
        Ok(scores)
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
        self.for_each_chunk(ids, adapter, |engine, batch, _| {
            let mut layer = 0;
            let x = engine
                .model
                .hidden_states(batch, &mut engine.kv, &mut |x| {
                    trace
                        .hidden_states
                        .resize(trace.hidden_states.len().max(layer + 1), Vec::new());
                    trace.hidden_states[layer].extend(x.to_f32_vec());
                    layer += 1;
                })?;
            trace.final_norm.extend(x.to_f32_vec());
            trace.logits.extend(engine.model.logits(&x)?.to_f32_vec());
            Ok(())
        })?;
        Ok(trace)
    }

    /// Whether [`Self::score`] would find enough free blocks for `len` tokens now.
    pub(super) fn can_score(&self, len: usize) -> bool {
        blocks_for(len) <= self.blocks.num_free()
    }

    /// Runs `each` with the batch of every chunk of `ids` and the position after it, on blocks taken for the purpose.
    fn for_each_chunk(
        &mut self,
        ids: &[u32],
        adapter: Option<&str>,
        mut each: impl FnMut(&mut Self, &ForwardBatch, usize) -> Result<(), KernelError>,
    ) -> Result<(), EngineError> {
        self.front.limits.check_score(ids)?;
        let adapter = self.front.adapters.find(adapter)?;
        let block_table = self
            .blocks
            .allocate(blocks_for(ids.len()))
            .ok_or(EngineError::KvCacheFull)?;
        let step = self.max_num_batched_tokens;
        let result = (0..ids.len()).step_by(step).try_for_each(|start| {
            let end = ids.len().min(start + step);
            let mut batch = chunk_batch(&ids[start..end], start, &block_table);
            let adapter = adapter.as_ref().map(AdapterUse::adapter);
            batch.adapters = AdapterRows::group(&batch.query_start, std::iter::once(adapter));
            each(self, &batch, end)
        });
        self.blocks.release(block_table);
        Ok(result?)
    }

    /// Calls `each` with the logits of row `i` of `x`, `[T, C]` with T >= `next.len()`, and `next[i]`.
    fn score_rows(
        &self,
        x: &Tensor,
        next: &[u32],
        mut each: impl FnMut(&[f32], u32),
    ) -> Result<(), KernelError> {
        let vocab_size = self.model.config().vocab_size;
        for (i, next) in next.chunks(LOGIT_ROWS).enumerate() {
            let first = (i * LOGIT_ROWS) as u32;
            let rows: Vec<u32> = (first..first + next.len() as u32).collect();
            let logits = self.model.logits(&gather_rows(x, &rows)?)?; // [R, V]
            let logits = logits.as_f32()?.chunks_exact(vocab_size);
            logits.zip(next).for_each(|(row, &id)| each(row, id));
        }
        Ok(())
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

fn all_finite<T>(scores: Vec<T>, value: impl Fn(&T) -> f32) -> Result<Vec<T>, EngineError> {
    if scores.iter().all(|score| value(score).is_finite()) {
        Ok(scores)
    } else {
        Err(EngineError::NotFinite)
    }
}

fn chunk_batch(tokens: &[u32], start: usize, block_table: &[BlockId]) -> ForwardBatch {
    let chunk = ChunkTokens {
        start,
        tokens,
        draft: &[],
        block_table,
        samples: false,
    };
    ForwardBatch::new(std::iter::once(chunk))
}
