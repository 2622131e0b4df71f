//! Steps are bounded by time, whatever the machine.

use super::*;
use crate::scheduler::pace::FLOOR;

/// A model of 9 thousand million parameters on two cores.
const SLOW: Machine = Machine {
    decode: 190.0,
    token: 13.0,
    depth: 0.4,
};
const LONG: usize = 8000;
const ANSWER: usize = 3000;

fn simulation(machine: Machine, max_step_time: Option<Duration>) -> Simulation {
    let config = SchedulerConfig {
        max_step_time,
        ..config(8, 512, LONG + ANSWER)
    };
    let mut simulation = Simulation::new(config, 1000);
    simulation.machine = machine;
    simulation
}

/// The times of steps until the sequence has its first token.
fn until_answered(simulation: &mut Simulation, id: u64) -> Vec<f64> {
    let mut millis = Vec::new();
    while !simulation.generated.contains_key(&SeqId(id)) {
        assert!(simulation.step());
        millis.push(simulation.step_time.as_secs_f64() * 1e3);
    }
    millis
}

/// The times of steps while a long prompt is read beside an answer.
fn beside_an_answer(machine: Machine, max_step_time: Option<Duration>) -> Vec<f64> {
    let mut simulation = simulation(machine, max_step_time);
    simulation.add(new(0, prompt(1, 20), ANSWER)).unwrap();
    for _ in 0..4 {
        simulation.step();
    }
    simulation.add(new(1, prompt(9, LONG), 1)).unwrap();
    let times = until_answered(&mut simulation, 1);
    simulation.run();
    simulation.check_answers();
    times
}

/// All but the first few, which learn, are at most so long; and the prompt is read as fast as that allows.
fn assert_steady(times: &[f64], most: f64, machine: Machine) {
    let late = times.iter().skip(8).copied().fold(0.0, f64::max);
    assert!(late < 1.15 * most, "{late} > {most}");
    let total: f64 = times.iter().sum();
    let decode = machine.decode * times.len() as f64;
    let share = (total - decode) / total;
    assert!(share > 0.8 * (1.0 - machine.decode / most), "{share}");
}

#[test]
fn an_answer_goes_on_at_a_third_of_its_pace_beside_a_long_prompt() {
    assert_steady(&beside_an_answer(SLOW, None), 3.0 * 190.0, SLOW);
}

#[test]
fn a_bound_that_is_asked_for_holds() {
    for millis in [400, 600, 2000] {
        let times = beside_an_answer(SLOW, Some(Duration::from_millis(millis)));
        assert_steady(&times, millis as f64, SLOW);
    }
}

#[test]
fn a_fast_machine_takes_whole_steps() {
    let fast = Machine {
        decode: 1.0,
        token: 0.05,
        depth: 0.0,
    };
    let times = beside_an_answer(fast, None);
    assert!(times.len() <= LONG / 511 + 3, "{}", times.len());
}

#[test]
fn every_step_reads_some_of_a_prompt_however_slow_the_machine() {
    let slower = Machine {
        decode: 500.0,
        token: 1000.0,
        depth: 100.0,
    };
    let times = beside_an_answer(slower, Some(Duration::from_millis(1)));
    assert!(times.len() <= LONG / FLOOR + 1, "{}", times.len());
}

#[test]
fn whoever_comes_while_a_long_prompt_is_read_waits_for_a_short_step() {
    let mut simulation = simulation(SLOW, None);
    // What decoding takes is known from another time.
    simulation.add(new(0, prompt(1, 20), 9)).unwrap();
    simulation.run();
    simulation.add(new(1, prompt(9, LONG), 1)).unwrap();
    let longest = 15.0 * 190.0 * 1.15;
    for id in 2..40 {
        for _ in 0..id % 3 {
            assert!(simulation.step());
        }
        assert!(simulation.step_time.as_secs_f64() * 1e3 < longest);
        simulation.add(new(id, prompt(9, 15), 1)).unwrap();
        let times = until_answered(&mut simulation, id);
        assert_eq!(times.len(), 1, "{id}: it is not behind the long one");
        if simulation.generated.contains_key(&SeqId(1)) {
            assert!(id > 20, "most come while it is read: {id}");
            return simulation.run();
        }
        assert!(times[0] < 3.0 * 190.0 * 1.15 + 15.0 * 20.0, "{}", times[0]);
    }
    panic!("the long one is never read");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn a_step_is_no_longer_than_asked_for_once_the_machine_is_known(
        decode in 1.0..300.0,
        token in 0.1..30.0,
        depth in 0.0..0.5,
        times_as_long in 1.5..20.0,
        lens in prop::collection::vec(10usize..2000, 2..6),
    ) {
        let machine = Machine { decode, token, depth };
        let most: f64 = times_as_long * decode;
        let mut simulation = simulation(machine, Some(Duration::from_secs_f64(most / 1e3)));
        simulation.add(new(0, prompt(1, 20), ANSWER)).unwrap();
        for _ in 0..4 {
            simulation.step();
        }
        // It learns from the first.
        simulation.add(new(1, prompt(9, 600), 1)).unwrap();
        until_answered(&mut simulation, 1);
        for (id, len) in (2..).zip(&lens) {
            simulation.add(new(id, vec![id as u32; *len], 1)).unwrap();
        }
        let floor = decode + FLOOR as f64 * (token + depth * 2.0);
        // What is known is what a few steps have shown: of two million machines two were off by a third, and none by half.
        let bound = most.max(floor) * 1.5;
        for id in 2..2 + lens.len() as u64 {
            for millis in until_answered(&mut simulation, id) {
                prop_assert!(millis <= bound, "{} > {}", millis, bound);
            }
        }
    }
}
