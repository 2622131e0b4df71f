//! What a step of the engine costs beside the model: planning, the arrays of the batch, and taking in the new tokens, with
//! 256 sequences that decode. Some end and others start all the time, their prompts in the prefix cache. Less than 50 µs
//! disappear beside a decode step of any model.

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use glm_runtime::internals::{
    BLOCK_SIZE, BlockAllocator, CacheSalt, EndConditions, ForwardBatch, NewSequence, Scheduler,
    SchedulerConfig, SeqId, StepPlan,
};
use std::hint::black_box;

const SEQUENCES: usize = 256;
const PROMPT: usize = 1000;
const ANSWER: usize = 256;

/// A scheduler with all its seats taken, and as many sequences that wait.
struct Load {
    scheduler: Scheduler,
    blocks: BlockAllocator,
    next_id: u64,
    now: Duration,
}

impl Load {
    fn new() -> Self {
        let config = SchedulerConfig {
            max_num_seqs: SEQUENCES,
            max_num_batched_tokens: 8192,
            max_num_prefill_tokens: 512,
            max_step_time: None,
            max_model_len: PROMPT + ANSWER,
            max_waiting: None,
            max_waiting_tokens: None,
            priority_aging: Duration::from_secs(10),
        };
        let blocks = SEQUENCES * (PROMPT + ANSWER + BLOCK_SIZE) / BLOCK_SIZE;
        let mut load = Self {
            scheduler: Scheduler::new(config),
            blocks: BlockAllocator::new(blocks as u32),
            next_id: 0,
            now: Duration::ZERO,
        };
        (0..2 * SEQUENCES).for_each(|_| load.arrive());
        while load.scheduler.num_running() < SEQUENCES {
            load.step();
        }
        // Until they are at different places in their answers.
        (0..ANSWER).for_each(|_| load.step());
        load
    }

    /// One of as many prompts as run at once, and answers of different lengths.
    fn arrive(&mut self) {
        let kind = self.next_id % SEQUENCES as u64;
        let new = NewSequence {
            id: SeqId(self.next_id),
            prompt: vec![kind as u32; PROMPT],
            end: EndConditions {
                max_new_tokens: 1 + (self.next_id * 37) as usize % ANSWER,
                stop_token_ids: vec![151_329, 151_336, 151_338],
            },
            cache: Some(CacheSalt::default()),
            priority: (kind % 3) as i32,
            deadline: Some(self.now + Duration::from_secs(3600)),
        };
        self.scheduler
            .add(new, self.now)
            .expect("there is no limit");
        self.next_id += 1;
    }

    fn plan(&mut self) -> StepPlan {
        self.now += Duration::from_millis(10);
        self.scheduler.expire(self.now, &mut self.blocks);
        self.scheduler
            .plan(&mut self.blocks)
            .expect("somebody runs")
    }

    fn commit(&mut self, plan: &StepPlan) {
        let sampled = vec![[1]; plan.sampled().count()];
        let committed = self.scheduler.commit(plan, &sampled, &mut self.blocks);
        self.scheduler.stepped(plan, Duration::from_millis(50));
        let ended = committed.iter().filter(|c| c.finish_reason.is_some());
        (0..ended.count()).for_each(|_| self.arrive());
    }

    fn step(&mut self) {
        let plan = self.plan();
        self.commit(&plan);
    }
}

fn scheduler(c: &mut Criterion) {
    let mut load = Load::new();
    let mut group = c.benchmark_group("scheduler/256_sequences");
    group.bench_function("plan_and_commit", |b| b.iter(|| load.step()));
    group.bench_function("batch", |b| {
        let plan = load.plan();
        b.iter(|| black_box(ForwardBatch::new(load.scheduler.tokens(&plan))));
        load.commit(&plan);
    });
    group.finish();
}

criterion_group!(benches, scheduler);
criterion_main!(benches);
