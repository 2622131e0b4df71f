//! From logits to tokens: on the device where it can draw for every request of a step, and otherwise here.

use glm_kernels::{
    Indices, KernelError, PendingSample, SampleLists, SampleRule, SampledToken, Tensor,
    sample_later,
};

use super::{Active, Engine, SampledRun};
use crate::error::EngineError;
use crate::scheduler::{SeqId, StepPlan, UNKNOWN};

/// What a token is chosen from.
pub(super) enum Row<'a> {
    /// All logits, `[V]`.
    Logits(&'a mut [f32]),
    /// A device did it.
    Drawn(SampledToken),
}

impl Engine {
    /// Has a token drawn for each row of `logits` where they are, if that is on a graphics processor and it knows all that the requests
    /// ask for: copying the logits here takes longer than all else that is done with them.
    pub(super) fn draw_on_device(
        &mut self,
        plan: &StepPlan,
        logits: &mut Tensor,
    ) -> Result<Option<PendingSample>, KernelError> {
        if self.device.cuda_info().is_none() {
            return Ok(None);
        }
        let Some((mut rules, lists)) = self.device_rules(plan) else {
            return Ok(None);
        };
        // Of rows that a step was filled up with nobody takes the token.
        let rows = logits.shape().first().copied();
        rules.resize_with(rows.unwrap_or(0), SampleRule::default);
        sample_later(logits, &rules, &lists).map(Some)
    }

    /// How the tokens of a step are drawn, if a device can do all of it.
    fn device_rules(&mut self, plan: &StepPlan) -> Option<(Vec<SampleRule>, SampleLists)> {
        let is_known = |(seq, draft): (SeqId, &[u32])| {
            let active = self.requests.get(&seq);
            active.is_some_and(|active| active.device_can_draw(draft))
        };
        if !plan.sampled().zip(plan.drafts()).all(is_known) {
            return None;
        }
        let vocab_size = self.model.config().vocab_size;
        let words = vocab_size.div_ceil(32);
        let (mut rules, mut masks, mut edits) = (vec![], vec![], vec![]);
        for (seq, draft) in plan.sampled().zip(plan.drafts()) {
            let active = self.requests.get_mut(&seq)?;
            // What a grammar in trouble has to say, it says where its request is told.
            let allowed = active.allowed().ok()?;
            for ahead in 0..=draft.len() {
                // The token of the step before is drawn, but not taken.
                let before = match plan.runs_ahead() {
                    true => &[UNKNOWN],
                    false => &draft[..ahead],
                };
                let rule = active.sampler.device_rule(before, vocab_size, &mut edits);
                rules.push(rule);
            }
            if let (Some(mask), Some(rule)) = (allowed, rules.last_mut()) {
                rule.mask = Some((masks.len() / words) as u32);
                masks.extend(mask.words(vocab_size));
            }
        }
        let masks = Indices::from(masks);
        Some((rules, SampleLists { masks, edits }))
    }

    /// The next tokens of each of [`StepPlan::sampled`], from as many rows as each has.
    pub(super) fn sample_runs<'a>(
        &mut self,
        plan: &StepPlan,
        mut rows: impl Iterator<Item = Row<'a>>,
    ) -> Vec<SampledRun> {
        let sample = |(seq, draft): (SeqId, &[u32])| {
            let rows: Vec<_> = rows.by_ref().take(1 + draft.len()).collect();
            match self.requests.get_mut(&seq) {
                Some(active) => active.sample_run(draft, rows),
                None => Err(EngineError::NotFinite),
            }
        };
        plan.sampled().zip(plan.drafts()).map(sample).collect()
    }
}

impl Active {
    /// Whether a device can draw the token after those that were guessed, and each of them.
    fn device_can_draw(&self, draft: &[u32]) -> bool {
        // What may come behind a guess is not known yet.
        let guided = self.guide.is_some() || self.thoughts.is_some();
        self.sampler.device_can_draw() && (draft.is_empty() || !guided)
    }

    /// Whether nothing has to be known of a token for the next one to be drawn.
    pub(super) fn is_foreseeable(&self) -> bool {
        self.guide.is_none() && self.thoughts.is_none() && !self.sampler.looks_back()
    }
}
