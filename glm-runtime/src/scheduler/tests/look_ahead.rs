//! Guesses beside the steps of a plan.

use super::*;

impl Simulation {
    /// Guesses of all lengths, some longer than there is room for, right up to some place.
    pub(super) fn guess(&mut self, plan: &mut StepPlan) {
        let Some(seed) = self.drafts else { return };
        let guess = |decoding: Decoding<'_>| {
            let random = mix(seed ^ decoding.seq.0 << 32 ^ decoding.tokens.len() as u64);
            let mut draft = undisturbed(decoding.tokens, (random % 20) as usize);
            let wrong = (random >> 8) as usize % 40;
            draft.iter_mut().skip(wrong).for_each(|token| *token = 7);
            (decoding.chunk, decoding.max_draft, draft)
        };
        let drafts: Vec<_> = self.scheduler.decoding(plan).map(guess).collect();
        let preemptions = self.scheduler.counters.preemptions;
        for (chunk, most, draft) in drafts {
            let taken = self
                .scheduler
                .look_ahead(plan, chunk, &draft, &mut self.blocks);
            assert!(taken <= most.min(draft.len()));
        }
        assert!(plan.num_tokens() <= self.config.max_num_batched_tokens);
        assert_eq!(self.scheduler.counters.preemptions, preemptions);
    }
}

#[test]
fn guesses_take_what_is_left_and_give_it_back() {
    let mut simulation = Simulation::new(config(2, 8, 2 * BLOCK_SIZE), 1);
    simulation.add(new(0, prompt(0, 7), 20)).unwrap();
    simulation.add(new(1, prompt(1, 7), 2)).unwrap();
    simulation.step();
    simulation.step();
    let known = simulation.generated[&SeqId(0)].len();
    let Simulation {
        scheduler,
        blocks,
        model,
        ..
    } = &mut simulation;
    let mut plan = scheduler.plan(blocks).unwrap();
    let first = scheduler.decoding(&plan).next().unwrap();
    assert_eq!((first.seq, first.max_draft), (SeqId(0), 20 - 1 - known));
    let before = first.tokens.to_vec();
    let right = undisturbed(&before, 3);
    let draft = [&right[..2], &[7; 30]].concat();
    let taken = scheduler.look_ahead(&mut plan, 0, &draft, blocks);
    assert_eq!(taken, 8 - plan.chunks.len(), "the budget of the step");
    let answers = scheduler.tokens(&plan).map(|chunk| model.run(&chunk));
    let sampled: Vec<Vec<u32>> = answers.collect();
    assert_eq!(sampled[0], right);
    let committed = scheduler.commit(&plan, &sampled, blocks);
    let tokens = committed.iter().filter(|c| c.seq == SeqId(0));
    assert_eq!(tokens.map(|c| c.token).collect::<Vec<_>>(), right);
    let held = scheduler.running[0].block_table.len();
    assert_eq!(held, blocks_for(before.len() + right.len()));
    assert_eq!(blocks.num_blocks() - blocks.num_free(), held);
}

#[test]
fn right_guesses_spare_steps_and_wrong_ones_cost_none() {
    let steps = |drafts| {
        let mut simulation = Simulation::new(config(4, 64, 256), 64);
        simulation.drafts = drafts;
        for id in 0..4 {
            simulation
                .add(new(id, prompt(id as usize, 20), 100))
                .unwrap();
        }
        let steps = std::iter::repeat_with(|| simulation.step()).take_while(|&any| any);
        let steps = steps.count();
        simulation.check_answers();
        (steps, simulation.accepted)
    };
    let (plain, none) = steps(None);
    let (speculative, accepted) = steps(Some(1));
    assert_eq!(none, 0);
    assert!(
        accepted > 100 && speculative < plain / 2,
        "{accepted} {speculative} {plain}"
    );
}
