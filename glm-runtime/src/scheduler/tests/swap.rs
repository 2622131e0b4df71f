//! Preemption with and without room in host memory.

use super::*;

#[test]
fn a_swapped_sequence_computes_nothing_twice() {
    let mut simulation = Simulation::new(config(4, 64, 8 * BLOCK_SIZE), 0).with_swap_space(64);
    let prompts = [70, 20, 45, 33];
    for (id, len) in (0..).zip(prompts) {
        let mut new = new(id, prompt(id as usize, len), 50);
        new.cache = None;
        simulation.add(new).unwrap();
    }
    simulation.run();
    simulation.check_answers();
    let counters = simulation.scheduler.counters();
    assert!(counters.preemptions > 0);
    assert_eq!(counters.swapped_out, counters.preemptions);
    // The last token of an answer is never computed.
    let expected: usize = prompts.iter().map(|len| len + 50 - 1).sum();
    assert_eq!(simulation.computed, expected);
}

#[test]
fn what_others_hold_is_not_copied_and_without_it_the_copy_is_of_no_use() {
    // Two blocks that both begin with, and one more each; then the first needs a fifth one, and there are four.
    let run = |remove_first: bool| {
        let mut simulation = Simulation::new(config(2, 128, 4 * BLOCK_SIZE), 0).with_swap_space(1);
        let begin = [7; 2 * BLOCK_SIZE];
        let with = |last: u32, len| [&begin[..], &vec![last; len]].concat();
        simulation.add(new(0, with(1, BLOCK_SIZE - 1), 4)).unwrap();
        simulation.step();
        simulation.add(new(1, with(2, 8), 4)).unwrap();
        simulation.step();
        simulation.step();
        let counters = simulation.scheduler.counters();
        assert_eq!((counters.preemptions, counters.swapped_out), (1, 1));
        if remove_first {
            simulation.remove(SeqId(0));
            // Takes all blocks, so that what both began with is forgotten.
            let mut stranger = new(2, vec![9; 4 * BLOCK_SIZE - 1], 1);
            stranger.priority = 1;
            simulation.add(stranger).unwrap();
        }
        simulation.run();
        simulation.check_answers();
        simulation.scheduler.counters().swapped_tokens
    };
    assert!(run(false) > 0);
    assert_eq!(run(true), 0);
}

#[test]
fn copies_that_failed_are_computed_again() {
    let mut simulation = Simulation::new(config(4, 64, 8 * BLOCK_SIZE), 0).with_swap_space(64);
    for id in 0..4 {
        simulation
            .add(new(id, prompt(id as usize, 40), 50))
            .unwrap();
    }
    while simulation.scheduler.counters().swapped_out == 0 {
        simulation.step();
    }
    simulation.scheduler.forget_swapped();
    simulation.model.host.fill([1; BLOCK_SIZE]);
    assert!(simulation.scheduler.no_slot_is_lost());
    simulation.run();
    simulation.check_answers();
}

#[test]
fn a_higher_priority_needs_no_room_for_what_is_in_the_cache() {
    // Of six blocks the first holds four, the second one, and the third shares three with the first.
    let mut simulation = Simulation::new(config(4, 128, 6 * BLOCK_SIZE), 0);
    let begin = [7; 3 * BLOCK_SIZE];
    let with = |priority, new| NewSequence { priority, ..new };
    simulation
        .add(with(1, new(0, [&begin[..], &[1; 8]].concat(), 8)))
        .unwrap();
    simulation.add(with(0, new(1, vec![3; 4], 8))).unwrap();
    simulation.step();
    let longer = [&begin[..], &[2; 2 * BLOCK_SIZE - 4]].concat();
    simulation.add(with(1, new(2, longer, 2))).unwrap();
    simulation.step();
    let running: Vec<_> = simulation.scheduler.running.iter().map(|s| s.id).collect();
    assert_eq!(running, [SeqId(0), SeqId(2)]);
    simulation.run();
    simulation.check_answers();
}
