//! Who runs in the next step. Arithmetic on ids, counts, blocks and a time that is passed in: no tensor, no clock, no
//! channel.
//!
//! Continuous batching (Yu et al. 2022, "Orca") with chunked prefill (Agrawal et al. 2024, "Sarathi-Serve"): every step
//! decodes one token of each running sequence and fills the rest of its token budget with chunks of prompts. Beside
//! decoding sequences that rest is small, so that a long prompt does not stall them; and a prompt that takes more than one
//! step leaves half of it to those behind, so that a short one need not wait for the end of a long one. A step in which a prompt
//! is read to its end is kept as short as one that decodes. How long a step takes is known from those before it ([`pace`]).
//!
//! Sequences that begin alike and come together wait for the first of them, which computes for all: each step, the others
//! take over the blocks that are there by now.
//!
//! Everything is done in the order of [`Rank`]: priority, and arrival within. A prompt is admitted when the blocks for all
//! of it are free. When a decoding sequence needs a block and none is free, the last in line of those that run is preempted,
//! and so are those of lower priority when the first in the queue could then start. A preempted sequence releases its blocks
//! and is computed again from its tokens, which are all known, when there is room; what of it is still in the prefix cache
//! then need not be, nor what was copied to host memory ([`swap`]). The first in line is never preempted, and a whole context
//! fits into the cache, so every sequence ends.

mod look_ahead;
mod pace;
mod plan;
mod queue;
mod run_ahead;
mod sequence;
mod swap;

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

pub use pace::UNMEASURED as UNMEASURED_PREFILL_TOKENS;
use pace::{Budget, Pace};
pub use plan::{Chunk, ChunkTokens, StepPlan};
use queue::{Queue, Rank};
use sequence::Sequence;
pub use sequence::{EndConditions, NewSequence, SeqId};

use crate::kv::swap::SwapSpace;
use crate::kv::{Allocated, BlockAllocator, Prefix, blocks_for};
use crate::request::FinishReason;

/// Limits of a step, of a sequence and of the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchedulerConfig {
    /// Most sequences in one step, at least 1.
    pub max_num_seqs: usize,
    /// Most tokens in one step, at least `max_num_seqs`.
    pub max_num_batched_tokens: usize,
    /// Most tokens of prompts in a step that also decodes, at least 1.
    pub max_num_prefill_tokens: usize,
    /// How long a step that also decodes should take at most, as far as prompts make it long; `None`: as follows from what steps take
    /// that only decode; `Duration::MAX`: no bound.
    pub max_step_time: Option<Duration>,
    /// Most tokens of one sequence, prompt and answer together; that many must fit into the KV cache.
    pub max_model_len: usize,
    /// Most sequences beyond the `max_num_seqs` that can run; `None`: any number.
    pub max_waiting: Option<usize>,
    /// Most tokens of all waiting sequences together, unless only one waits; `None`: any number.
    pub max_waiting_tokens: Option<usize>,
    /// How long a sequence waits before it comes before later ones that have one level of priority more.
    pub priority_aging: Duration,
}

/// Why a sequence was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The prompt leaves no room for an answer.
    PromptTooLong,
    /// Too many wait already.
    QueueFull,
    /// There is no time left for it.
    DeadlinePast,
}

/// A token that a step added to a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// Whose.
    pub seq: SeqId,
    /// The new token.
    pub token: u32,
    /// Its position in the answer, from 0.
    pub index: usize,
    /// Set if it was the last one; the sequence is gone then.
    pub finish_reason: Option<FinishReason>,
}

/// What a scheduler has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SchedulerCounters {
    /// Sequences that lost their blocks.
    pub preemptions: u64,
    /// How many of them were copied to host memory.
    pub swapped_out: u64,
    /// Tokens that were copied back from there instead of being computed again.
    pub swapped_tokens: u64,
    /// Tokens of sequences that started (again) and looked for them in the prefix cache.
    pub prefix_queries: u64,
    /// How many of them were there.
    pub prefix_hits: u64,
}

/// Stands for the token of a step that runs ahead.
pub const UNKNOWN: u32 = 0;

/// Sequences waiting and running.
#[derive(Debug)]
pub struct Scheduler {
    config: SchedulerConfig,
    waiting: Queue,
    /// Hold blocks for all their tokens but, while decoding, perhaps the next. In order of rank when a step is planned.
    running: Vec<Sequence>,
    /// Of all sequences that have one, the next first.
    deadlines: BTreeSet<(Duration, SeqId)>,
    /// Whether waiting sequences may start.
    admitting: bool,
    /// For those that are preempted.
    swap_space: SwapSpace,
    pace: Pace,
    counters: SchedulerCounters,
}

impl Scheduler {
    /// A scheduler without sequences.
    pub fn new(config: SchedulerConfig) -> Self {
        Self {
            config,
            waiting: Queue::default(),
            running: Vec::new(),
            deadlines: BTreeSet::new(),
            admitting: true,
            swap_space: SwapSpace::default(),
            pace: Pace::new(config.max_step_time),
            counters: SchedulerCounters::default(),
        }
    }

    /// Sequences that hold no blocks.
    pub fn num_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Tokens of the sequences that hold no blocks.
    pub fn num_waiting_tokens(&self) -> usize {
        self.waiting.num_tokens()
    }

    /// Sequences that hold blocks.
    pub fn num_running(&self) -> usize {
        self.running.len()
    }

    /// What was done so far.
    pub fn counters(&self) -> SchedulerCounters {
        self.counters
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Queues a sequence that arrives at the time `now`. Times are counted from whenever the caller likes.
    ///
    /// # Errors
    /// [`Refused`]: it would wait for ever, in vain, or too long.
    pub fn add(&mut self, new: NewSequence, now: Duration) -> Result<(), Refused> {
        let config = &self.config;
        if new.prompt.len() >= config.max_model_len {
            return Err(Refused::PromptTooLong);
        }
        if new.deadline.is_some_and(|deadline| deadline <= now) {
            return Err(Refused::DeadlinePast);
        }
        if config.is_full(
            self.waiting.len() + self.running.len(),
            self.waiting.num_tokens(),
            new.prompt.len(),
        ) {
            return Err(Refused::QueueFull);
        }
        let rank = Rank::new(new.id, new.priority, now, config.priority_aging);
        self.deadlines
            .extend(new.deadline.map(|deadline| (deadline, new.id)));
        self.waiting.push(Sequence::new(new, rank));
        Ok(())
    }

    /// With `false`, no waiting sequence starts until it is set again, so that the blocks of running ones come free.
    pub fn set_admitting(&mut self, admitting: bool) {
        self.admitting = admitting;
    }

    /// Removes every sequence whose deadline has come, waiting or running. Returns who must be told.
    pub fn expire(&mut self, now: Duration, blocks: &mut BlockAllocator) -> Vec<SeqId> {
        let mut expired = Vec::new();
        while let Some(&(deadline, id)) = self.deadlines.first()
            && deadline <= now
        {
            self.remove(id, blocks);
            expired.push(id);
        }
        expired
    }

    /// Decides the next step, or `None` if nothing can run.
    pub fn plan(&mut self, blocks: &mut BlockAllocator) -> Option<StepPlan> {
        // Sorted already, but for those that were admitted last.
        self.running.sort_by_key(|seq| seq.rank);
        let mut plan = StepPlan::default();
        self.grow_decoding(&mut plan, blocks);
        self.make_way(&mut plan, blocks);
        for (at, seq) in self.running.iter().enumerate() {
            if seq.is_decoding() {
                plan.chunks.push(chunk(at, seq, 1, false));
            }
        }
        self.plan_prefill(&mut plan, blocks);
        debug_assert!(plan.num_tokens() <= self.config.max_num_batched_tokens);
        // Somebody is preempted only for somebody who runs.
        debug_assert!(plan.copies.is_empty() || !plan.chunks.is_empty());
        (!plan.chunks.is_empty()).then_some(plan)
    }

    /// Learns that the step of `plan` took so long.
    pub fn stepped(&mut self, plan: &StepPlan, elapsed: Duration) {
        self.pace.observe(plan, elapsed);
    }

    /// How many tokens of a text may be computed at once between two steps.
    pub fn tokens_between_steps(&self) -> usize {
        let most = self.config.max_num_batched_tokens;
        if self.is_idle() {
            return most;
        }
        let decoding = self.running.iter().filter(|seq| seq.is_decoding()).count();
        let most = most.min(self.config.max_num_prefill_tokens);
        self.pace.budget(most, decoding.max(1)).fits(0)
    }

    /// Fills the budget beside decoding sequences with prompts, those that are under way first.
    fn plan_prefill(&mut self, plan: &mut StepPlan, blocks: &mut BlockAllocator) {
        let decoding = plan.chunks.len();
        if decoding == self.running.len() && !self.can_admit() {
            return;
        }
        let mut most = self.config.max_num_batched_tokens - decoding;
        if decoding > 0 {
            most = most.min(self.config.max_num_prefill_tokens);
        }
        let mut budget = self.pace.budget(most, decoding);
        let mut behind = self.running.len() - plan.chunks.len();
        let mut in_work = HashSet::new();
        for at in 0..self.running.len() {
            if self.running[at].is_decoding() {
                continue;
            }
            behind -= 1;
            self.counters.prefix_hits += self.running[at].catch_up(blocks) as u64;
            if !must_wait(&self.running[at], blocks, &mut in_work) {
                let last = behind == 0 && !self.can_admit();
                take_prefill(at, &self.running[at], last, &mut budget, plan);
            }
        }
        while budget.fits(0) > 0 && self.can_admit() && self.admit(plan, blocks) {
            let at = self.running.len() - 1;
            if !must_wait(&self.running[at], blocks, &mut in_work) {
                let last = !self.can_admit();
                take_prefill(at, &self.running[at], last, &mut budget, plan);
            }
        }
        let budget = self.hurry(budget, decoding, plan);
        self.spend_rest(budget, plan);
    }

    /// Gives every decoding sequence the block its next token needs, in order of rank, preempting the last in line as long
    /// as none is free.
    fn grow_decoding(&mut self, plan: &mut StepPlan, blocks: &mut BlockAllocator) {
        let mut next = 0;
        while let Some(seq) = self.running.get_mut(next) {
            let missing = blocks_for(seq.tokens.len()) - seq.block_table.len();
            if missing == 0 {
                next += 1;
            } else if let Some(fresh) = blocks.allocate(missing) {
                seq.block_table.extend(fresh);
                next += 1;
            } else {
                self.preempt_last(plan, blocks);
            }
        }
    }

    /// Preempts running sequences of lower priority than the first in the queue if that is enough for it to start.
    fn make_way(&mut self, plan: &mut StepPlan, blocks: &mut BlockAllocator) {
        let Some(first) = self.waiting.first().filter(|_| self.admitting) else {
            return;
        };
        let below = |seq: &&Sequence| seq.priority < first.priority && seq.rank > first.rank;
        let mut lower = self.running.iter().rev().take_while(below).peekable();
        if lower.peek().is_none() {
            return;
        }
        let mut forecast = blocks.forecast(&first.tokens, first.cache.as_ref());
        let mut seats = self.config.max_num_seqs - self.running.len();
        let mut victims = 0;
        for seq in lower {
            if seats > 0 && forecast.fits() {
                break;
            }
            victims += 1;
            seats += 1;
            forecast.release(&seq.block_table);
        }
        if seats > 0 && forecast.fits() {
            (0..victims).for_each(|_| self.preempt_last(plan, blocks));
        }
    }

    fn preempt_last(&mut self, plan: &mut StepPlan, blocks: &mut BlockAllocator) {
        if let Some(mut seq) = self.running.pop() {
            self.swap_out(&mut seq, plan, blocks);
            blocks.release(seq.block_table.drain(..));
            seq.num_computed = 0;
            self.waiting.push(seq);
            self.counters.preemptions += 1;
        }
    }

    fn can_admit(&self) -> bool {
        self.admitting && !self.waiting.is_empty() && self.running.len() < self.config.max_num_seqs
    }

    /// Moves the first of the queue to the running sequences if the blocks for all its tokens are free.
    fn admit(&mut self, plan: &mut StepPlan, blocks: &mut BlockAllocator) -> bool {
        let Some(first) = self.waiting.first() else {
            return false;
        };
        let allocated = match &first.cache {
            Some(salt) => blocks.allocate_for(&first.tokens, salt),
            None => {
                let fresh = blocks.allocate(blocks_for(first.tokens.len()));
                fresh.map(Allocated::fresh)
            }
        };
        let Some(allocated) = allocated else {
            return false;
        };
        if let Some(mut seq) = self.waiting.pop_first() {
            if seq.cache.is_some() {
                self.counters.prefix_queries += seq.tokens.len() as u64;
                self.counters.prefix_hits += allocated.num_cached_tokens as u64;
            }
            seq.block_table = allocated.block_table;
            seq.num_computed = allocated.num_cached_tokens;
            self.swap_in(&mut seq, plan, blocks);
            seq.started = true;
            self.running.push(seq);
        }
        true
    }

    /// Leaves the prompts that are not read to their end no more of a step in which others are than they have beside decoding
    /// sequences: the first tokens of those come with its end. Returns what of the budget is left for them.
    fn hurry(&self, budget: Budget, decoding: usize, plan: &mut StepPlan) -> Budget {
        if !plan.chunks.iter().any(|chunk| chunk.samples) {
            return budget;
        }
        let most = self.config.max_num_prefill_tokens;
        let mut room = self.pace.budget(most, decoding.max(1));
        for chunk in plan.chunks.iter_mut().filter(|chunk| !chunk.samples) {
            chunk.len = chunk.len.min(room.fits(chunk.start));
            room.take(chunk.start, chunk.len);
        }
        plan.chunks.retain(|chunk| chunk.len > 0);
        room.min(budget)
    }

    /// Lets the prompts that left some of the budget to others have what nobody took.
    fn spend_rest(&self, mut budget: Budget, plan: &mut StepPlan) {
        for chunk in plan.chunks.iter_mut().filter(|chunk| !chunk.samples) {
            let missing = self.running[chunk.at].tokens.len() - chunk.end();
            let more = budget.fits(chunk.end()).min(missing);
            budget.take(chunk.end(), more);
            chunk.len += more;
            chunk.samples = more == missing;
        }
    }

    /// The tokens of every chunk of the latest plan, which must not have been committed yet.
    pub fn tokens<'a>(
        &'a self,
        plan: &'a StepPlan,
    ) -> impl Iterator<Item = ChunkTokens<'a>> + Clone {
        plan.chunks.iter().map(|chunk| {
            let seq = &self.running[chunk.at];
            debug_assert_eq!(seq.id, chunk.seq, "a plan of another step");
            let known = seq.tokens.get(chunk.start..chunk.end());
            debug_assert!(known.is_some() || plan.runs_ahead());
            ChunkTokens {
                start: chunk.start,
                tokens: known.unwrap_or(&[UNKNOWN]),
                draft: plan.draft_of(chunk),
                prompt_len: seq.prompt_len,
                block_table: &seq.block_table,
                samples: chunk.samples,
            }
        })
    }

    /// Records that `plan` was computed; `sampled` holds the next tokens of each of [`StepPlan::sampled`]: as many of its
    /// guesses as were right, from the first on, and then one that was not guessed.
    ///
    /// A sequence that was removed in the meantime is skipped.
    pub fn commit(
        &mut self,
        plan: &StepPlan,
        sampled: &[impl AsRef<[u32]>],
        blocks: &mut BlockAllocator,
    ) -> Vec<Committed> {
        let mut sampled = sampled.iter();
        let mut committed = Vec::with_capacity(sampled.len());
        let mut any_ended = false;
        for chunk in &plan.chunks {
            let next = if chunk.samples { sampled.next() } else { None };
            let next = next.map_or(&[][..], AsRef::as_ref);
            let Some(at) = self.find(chunk) else { continue };
            let seq = &mut self.running[at];
            let first = seq.num_generated();
            seq.tokens.extend(next);
            // Right guesses are computed already; only the last token is not.
            seq.computed(chunk.end() + next.len().saturating_sub(1), blocks);
            seq.release_look_ahead(blocks);
            if next.is_empty() {
                continue;
            }
            let finish_reason = seq.finish_reason(self.config.max_model_len);
            let token = |(i, &token): (usize, &u32)| Committed {
                seq: seq.id,
                token,
                index: first + i,
                finish_reason: finish_reason.filter(|_| i + 1 == next.len()),
            };
            committed.extend(next.iter().enumerate().map(token));
            if finish_reason.is_some() {
                (seq.ended, any_ended) = (true, true);
                blocks.release(seq.block_table.drain(..));
                forget_deadline(&mut self.deadlines, seq);
            }
        }
        if any_ended {
            self.running.retain(|seq| !seq.ended);
        }
        committed
    }

    /// Where the sequence of a chunk is now: where it was, unless another one was removed.
    fn find(&self, chunk: &Chunk) -> Option<usize> {
        let is_it = |seq: &Sequence| seq.id == chunk.seq;
        match self.running.get(chunk.at) {
            Some(seq) if is_it(seq) => Some(chunk.at),
            _ => self.running.iter().position(is_it),
        }
    }

    /// Removes every sequence of a step that failed: their keys and values are in doubt. Returns who must be told.
    pub fn fail(&mut self, plan: &StepPlan, blocks: &mut BlockAllocator) -> Vec<SeqId> {
        plan.chunks
            .iter()
            .map(|chunk| chunk.seq)
            .filter(|&seq| self.remove(seq, blocks))
            .collect()
    }

    /// Removes one sequence and releases its blocks; false if it is not here (any more).
    pub fn remove(&mut self, id: SeqId, blocks: &mut BlockAllocator) -> bool {
        let running = self.running.iter().position(|seq| seq.id == id);
        let seq = match running {
            Some(at) => Some(self.running.remove(at)),
            None => self.waiting.remove(id),
        };
        let Some(mut seq) = seq else { return false };
        self.drop_swapped(&mut seq);
        blocks.release(seq.block_table.drain(..));
        forget_deadline(&mut self.deadlines, &seq);
        true
    }

    /// Removes the sequences that never ran; their prompts, in the order in which they would have started.
    pub fn take_unstarted(&mut self) -> Vec<(SeqId, Vec<u32>)> {
        let unstarted = self.waiting.take_unstarted();
        for seq in &unstarted {
            forget_deadline(&mut self.deadlines, seq);
        }
        let prompts = unstarted.into_iter().map(|seq| (seq.id, seq.tokens));
        prompts.collect()
    }
}

impl SchedulerConfig {
    /// Whether there is no room for one more prompt of `tokens` tokens beside `num_seqs` sequences, waiting and running,
    /// and `waiting_tokens` tokens that wait.
    pub fn is_full(&self, num_seqs: usize, waiting_tokens: usize, tokens: usize) -> bool {
        let most = self
            .max_waiting
            .map(|max| self.max_num_seqs.saturating_add(max));
        most.is_some_and(|most| num_seqs >= most)
            || self
                .max_waiting_tokens
                .is_some_and(|max| waiting_tokens > 0 && waiting_tokens + tokens > max)
    }
}

fn forget_deadline(deadlines: &mut BTreeSet<(Duration, SeqId)>, seq: &Sequence) {
    if let Some(deadline) = seq.deadline {
        deadlines.remove(&(deadline, seq.id));
    }
}

/// The next `len` tokens of the `at`-th running sequence.
fn chunk(at: usize, seq: &Sequence, len: usize, prefill: bool) -> Chunk {
    Chunk {
        seq: seq.id,
        at,
        start: seq.num_computed,
        len,
        samples: len == seq.num_pending(),
        prefill,
        draft: (0, 0),
    }
}

/// Whether a sequence before this one computes the same block in this step, so that it can be had afterwards.
fn must_wait(seq: &Sequence, blocks: &BlockAllocator, in_work: &mut HashSet<Prefix>) -> bool {
    let next = seq.next_prefix(blocks);
    next.is_some_and(|next| !in_work.insert(next)) && seq.can_adopt()
}

/// Plans as many tokens of a prompt as the budget allows, half of it if others are behind and this is not its last chunk.
fn take_prefill(at: usize, seq: &Sequence, last: bool, budget: &mut Budget, plan: &mut StepPlan) {
    let room = budget.fits(seq.num_computed);
    let len = match seq.num_pending() {
        pending if pending <= room => pending,
        _ if last => room,
        _ => room.div_ceil(2),
    };
    if len > 0 {
        budget.take(seq.num_computed, len);
        plan.chunks.push(chunk(at, seq, len, true));
    }
}

#[cfg(test)]
mod tests;
