//! Steps before the tokens of the last one are known.

use super::*;

impl Simulation {
    /// Asks for the step after one that was computed, now and then.
    pub(super) fn run_ahead(&mut self, plan: &StepPlan, sampled: &[Vec<u32>]) {
        let random = self.runs_ahead.map(|seed| mix(seed ^ self.computed as u64));
        if random.is_none_or(|random| random % 4 == 0) {
            return;
        }
        let preemptions = self.scheduler.counters.preemptions;
        if let Some(ahead) = self.scheduler.run_ahead(plan, &mut self.blocks) {
            let sampled = self.compute(&ahead, sampled);
            self.ahead = Some((ahead, sampled));
            self.steps_ahead += 1;
        }
        assert_eq!(self.scheduler.counters.preemptions, preemptions);
    }
}

#[test]
fn a_step_is_asked_for_ahead_while_nobody_else_is_to_be_served() {
    let mut simulation = Simulation::new(config(2, 64, 64), 8);
    simulation.runs_ahead = Some(1);
    let ahead = |simulation: &mut Simulation| {
        simulation.runs_ahead = simulation.runs_ahead.map(|seed| seed + 1);
        let before = simulation.steps_ahead;
        (0..8).for_each(|_| assert!(simulation.step()));
        simulation.steps_ahead > before
    };
    simulation.add(new(0, prompt(0, 4), 58)).unwrap();
    assert!(ahead(&mut simulation));
    // Two run, and a third one waits for a seat.
    simulation.add(new(1, prompt(1, 4), 30)).unwrap();
    simulation.add(new(2, prompt(2, 4), 30)).unwrap();
    assert!(ahead(&mut simulation));
    // For somebody more important there would be one.
    let mut urgent = new(3, prompt(3, 40), 2);
    urgent.priority = 1;
    simulation.add(urgent).unwrap();
    simulation.step();
    simulation.step();
    assert!(
        simulation
            .scheduler
            .running
            .iter()
            .any(|seq| seq.id == SeqId(3))
    );
    simulation.run();
    simulation.check_answers();
}
