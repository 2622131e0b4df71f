//! Machines of any speed.

use super::*;

/// What steps take on a made-up machine, in milliseconds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Machine {
    /// However many tokens decode.
    pub(super) decode: f64,
    /// One token at the beginning of a prompt.
    pub(super) token: f64,
    /// What it takes more for each 1,000 tokens before it.
    pub(super) depth: f64,
}

impl Machine {
    pub(super) fn step_time(&self, plan: &StepPlan) -> Duration {
        let decodes = plan.chunks.iter().any(|chunk| !chunk.prefill);
        let prompts = plan.chunks.iter().filter(|chunk| chunk.prefill);
        let prompt = |chunk: &Chunk| {
            let middle = (chunk.start + chunk.len / 2) as f64;
            chunk.len as f64 * (self.token + self.depth * middle / 1e3)
        };
        let decode = if decodes { self.decode } else { 0.0 };
        Duration::from_secs_f64((decode + prompts.map(prompt).sum::<f64>()) / 1e3)
    }
}

pub(super) fn any_step_time() -> impl Strategy<Value = Option<Duration>> {
    prop_oneof![
        Just(None),
        Just(Some(Duration::MAX)),
        (1u64..500).prop_map(|millis| Some(Duration::from_millis(millis))),
    ]
}

pub(super) fn any_machine() -> impl Strategy<Value = Machine> {
    (0.0..300.0, 0.0..2000.0, 0.0..2000.0).prop_map(|(decode, token, depth)| Machine {
        decode,
        token,
        depth,
    })
}
