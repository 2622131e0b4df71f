//! Guesses beside the steps of a plan.

use super::*;

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
