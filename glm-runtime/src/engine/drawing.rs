//! From logits to tokens: on the device where it can draw for every request of a step, and otherwise here.

use glm_kernels::{Indices, KernelError, SampleRule, SampledToken, Tensor, sample};

use super::{Active, Engine};
use crate::scheduler::StepPlan;

/// What a token is chosen from.
pub(super) enum Row<'a> {
    /// All logits, `[V]`.
    Logits(&'a mut [f32]),
    /// A device did it.
    Drawn(SampledToken),
}

impl Engine {
    /// A token for each row of `logits`, drawn where they are, if that is on a graphics processor and all requests can do with what
    /// it knows: copying the logits here takes longer than all else that is done with them.
    pub(super) fn draw_on_device(
        &self,
        plan: &StepPlan,
        logits: &Tensor,
    ) -> Result<Option<Vec<SampledToken>>, KernelError> {
        if self.device.cuda_info().is_none() {
            return Ok(None);
        }
        let rules = plan.sampled().zip(plan.drafts()).flat_map(|(seq, draft)| {
            let active = self.requests.get(&seq).filter(|active| active.is_plain());
            (0..=draft.len() as u64).map(move |ahead| active?.sampler.device_rule(ahead))
        });
        let Some(mut rules) = rules.collect::<Option<Vec<_>>>() else {
            return Ok(None);
        };
        // Of rows that a step was filled up with nobody takes the token.
        let rows = logits.shape().first().copied();
        rules.resize(rows.unwrap_or(0), SampleRule::default());
        sample(logits, &rules, &Indices::default()).map(Some)
    }
}

impl Active {
    /// Whether no grammar and no limit on thoughts decides what may come.
    fn is_plain(&self) -> bool {
        self.guide.is_none() && self.thoughts.is_none()
    }
}
