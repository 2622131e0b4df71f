//! The engine: one owner of model, KV pool and scheduler, stepping.
//!
//! ```text
//! Request -> EngineHandle (channel) -> engine thread:  submit -> plan -> forward -> sample -> commit | fail  -> RequestStream
//! ```
//! [`Engine`] is the part without thread and text: token ids in, token ids out, one [`Engine::step`] at a time.
//! [`EngineHandle`] is the part that programs use: `worker` runs the engine on its own thread and turns ids into text at
//! the edge.

mod draft;
mod drawing;
mod embedding;
mod graphs;
mod handle;
#[cfg(all(test, feature = "shuttle"))]
mod interleaving;
mod kv_budget;
mod launch;
mod limits;
mod open;
mod options;
mod pending;
mod prefix_cache;
mod prompt;
mod speculation;
mod stats;
mod stream;
mod swap;
#[cfg(test)]
mod tests;
mod worker;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use drawing::Row;
use glm_kernels::{Device, Graphs, Work};
pub use handle::EngineHandle;
use handle::Front;
pub use kv_budget::{KvBudget, KvBudgetReason};
use launch::Launched;
pub use options::{EngineBuilder, EngineOptions, LinearShape, ModelInfo};
pub use pending::{Pending, PendingEmbedding};
use prefix_cache::PrefixCacheKeeper;
pub use prompt::{PromptLogprob, Trace};
pub use stats::EngineStats;
pub(crate) use stream::PartialCompletion;
pub use stream::{Completion, Events, RequestStream};

use crate::error::EngineError;
use crate::forward::ForwardBatch;
use crate::guide::{GrammarError, Guide, MaskThreads, ThoughtLimit, TokenMask};
use crate::kv::swap::SwapStore;
use crate::kv::{BlockAllocator, CacheSalt, KvPool};
use crate::lora::{AdapterError, AdapterInfo, AdapterRows, AdapterUse, UnknownAdapter};
use crate::models::CausalLm;
use crate::profile::Profiler;
use crate::request::{
    FinishReason, Finished, GenerateOptions, Part, Request, RequestId, Timings, Usage,
};
use crate::sampling::{Sampled, SequenceSampler, TokenLogprob};
use crate::scheduler::{
    Committed, EndConditions, NewSequence, Refused, Scheduler, SeqId, StepPlan,
};
use crate::speculate::Speculator;

/// A loaded model with its KV cache and scheduler, driven by [`Self::step`]. Most programs want it on a thread of its own:
/// [`EngineBuilder::build`].
pub struct Engine {
    device: Device,
    model: Box<dyn CausalLm>,
    kv: KvPool,
    /// Steps that a graphics processor has recorded, over these weights and this cache.
    graphs: Graphs,
    /// Whether the device is asked for steps before the ones before them are done.
    runs_ahead: bool,
    /// Such a step.
    launched: Option<Launched>,
    /// When a step was done last.
    concluded: Instant,
    /// Host memory for the blocks of preempted sequences.
    swap_store: Option<SwapStore>,
    blocks: BlockAllocator,
    /// Those that texts hold which are being looked at.
    blocks_of_looks: usize,
    scheduler: Scheduler,
    /// For an engine that guesses several tokens ahead.
    speculator: Option<Speculator>,
    requests: HashMap<SeqId, Active>,
    mask_threads: MaskThreads,
    front: Arc<Front>,
    /// Ids that end every answer unless a request ignores them.
    eos_token_ids: Vec<u32>,
    max_num_batched_tokens: usize,
    prefix_cache: bool,
    keeper: PrefixCacheKeeper,
    /// For requests that bring no seed of their own.
    seed: u64,
    next_id: u64,
    /// The scheduler's time is counted from here.
    origin: Instant,
    counters: EngineStats,
    profiler: Arc<Profiler>,
}

/// What the engine keeps of a request besides its sequence.
struct Active {
    sampler: SequenceSampler,
    /// For an answer that must follow a grammar.
    guide: Option<Box<Guide>>,
    /// For an answer that may not think for as long as it likes.
    thoughts: Option<Box<ThoughtLimit>>,
    /// For an answer of the model under an adapter.
    adapter: Option<AdapterUse>,
    /// Whether its tokens may be guessed ahead.
    speculates: bool,
    /// See [`GenerateOptions::prediction`].
    prediction: Vec<u32>,
    /// Whether the guesses of this step are from it.
    predicted: bool,
    usage: Usage,
    /// What was asked for, until a step works on it: it may be handed back.
    unstarted: Option<GenerateOptions>,
    submitted: Instant,
    timeout: Option<Duration>,
    started: Option<Instant>,
    first_token: Option<Instant>,
}

/// The next tokens of a sequence, at least one, or why it has to end.
type SampledRun = Result<Vec<SampledPart>, EngineError>;

/// A token, and what it is a part of.
struct SampledPart {
    token: Sampled,
    part: Part,
}

/// What one step did to one request. Any number of tokens, then exactly one of the other two.
#[derive(Debug, Clone)]
pub enum SeqEvent {
    /// One more token.
    Token(SeqToken),
    /// The answer is complete.
    Finished(RequestId, Finished),
    /// The request ended without an answer.
    Failed(RequestId, EngineError),
}

/// One generated token, as an id.
#[derive(Debug, Clone, PartialEq)]
pub struct SeqToken {
    /// Whose.
    pub request: RequestId,
    /// Position in the answer, from 0.
    pub index: usize,
    /// Token id.
    pub id: u32,
    /// Log-probability, if asked for.
    pub logprob: Option<f32>,
    /// The most likely tokens, if asked for.
    pub top_logprobs: Vec<TokenLogprob>,
    /// What it is a part of, if the answer follows a grammar.
    pub part: Part,
    /// When it was chosen.
    pub at: Instant,
    /// Set on the last token; [`SeqEvent::Finished`] follows.
    pub finish_reason: Option<FinishReason>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("model", &self.front.info.name)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Starts building an engine for MODEL: `demo`, a directory, a `.gguf` file, a hub id or `random:PRESET`.
    pub fn builder(model: impl Into<String>) -> EngineBuilder {
        EngineBuilder::new(model.into())
    }

    /// Queues a request.
    ///
    /// # Errors
    /// A request that can never be served: its parameters are out of range or its prompt does not fit; or one for which
    /// there is no place in the queue now.
    pub fn submit(&mut self, request: Request) -> Result<RequestId, EngineError> {
        let id = RequestId(self.next_id);
        self.submit_as(id, request, Instant::now())?;
        Ok(id)
    }

    fn submit_as(
        &mut self,
        id: RequestId,
        request: Request,
        submitted: Instant,
    ) -> Result<(), EngineError> {
        self.front.limits.check(&request)?;
        self.next_id = self.next_id.max(id.0 + 1);
        let mut stop_token_ids = request.options.stop_token_ids.clone();
        // Where a grammar leaves nothing else to say its answer ends, whatever is ignored before.
        if !request.options.ignore_eos || request.options.grammar.is_some() {
            stop_token_ids.extend(&self.eos_token_ids);
        }
        let guide = self.front.guide(&request, &stop_token_ids)?;
        let thoughts = self.front.thought_limit(&request)?;
        let adapter = self
            .front
            .adapters
            .find(request.options.adapter.as_deref())?;
        let Request { prompt, options } = request;
        let unstarted = Some(options.clone());
        let mut sampler =
            SequenceSampler::new(options.sampling, &prompt, self.seed.wrapping_add(id.0));
        if options.min_tokens > 0 && guide.is_none() {
            sampler = sampler.forbidding(stop_token_ids.clone(), options.min_tokens);
        }
        let end = EndConditions {
            max_new_tokens: options.max_tokens.unwrap_or(usize::MAX),
            stop_token_ids,
        };
        let active = Active {
            sampler,
            guide,
            thoughts,
            adapter,
            speculates: options.speculation,
            prediction: options.prediction,
            predicted: false,
            usage: Usage {
                prompt_tokens: prompt.len(),
                ..Usage::default()
            },
            unstarted,
            submitted,
            timeout: options.timeout,
            started: None,
            first_token: None,
        };
        let prompt_len = prompt.len();
        let share = self.prefix_cache && options.prefix_cache;
        let adapter_id = active.adapter.as_ref().map(AdapterUse::id);
        let new = NewSequence {
            id: SeqId(id.0),
            prompt,
            end,
            cache: share.then(|| CacheSalt::from(options.cache_salt).with_adapter(adapter_id)),
            priority: options.priority,
            deadline: options
                .timeout
                .map(|timeout| self.time_of(submitted).saturating_add(timeout)),
        };
        let now = self.time_of(Instant::now());
        self.scheduler
            .add(new, now)
            .map_err(|refused| self.refusal(refused, prompt_len, active.timeout))?;
        self.requests.insert(SeqId(id.0), active);
        self.counters.accepted += 1;
        Ok(())
    }

    fn time_of(&self, instant: Instant) -> Duration {
        instant.saturating_duration_since(self.origin)
    }

    fn refusal(
        &self,
        refused: Refused,
        prompt_tokens: usize,
        timeout: Option<Duration>,
    ) -> EngineError {
        match refused {
            Refused::PromptTooLong => self.front.limits.too_long(prompt_tokens),
            Refused::QueueFull => EngineError::QueueFull {
                waiting: self.scheduler.num_waiting(),
                waiting_tokens: self.scheduler.num_waiting_tokens(),
            },
            Refused::DeadlinePast => EngineError::TimedOut {
                timeout: timeout.unwrap_or_default(),
                completion_tokens: 0,
            },
        }
    }

    /// One iteration: plan, guess ahead, forward, sample, commit. Returns what callers must be told, failures included; nothing if there
    /// is no work. On a device that draws tokens itself the next step may be under way when this one returns.
    pub fn step(&mut self) -> Vec<SeqEvent> {
        let mut events = self.expire();
        let launched = self.launched.take();
        if let Some(step) = launched.or_else(|| self.launch_next(&mut events)) {
            self.launched = self.launch_ahead(&step);
            self.conclude(step, &mut events);
        }
        debug_assert!(
            self.has_work() || self.holds_nothing(),
            "an idle engine holds a block"
        );
        events
    }

    /// Ends the requests whose time is over.
    fn expire(&mut self) -> Vec<SeqEvent> {
        let now = self.time_of(Instant::now());
        let expired = self.scheduler.expire(now, &mut self.blocks);
        let event = |seq: SeqId| {
            let active = self.requests.get(&seq)?;
            let error = EngineError::TimedOut {
                timeout: active.timeout.unwrap_or_default(),
                completion_tokens: active.usage.completion_tokens,
            };
            self.counters.timed_out += 1;
            Some(self.failed(seq, error))
        };
        expired.into_iter().filter_map(event).collect()
    }

    fn plan(&mut self) -> Option<StepPlan> {
        let _span = self.device.record(|| Work::moving("schedule", 0));
        self.scheduler.plan(&mut self.blocks)
    }

    fn holds_nothing(&self) -> bool {
        self.blocks.num_free() + self.blocks_of_looks == self.blocks.num_blocks()
            && self.blocks.is_consistent()
            && self.scheduler.swap_space().num_free() == self.scheduler.swap_space().num_slots()
            && self.requests.is_empty()
            && self
                .speculator
                .as_ref()
                .is_none_or(Speculator::holds_nothing)
    }

    fn note_start(&mut self, plan: &StepPlan) {
        let now = Instant::now();
        self.counters.steps += 1;
        for chunk in &plan.chunks {
            if chunk.prefill {
                self.counters.prefill_tokens += chunk.len as u64;
            }
            if let Some(active) = self.requests.get_mut(&chunk.seq)
                && active.started.is_none()
            {
                active.started = Some(now);
                active.unstarted = None;
                active.usage.cached_tokens = chunk.start;
            }
        }
    }

    /// Takes the guides of the sequences that this step samples for, each with the guesses at what it will go on by.
    fn take_guides(&mut self, plan: &StepPlan) -> (Vec<SeqId>, Vec<(Guide, Vec<u32>)>) {
        let guided = |(seq, draft): (SeqId, &[u32])| {
            let guide = self.requests.get_mut(&seq)?.guide.take()?;
            Some((seq, (*guide, draft.to_vec())))
        };
        let drafts = plan.sampled().zip(plan.drafts());
        drafts.filter_map(guided).unzip()
    }

    fn give_back(&mut self, guided: &[SeqId], guides: Vec<Guide>) {
        for (seq, guide) in guided.iter().zip(guides) {
            if let Some(active) = self.requests.get_mut(seq) {
                active.guide = Some(Box::new(guide));
            }
        }
    }

    /// The rows of a step that adapters change.
    fn adapter_rows(&self, plan: &StepPlan, batch: &ForwardBatch) -> Vec<AdapterRows> {
        if !self.front.adapters.in_use() {
            return Vec::new();
        }
        let adapters = plan.chunks.iter().map(|chunk| {
            let active = self.requests.get(&chunk.seq)?;
            active.adapter.as_ref().map(AdapterUse::adapter)
        });
        AdapterRows::group(&batch.attn.query_start, adapters)
    }

    fn commit(&mut self, plan: &StepPlan, sampled: Vec<SampledRun>, events: &mut Vec<SeqEvent>) {
        for (seq, sampled) in plan.sampled().zip(&sampled) {
            if let Err(error) = sampled
                && self.scheduler.remove(seq, &mut self.blocks)
            {
                events.push(self.failed(seq, error.clone()));
            }
        }
        // A sequence that failed just now is gone from the scheduler, so what is in its place is never looked at.
        let ids = |run: &SampledRun| -> Vec<u32> {
            let run = run.as_deref().unwrap_or_default();
            run.iter().map(|sampled| sampled.token.id).collect()
        };
        let ids: Vec<Vec<u32>> = sampled.iter().map(ids).collect();
        let committed = self.scheduler.commit(plan, &ids, &mut self.blocks);
        self.count_predictions(plan, &committed);
        // In the same order, and without those that failed.
        let sampled = sampled.into_iter().filter_map(Result::ok).flatten();
        for (committed, sampled) in committed.iter().zip(sampled) {
            self.note_token(committed, sampled, events);
        }
    }

    fn note_token(
        &mut self,
        committed: &Committed,
        sampled: SampledPart,
        events: &mut Vec<SeqEvent>,
    ) {
        let SampledPart { token, part } = sampled;
        let at = Instant::now();
        self.counters.generated_tokens += 1;
        if let Some(active) = self.requests.get_mut(&committed.seq) {
            active.usage.completion_tokens += 1;
            active.first_token.get_or_insert(at);
        }
        events.push(SeqEvent::Token(SeqToken {
            request: RequestId(committed.seq.0),
            index: committed.index,
            id: committed.token,
            logprob: token.logprob,
            top_logprobs: token.top_logprobs,
            part,
            at,
            finish_reason: committed.finish_reason,
        }));
        if let Some(reason) = committed.finish_reason {
            events.extend(self.finished(committed.seq, reason));
        }
    }

    fn fail(&mut self, plan: &StepPlan, error: &EngineError, events: &mut Vec<SeqEvent>) {
        let failed = self.scheduler.fail(plan, &mut self.blocks);
        events.extend(
            failed
                .into_iter()
                .map(|seq| self.failed(seq, error.clone())),
        );
    }

    fn failed(&mut self, seq: SeqId, error: EngineError) -> SeqEvent {
        self.requests.remove(&seq);
        self.forget_drafts(seq);
        self.counters.failed += 1;
        SeqEvent::Failed(RequestId(seq.0), error)
    }

    fn finished(&mut self, seq: SeqId, reason: FinishReason) -> Option<SeqEvent> {
        let active = self.requests.remove(&seq)?;
        self.forget_drafts(seq);
        self.counters.finished += 1;
        self.counters.cancelled += u64::from(reason == FinishReason::Cancelled);
        Some(SeqEvent::Finished(RequestId(seq.0), active.finish(reason)))
    }

    /// Ends a request early and frees its blocks; `None` if it has ended already.
    pub fn cancel(&mut self, id: RequestId) -> Option<SeqEvent> {
        self.stop(id, FinishReason::Cancelled)
    }

    fn stop(&mut self, id: RequestId, reason: FinishReason) -> Option<SeqEvent> {
        let seq = SeqId(id.0);
        if self.scheduler.remove(seq, &mut self.blocks) {
            self.finished(seq, reason)
        } else {
            None
        }
    }

    /// Takes out the requests that no step has worked on yet, in the order in which they would have started, so that they
    /// can be given to another engine. That is their end here: no event follows. A timeout starts anew where they go.
    pub fn hand_back(&mut self) -> Vec<(RequestId, Request)> {
        let unstarted = self.scheduler.take_unstarted().into_iter();
        let request = |(seq, prompt)| {
            let options = self.requests.remove(&seq)?.unstarted?;
            self.counters.handed_back += 1;
            Some((RequestId(seq.0), Request { prompt, options }))
        };
        unstarted.filter_map(request).collect()
    }

    /// Whether a request is waiting or running, or a step is under way.
    pub fn has_work(&self) -> bool {
        !self.scheduler.is_idle() || self.launched.is_some()
    }

    /// What the engine is doing and has done.
    pub fn stats(&self) -> EngineStats {
        let scheduled = self.scheduler.counters();
        let speculated = self.speculator.as_ref().map(Speculator::counters);
        let speculated = speculated.unwrap_or_default();
        let (adapters, adapter_bytes) = self.front.adapters.totals();
        let cublaslt = self.device.cublaslt_stats();
        EngineStats {
            adapters,
            adapter_bytes,
            waiting: self.scheduler.num_waiting(),
            waiting_tokens: self.scheduler.num_waiting_tokens(),
            running: self.scheduler.num_running(),
            kv_blocks_total: self.blocks.num_blocks(),
            kv_blocks_free: self.blocks.num_free(),
            kv_blocks_cached: self.blocks.num_cached(),
            prefix_cache_queries: scheduled.prefix_queries,
            prefix_cache_hits: scheduled.prefix_hits,
            preemptions: scheduled.preemptions,
            swapped_out: scheduled.swapped_out,
            swapped_tokens: scheduled.swapped_tokens,
            swap_blocks_total: self.scheduler.swap_space().num_slots(),
            swap_blocks_free: self.scheduler.swap_space().num_free(),
            drafted_tokens: speculated.drafted,
            accepted_tokens: speculated.accepted,
            drafter_failures: speculated.failures,
            graph_steps: self.graphs.repeated(),
            graph_error: self.graphs.error().map(str::to_owned),
            cublaslt_products: cublaslt.products,
            cublaslt_error: cublaslt.error,
            ..self.counters.clone()
        }
    }

    /// What was loaded, and how.
    pub fn model_info(&self) -> &ModelInfo {
        &self.front.info
    }

    /// Loads a LoRA adapter: see [`EngineHandle::load_adapter`].
    ///
    /// # Errors
    /// As there.
    pub fn load_adapter(
        &self,
        name: &str,
        path: impl AsRef<Path>,
    ) -> Result<AdapterInfo, AdapterError> {
        self.front.adapters.load(name, path.as_ref())
    }

    /// Takes a LoRA adapter out: see [`EngineHandle::unload_adapter`].
    ///
    /// # Errors
    /// As there.
    pub fn unload_adapter(&self, name: &str) -> Result<AdapterInfo, UnknownAdapter> {
        self.front.adapters.unload(name)
    }

    /// The adapters: see [`EngineHandle::adapters`].
    pub fn adapters(&self) -> Vec<AdapterInfo> {
        self.front.adapters.infos()
    }

    /// Where the time of steps goes, for those who ask.
    pub fn profiler(&self) -> &Profiler {
        &self.profiler
    }

    /// The device the model computes on.
    pub fn device(&self) -> &Device {
        &self.device
    }
}

impl Active {
    /// The tokens that come next: what was guessed as far as the sampler draws the same, and what it draws then. `rows`: one more
    /// than guesses.
    fn sample_run(&mut self, draft: &[u32], rows: Vec<Row<'_>>) -> SampledRun {
        let mut run = Vec::with_capacity(1);
        for (at, row) in rows.into_iter().enumerate() {
            match self.sample(row) {
                Ok(sampled) => run.push(sampled),
                // Those before it come first; the next step meets this one again.
                Err(_) if at > 0 => break,
                Err(error) => return Err(error),
            }
            if draft.get(at) != Some(&run[at].token.id) {
                break;
            }
        }
        Ok(run)
    }

    /// The next token: from all, or from those that the grammar and the limit on thoughts allow.
    fn sample(&mut self, row: Row<'_>) -> Result<SampledPart, EngineError> {
        let token = match row {
            Row::Logits(logits) => {
                let allowed = self.allowed()?;
                self.sampler.sample_among(logits, allowed.as_ref())?
            }
            Row::Drawn(token) => self.sampler.take(token)?,
        };
        if let Some(limit) = &mut self.thoughts {
            limit.advance(token.id);
        }
        let part = match &mut self.guide {
            Some(guide) => guide.advance(token.id)?,
            None => Part::Answer,
        };
        Ok(SampledPart { token, part })
    }

    /// The tokens that may come next; all if `None`. To be asked once for each token.
    fn allowed(&mut self) -> Result<Option<TokenMask>, GrammarError> {
        let closing = self.thoughts.as_ref().and_then(|limit| limit.mask());
        match &mut self.guide {
            // What ends a thought is what a grammar allows there.
            Some(guide) if closing.is_none() => Ok(Some(guide.mask()?)),
            _ => Ok(closing),
        }
    }

    fn finish(&self, reason: FinishReason) -> Finished {
        let now = Instant::now();
        let timings = Timings {
            queued: self.started.unwrap_or(now) - self.submitted,
            time_to_first_token: self.first_token.unwrap_or(now) - self.submitted,
            total: now - self.submitted,
        };
        Finished {
            reason,
            stop_string: None,
            usage: self.usage,
            timings,
        }
    }
}
