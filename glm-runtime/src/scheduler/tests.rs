use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::kv::{BLOCK_SIZE, BlockId, CacheSalt};
use crate::load::mix;

/// A model whose keys and values can be checked: the value at a position is a hash of all tokens up to it, made from the
/// token and the value before, wherever the block table says that this is.
struct FakeModel {
    kv: Vec<u64>,
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
        }
    }

    /// Computes `tokens` from position `start` on and returns the next token.
    fn run(&mut self, start: usize, tokens: &[u32], block_table: &[BlockId]) -> u32 {
        let slot = |position: usize| {
            block_table[position / BLOCK_SIZE].slot(position % BLOCK_SIZE) as usize
        };
        let mut value = start.checked_sub(1).map_or(0, |last| self.kv[slot(last)]);
        for (position, &token) in (start..).zip(tokens) {
            value = next_value(value, token);
            self.kv[slot(position)] = value;
        }
        next_token(value)
    }
}

/// What the model answers to a prompt when nothing else runs.
fn undisturbed(prompt: &[u32], len: usize) -> Vec<u32> {
    let mut value = prompt
        .iter()
        .fold(0, |value, &token| next_value(value, token));
    let next = |_| {
        let token = next_token(value);
        value = next_value(value, token);
        token
    };
    (0..len).map(next).collect()
}

/// A prompt that begins like those of the same `kind` and partly like those of others.
fn prompt(kind: usize, len: usize) -> Vec<u32> {
    (0..len)
        .map(|i| u32::from(i / BLOCK_SIZE >= kind))
        .collect()
}

/// Drives a scheduler as an engine would, and checks every plan and every token.
struct Simulation {
    scheduler: Scheduler,
    blocks: BlockAllocator,
    model: FakeModel,
    config: SchedulerConfig,
    prompts: HashMap<SeqId, Vec<u32>>,
    generated: HashMap<SeqId, Vec<u32>>,
    ended: HashMap<SeqId, usize>,
}

impl Simulation {
    fn new(config: SchedulerConfig, spare_blocks: usize) -> Self {
        let num_blocks = blocks_for(config.max_model_len) + spare_blocks;
        Self {
            scheduler: Scheduler::new(config),
            blocks: BlockAllocator::new(num_blocks as u32),
            model: FakeModel::new(num_blocks),
            config,
            prompts: HashMap::new(),
            generated: HashMap::new(),
            ended: HashMap::new(),
        }
    }

    fn add(&mut self, id: u64, prompt: Vec<u32>, max_new_tokens: usize, shares: bool) {
        let end = EndConditions {
            max_new_tokens,
            stop_token_ids: vec![],
        };
        let prompt_len = prompt.len();
        self.prompts.insert(SeqId(id), prompt.clone());
        let new = NewSequence {
            id: SeqId(id),
            prompt,
            end,
            cache: shares.then(CacheSalt::default),
        };
        if self.scheduler.add(new).is_err() {
            assert!(prompt_len >= self.config.max_model_len);
            *self.ended.entry(SeqId(id)).or_default() += 1;
        }
    }

    fn step(&mut self) -> bool {
        let Some(plan) = self.scheduler.plan(&mut self.blocks) else {
            return false;
        };
        assert!(plan.num_tokens() <= self.config.max_num_batched_tokens);
        assert!(plan.chunks.len() <= self.config.max_num_seqs);
        let mut sampled = Vec::new();
        for chunk in &plan.chunks {
            assert!(!chunk.tokens.is_empty());
            let token = self
                .model
                .run(chunk.start, &chunk.tokens, &chunk.block_table);
            sampled.extend(chunk.samples.then_some(token));
        }
        for committed in self.scheduler.commit(&plan, &sampled, &mut self.blocks) {
            let generated = self.generated.entry(committed.seq).or_default();
            assert_eq!(generated.len(), committed.index);
            generated.push(committed.token);
            if committed.finish_reason.is_some() {
                *self.ended.entry(committed.seq).or_default() += 1;
            }
        }
        assert!(self.blocks.is_consistent());
        true
    }

    fn remove(&mut self, id: SeqId) {
        if self.scheduler.remove(id, &mut self.blocks) {
            *self.ended.entry(id).or_default() += 1;
        }
    }

    /// Everything generated so far is what the model would have said to each prompt alone.
    fn check_answers(&self) {
        for (id, answer) in &self.generated {
            let expected = undisturbed(&self.prompts[id], answer.len());
            assert_eq!(*answer, expected, "{id:?}");
        }
    }
}

fn config() -> impl Strategy<Value = SchedulerConfig> {
    (1usize..5, 0usize..40, 2usize..120).prop_map(|(max_num_seqs, extra, max_model_len)| {
        SchedulerConfig {
            max_num_seqs,
            max_num_batched_tokens: max_num_seqs + extra,
            max_model_len,
        }
    })
}

proptest! {
    #[test]
    fn every_sequence_ends_once_and_every_block_comes_back(
        config in config(),
        spare_blocks in 0usize..6,
        requests in prop::collection::vec((1usize..130, 1usize..60, 0usize..6, prop::bool::weighted(0.1)), 1..12),
        kinds in prop::collection::vec(0usize..4, 12),
        cache in prop::bool::weighted(0.8),
    ) {
        let mut simulation = Simulation::new(config, spare_blocks);
        for (id, &(prompt_len, max_new_tokens, steps_before_next, cancelled)) in requests.iter().enumerate() {
            simulation.add(id as u64, prompt(kinds[id], prompt_len), max_new_tokens, cache);
            for _ in 0..steps_before_next {
                simulation.step();
            }
            if cancelled {
                simulation.remove(SeqId(id as u64));
            }
        }
        let mut steps = 0;
        while simulation.step() {
            steps += 1;
            prop_assert!(steps < 20_000, "the scheduler makes no progress");
        }
        prop_assert!(simulation.scheduler.is_idle());
        simulation.check_answers();
        prop_assert_eq!(simulation.blocks.num_free(), simulation.blocks.num_blocks());
        for (id, &(prompt_len, max_new_tokens, _, cancelled)) in requests.iter().enumerate() {
            prop_assert_eq!(simulation.ended.get(&SeqId(id as u64)), Some(&1));
            let room = config.max_model_len.saturating_sub(prompt_len);
            let generated = simulation.generated.get(&SeqId(id as u64)).map_or(0, Vec::len);
            if cancelled {
                prop_assert!(generated <= max_new_tokens.min(room));
            } else {
                prop_assert_eq!(generated, max_new_tokens.min(room));
            }
        }
    }

    #[test]
    fn a_failed_step_ends_exactly_its_sequences(config in config(), prompts in prop::collection::vec(1usize..60, 1..6)) {
        let mut simulation = Simulation::new(config, 4);
        for (id, &prompt_len) in prompts.iter().enumerate() {
            simulation.add(id as u64, prompt(id, prompt_len), 8, true);
        }
        if let Some(plan) = simulation.scheduler.plan(&mut simulation.blocks) {
            let failed = simulation.scheduler.fail(&plan, &mut simulation.blocks);
            let planned: Vec<_> = plan.chunks.iter().map(|chunk| chunk.seq).collect();
            prop_assert_eq!(failed, planned);
        }
        while simulation.step() {}
        prop_assert_eq!(simulation.blocks.num_free(), simulation.blocks.num_blocks());
    }
}

#[test]
fn the_youngest_is_preempted_and_its_answer_goes_on_where_it_was() {
    let config = SchedulerConfig {
        max_num_seqs: 2,
        max_num_batched_tokens: 64,
        max_model_len: 4 * BLOCK_SIZE,
    };
    let mut simulation = Simulation::new(config, 0);
    for id in [0, 1] {
        let prompt = prompt(id as usize, 2 * BLOCK_SIZE - 1);
        simulation.add(id, prompt, 2 * BLOCK_SIZE, false);
    }
    while simulation.step() {}
    assert!(
        simulation.scheduler.num_preemptions() > 0,
        "four blocks cannot hold both"
    );
    simulation.check_answers();
    for id in [0, 1] {
        assert_eq!(simulation.generated[&SeqId(id)].len(), 2 * BLOCK_SIZE);
    }
}

#[test]
fn the_next_turn_of_a_chat_computes_only_what_is_new() {
    let config = SchedulerConfig {
        max_num_seqs: 2,
        max_num_batched_tokens: 256,
        max_model_len: 256,
    };
    let mut simulation = Simulation::new(config, 0);
    let first = prompt(1, 40);
    simulation.add(0, first.clone(), 20, true);
    while simulation.step() {}
    let answer = simulation.generated[&SeqId(0)].clone();
    let second = [&first[..], &answer, &[5; 9]].concat();
    simulation.add(1, second.clone(), 4, true);
    let plan = simulation.scheduler.plan(&mut simulation.blocks).unwrap();
    // All full blocks; the last token of the answer was never computed.
    let known = (first.len() + answer.len() - 1) / BLOCK_SIZE * BLOCK_SIZE;
    assert_eq!(plan.chunks[0].start, known);
    assert_eq!(plan.chunks[0].tokens, second[known..]);
    assert_eq!(
        simulation.scheduler.prefix_lookups(),
        ((first.len() + second.len()) as u64, known as u64)
    );
}

#[test]
fn a_preempted_sequence_finds_its_own_blocks_again() {
    let config = SchedulerConfig {
        max_num_seqs: 2,
        max_num_batched_tokens: 128,
        max_model_len: 8 * BLOCK_SIZE,
    };
    let mut simulation = Simulation::new(config, 0);
    // Three blocks and five; the second is preempted for the one block that the first needs, and loses only that.
    simulation.add(0, vec![5; 3 * BLOCK_SIZE], 2, true);
    simulation.add(1, vec![6; 5 * BLOCK_SIZE - 1], 3, true);
    while simulation.step() {}
    assert_eq!(simulation.scheduler.num_preemptions(), 1);
    assert_eq!(
        simulation.scheduler.prefix_lookups().1,
        4 * BLOCK_SIZE as u64
    );
    simulation.check_answers();
}

#[test]
fn nobody_starts_while_admission_is_off_and_what_runs_goes_on() {
    let config = SchedulerConfig {
        max_num_seqs: 2,
        max_num_batched_tokens: 8,
        max_model_len: 32,
    };
    let mut simulation = Simulation::new(config, 4);
    simulation.add(0, prompt(0, 4), 3, true);
    assert!(simulation.step());
    simulation.scheduler.set_admitting(false);
    simulation.add(1, prompt(0, 4), 3, true);
    while simulation.step() {}
    assert_eq!(simulation.ended, HashMap::from([(SeqId(0), 1)]));
    simulation.scheduler.set_admitting(true);
    while simulation.step() {}
    assert_eq!(simulation.ended.len(), 2);
}

#[test]
fn a_stop_token_ends_a_sequence_but_not_in_the_prompt() {
    let config = SchedulerConfig {
        max_num_seqs: 1,
        max_num_batched_tokens: 8,
        max_model_len: 32,
    };
    let mut scheduler = Scheduler::new(config);
    let mut blocks = BlockAllocator::new(2);
    let end = EndConditions {
        max_new_tokens: 9,
        stop_token_ids: vec![5],
    };
    let new = NewSequence {
        id: SeqId(0),
        prompt: vec![5, 5],
        end,
        cache: None,
    };
    scheduler.add(new).unwrap();
    let reasons: Vec<_> = [4, 5]
        .map(|token| {
            let plan = scheduler.plan(&mut blocks).unwrap();
            scheduler.commit(&plan, &[token], &mut blocks)[0].finish_reason
        })
        .to_vec();
    assert_eq!(reasons, [None, Some(FinishReason::Stop)]);
    assert!(scheduler.is_idle());
}
