use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;
use crate::kv::BLOCK_SIZE;

/// Drives a scheduler as an engine would, with token `position` as the sampled token, and checks every plan.
struct Simulation {
    scheduler: Scheduler,
    blocks: BlockAllocator,
    config: SchedulerConfig,
    /// Tokens with keys and values, per live sequence, as the plans said.
    computed: HashMap<SeqId, usize>,
    generated: HashMap<SeqId, Vec<u32>>,
    ended: HashMap<SeqId, usize>,
}

impl Simulation {
    fn new(config: SchedulerConfig, spare_blocks: usize) -> Self {
        let num_blocks = blocks_for(config.max_model_len) + spare_blocks;
        Self {
            scheduler: Scheduler::new(config),
            blocks: BlockAllocator::new(num_blocks as u32),
            config,
            computed: HashMap::new(),
            generated: HashMap::new(),
            ended: HashMap::new(),
        }
    }

    fn add(&mut self, id: u64, prompt_len: usize, max_new_tokens: usize) {
        let end = EndConditions {
            max_new_tokens,
            stop_token_ids: vec![],
        };
        if self
            .scheduler
            .add(SeqId(id), vec![7; prompt_len], end)
            .is_err()
        {
            assert!(prompt_len >= self.config.max_model_len);
            *self.ended.entry(SeqId(id)).or_default() += 1;
        }
    }

    fn check(&mut self, plan: &StepPlan) {
        assert!(plan.num_tokens() <= self.config.max_num_batched_tokens);
        assert!(plan.chunks.len() <= self.config.max_num_seqs);
        let mut written = HashSet::new();
        for chunk in &plan.chunks {
            assert!(!chunk.tokens.is_empty());
            assert!(chunk.block_table.len() * BLOCK_SIZE >= chunk.start + chunk.tokens.len());
            assert!(
                chunk.block_table.iter().all(|block| written.insert(*block)),
                "a block is shared for writing"
            );
            let computed = self.computed.entry(chunk.seq).or_default();
            assert!(
                chunk.start == *computed || chunk.start == 0,
                "a gap at {} after {computed}",
                chunk.start
            );
            *computed = chunk.start + chunk.tokens.len();
        }
    }

    fn step(&mut self) -> bool {
        let Some(plan) = self.scheduler.plan(&mut self.blocks) else {
            return false;
        };
        self.check(&plan);
        let sampled: Vec<u32> = plan
            .sampled()
            .map(|seq| self.computed[&seq] as u32)
            .collect();
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
    ) {
        let mut simulation = Simulation::new(config, spare_blocks);
        for (id, &(prompt_len, max_new_tokens, steps_before_next, cancelled)) in requests.iter().enumerate() {
            simulation.add(id as u64, prompt_len, max_new_tokens);
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
            simulation.add(id as u64, prompt_len, 8);
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
    simulation.add(0, 2 * BLOCK_SIZE - 1, 2 * BLOCK_SIZE);
    simulation.add(1, 2 * BLOCK_SIZE - 1, 2 * BLOCK_SIZE);
    while simulation.step() {}
    assert!(
        simulation.scheduler.num_preemptions() > 0,
        "four blocks cannot hold both"
    );
    let positions = |from: usize| (from as u32..).take(2 * BLOCK_SIZE).collect::<Vec<_>>();
    for id in [0, 1] {
        assert_eq!(
            simulation.generated[&SeqId(id)],
            positions(2 * BLOCK_SIZE - 1)
        );
    }
}

#[test]
fn nobody_starts_while_admission_is_off_and_what_runs_goes_on() {
    let config = SchedulerConfig {
        max_num_seqs: 2,
        max_num_batched_tokens: 8,
        max_model_len: 32,
    };
    let mut simulation = Simulation::new(config, 4);
    simulation.add(0, 4, 3);
    assert!(simulation.step());
    simulation.scheduler.set_admitting(false);
    simulation.add(1, 4, 3);
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
    scheduler.add(SeqId(0), vec![5, 5], end).unwrap();
    let reasons: Vec<_> = [4, 5]
        .map(|token| {
            let plan = scheduler.plan(&mut blocks).unwrap();
            scheduler.commit(&plan, &[token], &mut blocks)[0].finish_reason
        })
        .to_vec();
    assert_eq!(reasons, [None, Some(FinishReason::Stop)]);
    assert!(scheduler.is_idle());
}
