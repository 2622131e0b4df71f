mod look_ahead;
mod machine;
mod pace;
mod run_ahead;
mod swap;

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use self::machine::{Machine, any_machine, any_step_time};
use super::look_ahead::Decoding;
use super::*;
use crate::kv::swap::BlockCopies;
use crate::kv::{BLOCK_SIZE, BlockId, CacheSalt};
use crate::load::mix;

/// Time that a step takes.
const STEP: Duration = Duration::from_millis(100);
const AGING: Duration = Duration::from_secs(1);

/// A model whose keys and values can be checked: the value at a position is a hash of all tokens up to it, made from the
/// token and the value before, wherever the block table says that this is.
struct FakeModel {
    kv: Vec<u64>,
    /// Blocks in host memory.
    host: Vec<[u64; BLOCK_SIZE]>,
}

/// The value after one more token.
fn next_value(before: u64, token: u32) -> u64 {
    mix(before ^ u64::from(token).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// The next token, given the value of the last one.
fn next_token(value: u64) -> u32 {
    (value % 3) as u32
}

impl FakeModel {
    fn new(num_blocks: usize) -> Self {
        Self {
            kv: vec![0; num_blocks * BLOCK_SIZE],
            host: Vec::new(),
        }
    }

    /// Copies blocks to host memory and back; what was copied out is gone from where it was.
    fn copy(&mut self, copies: &BlockCopies) {
        let place = |block: BlockId| block.slot(0) as usize..block.slot(0) as usize + BLOCK_SIZE;
        for &(block, slot) in &copies.out {
            self.host[slot.0 as usize].copy_from_slice(&self.kv[place(block)]);
        }
        for &(slot, block) in &copies.back {
            self.kv[place(block)].copy_from_slice(&self.host[slot.0 as usize]);
            self.host[slot.0 as usize] = [0; BLOCK_SIZE];
        }
    }

    /// Computes a chunk and returns the next tokens: what was guessed right and one more.
    fn run(&mut self, chunk: &ChunkTokens<'_>) -> Vec<u32> {
        let slot = |position: usize| {
            let block: BlockId = chunk.block_table[position / BLOCK_SIZE];
            block.slot(position % BLOCK_SIZE) as usize
        };
        let before = chunk.start.checked_sub(1);
        let mut value = before.map_or(0, |last| self.kv[slot(last)]);
        for (position, &token) in (chunk.start..).zip(chunk.tokens) {
            value = next_value(value, token);
            self.kv[slot(position)] = value;
        }
        let mut next = vec![next_token(value)];
        for (position, &guess) in (chunk.start + chunk.tokens.len()..).zip(chunk.draft) {
            value = next_value(value, guess);
            self.kv[slot(position)] = value;
            next.push(next_token(value));
        }
        let right = chunk.draft.iter().zip(&next).take_while(|(a, b)| a == b);
        next.truncate(1 + right.count());
        next
    }
}

/// What the model answers to a prompt when nothing else runs.
fn undisturbed(prompt: &[u32], len: usize) -> Vec<u32> {
    let first = |value, &token| next_value(value, token);
    let mut value = prompt.iter().fold(0, first);
    let next = |_| {
        let token = next_token(value);
        value = next_value(value, token);
        token
    };
    (0..len).map(next).collect()
}

/// A prompt that begins like those of the same `kind` and partly like those of others.
fn prompt(kind: usize, len: usize) -> Vec<u32> {
    let token = |i| u32::from(i / BLOCK_SIZE >= kind);
    (0..len).map(token).collect()
}

/// A sequence without priority and deadline that shares its blocks.
fn new(id: u64, prompt: Vec<u32>, max_new_tokens: usize) -> NewSequence {
    NewSequence {
        id: SeqId(id),
        prompt,
        end: EndConditions {
            max_new_tokens,
            stop_token_ids: vec![],
        },
        cache: Some(CacheSalt::default()),
        priority: 0,
        deadline: None,
    }
}

fn config(
    max_num_seqs: usize,
    max_num_batched_tokens: usize,
    max_model_len: usize,
) -> SchedulerConfig {
    SchedulerConfig {
        max_num_seqs,
        max_num_batched_tokens,
        max_num_prefill_tokens: max_num_batched_tokens,
        max_step_time: Some(Duration::MAX),
        max_model_len,
        max_waiting: None,
        max_waiting_tokens: None,
        priority_aging: AGING,
    }
}

/// Drives a scheduler as an engine would, and checks every plan and every token.
struct Simulation {
    scheduler: Scheduler,
    blocks: BlockAllocator,
    model: FakeModel,
    config: SchedulerConfig,
    now: Duration,
    added: HashMap<SeqId, (NewSequence, Duration)>,
    generated: HashMap<SeqId, Vec<u32>>,
    /// Times that each sequence ended: refused, done, expired or removed.
    ended: HashMap<SeqId, usize>,
    /// Got a token in the latest step and go on.
    decoding: HashSet<SeqId>,
    /// Tokens computed before a sequence decodes.
    prefilled: usize,
    /// Tokens computed.
    computed: usize,
    /// Decides what is guessed; `None`: nothing.
    drafts: Option<u64>,
    /// Right guesses.
    accepted: usize,
    /// Decides which steps are asked for before the one before them is committed; `None`: none.
    runs_ahead: Option<u64>,
    /// Such a step, and what its sequences say next.
    ahead: Option<(StepPlan, Vec<Vec<u32>>)>,
    steps_ahead: usize,
    machine: Machine,
    /// What the latest step took.
    step_time: Duration,
}

impl Simulation {
    fn new(config: SchedulerConfig, spare_blocks: usize) -> Self {
        let num_blocks = blocks_for(config.max_model_len) + spare_blocks;
        Self {
            scheduler: Scheduler::new(config),
            blocks: BlockAllocator::new(num_blocks as u32),
            model: FakeModel::new(num_blocks),
            config,
            now: Duration::ZERO,
            added: HashMap::new(),
            generated: HashMap::new(),
            ended: HashMap::new(),
            decoding: HashSet::new(),
            prefilled: 0,
            computed: 0,
            drafts: None,
            accepted: 0,
            runs_ahead: None,
            ahead: None,
            steps_ahead: 0,
            machine: Machine::default(),
            step_time: Duration::ZERO,
        }
    }

    fn with_swap_space(mut self, num_slots: u32) -> Self {
        self.scheduler = self.scheduler.with_swap_space(num_slots);
        self.model.host = vec![[0; BLOCK_SIZE]; num_slots as usize];
        self
    }

    fn add(&mut self, new: NewSequence) -> Result<(), Refused> {
        let id = new.id;
        self.added.insert(id, (new.clone(), self.now));
        let result = self.scheduler.add(new, self.now);
        if result.is_err() {
            self.end(id);
        }
        result
    }

    fn end(&mut self, id: SeqId) {
        *self.ended.entry(id).or_default() += 1;
        self.decoding.remove(&id);
    }

    fn step(&mut self) -> bool {
        self.now += STEP;
        for id in self.scheduler.expire(self.now, &mut self.blocks) {
            let deadline = self.added[&id].0.deadline;
            assert!(
                deadline.is_some_and(|deadline| deadline <= self.now),
                "too early"
            );
            self.end(id);
        }
        let (plan, sampled) = match self.ahead.take() {
            Some(ahead) => ahead,
            None => match self.plan() {
                Some(plan) => {
                    let sampled = self.compute(&plan, &[]);
                    (plan, sampled)
                }
                None => return false,
            },
        };
        self.step_time = self.machine.step_time(&plan);
        self.scheduler.stepped(&plan, self.step_time);
        self.run_ahead(&plan, &sampled);
        self.accepted += sampled.iter().map(|next| next.len() - 1).sum::<usize>();
        for committed in self.scheduler.commit(&plan, &sampled, &mut self.blocks) {
            let generated = self.generated.entry(committed.seq).or_default();
            assert_eq!(generated.len(), committed.index);
            generated.push(committed.token);
            self.decoding.insert(committed.seq);
            if committed.finish_reason.is_some() {
                self.end(committed.seq);
            }
        }
        assert!(self.blocks.is_consistent());
        assert!(self.scheduler.no_slot_is_lost());
        for seq in &self.scheduler.running {
            assert!(
                seq.block_table.len() <= blocks_for(seq.tokens.len()),
                "kept"
            );
        }
        true
    }

    fn plan(&mut self) -> Option<StepPlan> {
        let preemptions = self.scheduler.counters.preemptions;
        let running: Vec<SeqId> = self.scheduler.running.iter().map(|seq| seq.id).collect();
        let Some(mut plan) = self.scheduler.plan(&mut self.blocks) else {
            assert!(self.decoding.is_empty());
            return None;
        };
        self.check_plan(
            &plan,
            &running,
            self.scheduler.counters.preemptions - preemptions,
        );
        self.guess(&mut plan);
        Some(plan)
    }

    /// What the sequences of a step say next; `before`: what those of the step before it did.
    fn compute(&mut self, plan: &StepPlan, before: &[Vec<u32>]) -> Vec<Vec<u32>> {
        self.computed += plan.num_tokens();
        self.model.copy(&plan.copies);
        let mut sampled = Vec::new();
        for (at, chunk) in self.scheduler.tokens(plan).enumerate() {
            let drawn = plan.follows.get(at).map(|row| &before[*row as usize][..]);
            let tokens = drawn.unwrap_or(chunk.tokens);
            let next = self.model.run(&ChunkTokens { tokens, ..chunk });
            sampled.extend(chunk.samples.then_some(next));
        }
        sampled
    }

    fn check_plan(&mut self, plan: &StepPlan, before: &[SeqId], preempted: u64) {
        let config = &self.config;
        assert!(plan.num_tokens() <= config.max_num_batched_tokens);
        assert!(plan.chunks.len() <= config.max_num_seqs);
        assert!(plan.chunks.iter().all(|chunk| chunk.len > 0));
        let planned: HashSet<SeqId> = plan.chunks.iter().map(|chunk| chunk.seq).collect();
        assert_eq!(planned.len(), plan.chunks.len(), "twice in a step");
        let prefill = plan.chunks.iter().filter(|chunk| chunk.prefill);
        let prefill: usize = prefill.map(|chunk| chunk.len).sum();
        self.prefilled += prefill;
        if prefill < plan.num_tokens() {
            assert!(prefill <= config.max_num_prefill_tokens, "answers stall");
        }
        // One that was preempted and started again at once is a prompt like any other.
        let decodes = plan.chunks.iter().filter(|chunk| !chunk.prefill);
        let decodes: HashSet<SeqId> = decodes.map(|chunk| chunk.seq).collect();
        let stalled = self.decoding.difference(&decodes).count();
        assert!(
            stalled as u64 <= preempted,
            "an answer stalls that was not preempted"
        );
        self.decoding.retain(|id| decodes.contains(id));
        // Whoever starts now comes before all who still wait.
        let running = self.scheduler.running.iter();
        let admitted: Vec<SeqId> = running
            .map(|seq| seq.id)
            .filter(|id| !before.contains(id))
            .collect();
        if let Some(first) = self.scheduler.waiting.first() {
            let first = self.place(first.id);
            assert!(
                admitted.iter().all(|&id| self.place(id) < first),
                "out of turn"
            );
        }
    }

    /// Arrival less what the priority is worth, in milliseconds; then the id.
    fn place(&self, id: SeqId) -> (i128, SeqId) {
        let (new, arrival) = &self.added[&id];
        let bonus = i128::from(new.priority) * AGING.as_millis() as i128;
        (arrival.as_millis() as i128 - bonus, id)
    }

    fn remove(&mut self, id: SeqId) {
        if self.scheduler.remove(id, &mut self.blocks) {
            self.end(id);
        }
    }

    fn run(&mut self) {
        let mut steps = 0;
        while self.step() {
            steps += 1;
            assert!(steps < 20_000, "the scheduler makes no progress");
        }
        assert!(self.scheduler.is_idle());
        assert!(self.scheduler.deadlines.is_empty());
        assert_eq!(self.scheduler.num_waiting_tokens(), 0);
        assert_eq!(self.blocks.num_free(), self.blocks.num_blocks());
        let swap_space = self.scheduler.swap_space();
        assert_eq!(swap_space.num_free(), swap_space.num_slots());
    }

    /// Everything generated so far is what the model would have said to each prompt alone.
    fn check_answers(&self) {
        for (id, answer) in &self.generated {
            let expected = undisturbed(&self.added[id].0.prompt, answer.len());
            assert_eq!(*answer, expected, "{id:?}");
        }
    }
}

fn any_config() -> impl Strategy<Value = SchedulerConfig> {
    let limit = || prop::option::weighted(0.2, 0usize..200);
    (
        1usize..5,
        0usize..40,
        1usize..30,
        any_step_time(),
        2usize..120,
        prop::option::weighted(0.2, 0usize..6),
        limit(),
    )
        .prop_map(
            |(
                max_num_seqs,
                extra,
                max_num_prefill_tokens,
                max_step_time,
                max_model_len,
                max_waiting,
                max_waiting_tokens,
            )| SchedulerConfig {
                max_num_prefill_tokens,
                max_step_time,
                max_waiting,
                max_waiting_tokens,
                ..config(max_num_seqs, max_num_seqs + extra, max_model_len)
            },
        )
}

/// A request, and what happens after it.
#[derive(Debug, Clone)]
struct Arrival {
    new: NewSequence,
    /// Steps before the next one comes.
    steps: usize,
    /// Whether it is cancelled then.
    cancelled: bool,
}

fn arrival() -> impl Strategy<Value = Arrival> {
    (
        (
            0usize..4,
            1usize..130,
            1usize..60,
            prop::bool::weighted(0.3),
        ),
        -2i32..=2,
        prop::option::weighted(0.2, 0u32..100),
        prop::bool::weighted(0.9),
        0usize..6,
        prop::bool::weighted(0.1),
    )
        .prop_map(
            |((kind, len, max_new_tokens, stops), priority, deadline, shares, steps, cancelled)| {
                let mut new = new(0, prompt(kind, len), max_new_tokens);
                new.end.stop_token_ids.extend(stops.then_some(2));
                new.priority = priority;
                new.deadline = deadline.map(|steps| STEP * steps);
                new.cache = new.cache.filter(|_| shares);
                Arrival {
                    new,
                    steps,
                    cancelled,
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_sequence_ends_once_with_its_own_answer_and_every_block_comes_back(
        config in any_config(),
        spare_blocks in 0usize..6,
        swap_slots in prop_oneof![Just(0), 1u32..12],
        arrivals in prop::collection::vec(arrival(), 1..12),
        drafts in prop::option::of(any::<u64>()),
        runs_ahead in prop::option::of(any::<u64>()),
        machine in any_machine(),
    ) {
        let mut simulation = Simulation::new(config, spare_blocks).with_swap_space(swap_slots);
        simulation.drafts = drafts;
        simulation.runs_ahead = runs_ahead;
        simulation.machine = machine;
        for (id, arrival) in (0..).zip(&arrivals) {
            // Refusals are counted as ends.
            let _ = simulation.add(NewSequence { id: SeqId(id), ..arrival.new.clone() });
            for _ in 0..arrival.steps {
                simulation.step();
            }
            if arrival.cancelled {
                simulation.remove(SeqId(id));
            }
        }
        simulation.run();
        simulation.check_answers();
        for (id, Arrival { new, cancelled, .. }) in (0..).zip(&arrivals) {
            prop_assert_eq!(simulation.ended.get(&SeqId(id)), Some(&1));
            let room = config.max_model_len.saturating_sub(new.prompt.len());
            let most = new.end.max_new_tokens.min(room);
            let most = undisturbed(&new.prompt, most)
                .iter()
                .position(|token| new.end.stop_token_ids.contains(token))
                .map_or(most, |stop| stop + 1);
            let generated = simulation.generated.get(&SeqId(id)).map_or(0, Vec::len);
            prop_assert!(generated <= most);
            let limited = config.max_waiting.is_some() || config.max_waiting_tokens.is_some();
            if !cancelled && new.deadline.is_none() && !limited {
                prop_assert_eq!(generated, most);
            }
        }
    }

    #[test]
    fn a_failed_step_ends_exactly_its_sequences(config in any_config(), prompts in prop::collection::vec(1usize..60, 1..6)) {
        let mut simulation = Simulation::new(config, 4);
        for (id, &prompt_len) in prompts.iter().enumerate() {
            let _ = simulation.add(new(id as u64, prompt(id, prompt_len), 8));
        }
        if let Some(plan) = simulation.scheduler.plan(&mut simulation.blocks) {
            let failed = simulation.scheduler.fail(&plan, &mut simulation.blocks);
            let planned: Vec<_> = plan.chunks.iter().map(|chunk| chunk.seq).collect();
            prop_assert_eq!(failed, planned);
        }
        simulation.run();
    }

    #[test]
    fn nobody_starves_however_many_come_with_a_higher_priority(
        priority in -3i32..=0,
        per_step in 1usize..3,
        max_num_seqs in 1usize..4,
        prompt_len in 1usize..40,
    ) {
        let mut simulation = Simulation::new(config(max_num_seqs, 64, 64), 2);
        let low = SeqId(0);
        simulation.add(NewSequence { priority, ..new(0, prompt(0, prompt_len), 3) }).unwrap();
        let mut id = 0;
        // Until the others' head start is used up.
        let steps = ((1 - priority) as u128 * AGING.as_millis() / STEP.as_millis()) as usize;
        for _ in 0..steps {
            for _ in 0..per_step {
                id += 1;
                simulation.add(NewSequence { priority: 1, ..new(id, prompt(1, 20), 4) }).unwrap();
            }
            simulation.step();
        }
        // Those who came until then are before it, and nobody else.
        let before = simulation.scheduler.num_waiting() + simulation.scheduler.num_running();
        for _ in 0..before * 8 + 8 {
            id += 1;
            simulation.add(NewSequence { priority: 1, ..new(id, prompt(1, 20), 4) }).unwrap();
            simulation.step();
        }
        prop_assert_eq!(simulation.ended.get(&low), Some(&1));
        simulation.check_answers();
    }
}

#[test]
fn the_last_in_line_is_preempted_and_its_answer_goes_on_where_it_was() {
    let mut simulation = Simulation::new(config(2, 64, 4 * BLOCK_SIZE), 0);
    for id in [0, 1] {
        let prompt = prompt(id as usize, 2 * BLOCK_SIZE - 1);
        let mut new = new(id, prompt, 2 * BLOCK_SIZE);
        new.cache = None;
        // The older one, in spite of its age.
        new.priority = id as i32;
        simulation.add(new).unwrap();
    }
    for _ in 0..3 {
        simulation.step();
    }
    assert_eq!(
        simulation.scheduler.counters.preemptions, 1,
        "four blocks cannot hold both"
    );
    assert_eq!(simulation.scheduler.running[0].id, SeqId(1));
    simulation.run();
    simulation.check_answers();
    for id in [0, 1] {
        assert_eq!(simulation.generated[&SeqId(id)].len(), 2 * BLOCK_SIZE);
    }
}

#[test]
fn the_next_turn_of_a_chat_computes_only_what_is_new() {
    let mut simulation = Simulation::new(config(2, 256, 256), 0);
    let first = prompt(1, 40);
    simulation.add(new(0, first.clone(), 20)).unwrap();
    simulation.run();
    let answer = simulation.generated[&SeqId(0)].clone();
    let second = [&first[..], &answer, &[5; 9]].concat();
    simulation.add(new(1, second.clone(), 4)).unwrap();
    let plan = simulation.scheduler.plan(&mut simulation.blocks).unwrap();
    // All full blocks; the last token of the answer was never computed.
    let known = (first.len() + answer.len() - 1) / BLOCK_SIZE * BLOCK_SIZE;
    let chunk = simulation.scheduler.tokens(&plan).next().unwrap();
    assert_eq!((chunk.start, chunk.tokens), (known, &second[known..]));
    let counters = simulation.scheduler.counters();
    assert_eq!(counters.prefix_queries, (first.len() + second.len()) as u64);
    assert_eq!(counters.prefix_hits, known as u64);
}

#[test]
fn prompts_that_begin_alike_and_come_together_are_computed_once() {
    let config = SchedulerConfig {
        max_num_prefill_tokens: 20,
        ..config(8, 50, 256)
    };
    let mut simulation = Simulation::new(config, 128);
    let same = [7; 100];
    for id in 0..4 {
        simulation.add(new(id, same.to_vec(), 5)).unwrap();
    }
    let other = [&same[..70], &[8; 30]].concat();
    simulation.add(new(4, other, 5)).unwrap();
    // The first one computes 50 tokens, three blocks and the beginning of a fourth, and is gone.
    simulation.step();
    for id in 0..3 {
        simulation.remove(SeqId(id));
    }
    simulation.add(new(5, same.to_vec(), 5)).unwrap();
    simulation.run();
    simulation.check_answers();
    // The next one goes on from the third block; then come what differs in the other, and the end of the last.
    assert_eq!(
        simulation.prefilled,
        50 + (100 - 48) + (100 - 64) + (100 - 96)
    );
    assert_eq!(simulation.ended.len(), 6);
}

#[test]
fn a_preempted_sequence_finds_its_own_blocks_again() {
    let mut simulation = Simulation::new(config(2, 128, 8 * BLOCK_SIZE), 0);
    // Three blocks and five; the second is preempted for the one block that the first needs, and loses only that.
    simulation.add(new(0, vec![5; 3 * BLOCK_SIZE], 2)).unwrap();
    simulation
        .add(new(1, vec![6; 5 * BLOCK_SIZE - 1], 3))
        .unwrap();
    simulation.run();
    let counters = simulation.scheduler.counters();
    assert_eq!(counters.preemptions, 1);
    assert_eq!(counters.prefix_hits, 4 * BLOCK_SIZE as u64);
    simulation.check_answers();
}

#[test]
fn a_long_prompt_leaves_room_for_a_short_one_and_takes_all_when_alone() {
    let mut simulation = Simulation::new(config(4, 64, 1024), 64);
    simulation.add(new(0, prompt(0, 900), 1)).unwrap();
    let lens = |simulation: &mut Simulation| -> Vec<(u64, usize)> {
        let plan = simulation.scheduler.plan(&mut simulation.blocks).unwrap();
        let sampled: Vec<_> = plan.sampled().map(|_| [0]).collect();
        simulation
            .scheduler
            .commit(&plan, &sampled, &mut simulation.blocks);
        plan.chunks
            .iter()
            .map(|chunk| (chunk.seq.0, chunk.len))
            .collect()
    };
    assert_eq!(lens(&mut simulation), [(0, 64)]);
    simulation.add(new(1, prompt(9, 40), 1)).unwrap();
    simulation.add(new(2, prompt(9, 4), 1)).unwrap();
    assert_eq!(
        lens(&mut simulation),
        [(0, 32 + 12), (1, 16), (2, 4)],
        "the rest goes to the first"
    );
    assert_eq!(lens(&mut simulation), [(0, 40), (1, 24)]);
    assert_eq!(lens(&mut simulation), [(0, 64)]);

    simulation.scheduler.config.max_num_prefill_tokens = 10;
    simulation.add(new(3, prompt(9, 4), 1)).unwrap();
    assert_eq!(
        lens(&mut simulation),
        [(0, 10), (3, 4)],
        "a step that ends a prompt is short"
    );
    assert_eq!(lens(&mut simulation), [(0, 64)]);
}

#[test]
fn a_higher_priority_preempts_only_when_that_makes_room() {
    let mut simulation = Simulation::new(config(2, 64, 4 * BLOCK_SIZE), 2);
    let with = |priority, new| NewSequence { priority, ..new };
    simulation
        .add(with(1, new(0, prompt(0, 2 * BLOCK_SIZE), 9)))
        .unwrap();
    simulation
        .add(with(0, new(1, prompt(3, 2 * BLOCK_SIZE), 9)))
        .unwrap();
    simulation.step();
    let running = |simulation: &Simulation| -> Vec<u64> {
        simulation
            .scheduler
            .running
            .iter()
            .map(|seq| seq.id.0)
            .collect()
    };
    assert_eq!(running(&simulation), [0, 1]);
    // Equal priority waits, and so does one that would not fit even then.
    simulation.add(with(0, new(2, prompt(0, 1), 1))).unwrap();
    simulation.step();
    assert_eq!(running(&simulation), [0, 1]);
    simulation
        .add(with(1, new(3, prompt(5, 4 * BLOCK_SIZE - 1), 1)))
        .unwrap();
    simulation.step();
    assert_eq!(running(&simulation), [0, 1]);
    simulation.remove(SeqId(3));
    simulation.add(with(1, new(4, prompt(0, 1), 9))).unwrap();
    simulation.step();
    assert_eq!(running(&simulation), [0, 4]);
    simulation.run();
    simulation.check_answers();
}

#[test]
fn a_full_queue_refuses_by_requests_and_by_tokens() {
    let limits = SchedulerConfig {
        max_waiting: Some(2),
        max_waiting_tokens: Some(50),
        ..config(1, 64, 64)
    };
    let mut simulation = Simulation::new(limits, 0);
    assert_eq!(
        simulation.add(new(0, prompt(0, 64), 1)),
        Err(Refused::PromptTooLong)
    );
    assert_eq!(
        simulation.add(new(1, prompt(0, 60), 1)),
        Ok(()),
        "longer than allowed, but alone"
    );
    assert_eq!(
        simulation.add(new(2, prompt(0, 1), 1)),
        Err(Refused::QueueFull)
    );
    simulation.step();
    simulation.run();
    assert_eq!(simulation.add(new(3, prompt(0, 10), 1)), Ok(()));
    assert_eq!(simulation.add(new(4, prompt(0, 10), 1)), Ok(()));
    assert_eq!(
        simulation.add(new(5, prompt(0, 10), 1)),
        Ok(()),
        "one can run and two may wait"
    );
    assert_eq!(
        simulation.add(new(6, prompt(0, 10), 1)),
        Err(Refused::QueueFull)
    );
    simulation.run();
}

#[test]
fn a_deadline_ends_what_waits_and_what_runs() {
    let mut simulation = Simulation::new(config(1, 64, 64), 0);
    let until = |steps, new| NewSequence {
        deadline: Some(STEP * steps),
        ..new
    };
    assert_eq!(
        simulation.add(until(0, new(0, prompt(0, 4), 9))),
        Err(Refused::DeadlinePast)
    );
    simulation.add(until(4, new(1, prompt(0, 4), 9))).unwrap();
    simulation.add(until(2, new(2, prompt(0, 4), 9))).unwrap();
    simulation.run();
    assert_eq!(simulation.generated[&SeqId(1)].len(), 3);
    assert!(!simulation.generated.contains_key(&SeqId(2)));
}

#[test]
fn only_what_never_ran_is_handed_back() {
    let mut simulation = Simulation::new(config(1, 64, 64), 0);
    for id in 0..3 {
        let mut new = new(id, prompt(0, 4 + id as usize), 3);
        new.priority = id as i32;
        new.deadline = Some(STEP * 100);
        simulation.add(new).unwrap();
        if id == 0 {
            simulation.step();
        }
    }
    let handed_back = simulation.scheduler.take_unstarted();
    assert_eq!(
        handed_back,
        [(SeqId(2), prompt(0, 6)), (SeqId(1), prompt(0, 5))]
    );
    simulation.run();
    assert_eq!(simulation.ended, HashMap::from([(SeqId(0), 1)]));
}

#[test]
fn nobody_starts_while_admission_is_off_and_what_runs_goes_on() {
    let mut simulation = Simulation::new(config(2, 8, 32), 4);
    simulation.add(new(0, prompt(0, 4), 3)).unwrap();
    assert!(simulation.step());
    simulation.scheduler.set_admitting(false);
    simulation.add(new(1, prompt(0, 4), 3)).unwrap();
    while simulation.step() {}
    assert_eq!(simulation.ended, HashMap::from([(SeqId(0), 1)]));
    simulation.scheduler.set_admitting(true);
    simulation.run();
    assert_eq!(simulation.ended.len(), 2);
}

#[test]
fn a_stop_token_ends_a_sequence_but_not_in_the_prompt() {
    let mut scheduler = Scheduler::new(config(1, 8, 32));
    let mut blocks = BlockAllocator::new(2);
    let mut new = new(0, vec![5, 5], 9);
    new.end.stop_token_ids = vec![5];
    scheduler.add(new, Duration::ZERO).unwrap();
    let reasons: Vec<_> = [4, 5]
        .map(|token| {
            let plan = scheduler.plan(&mut blocks).unwrap();
            scheduler.commit(&plan, &[[token]], &mut blocks)[0].finish_reason
        })
        .to_vec();
    assert_eq!(reasons, [None, Some(FinishReason::Stop)]);
    assert!(scheduler.is_idle());
}
