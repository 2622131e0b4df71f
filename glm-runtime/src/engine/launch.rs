//! A step from its launches to its tokens.
//!
//! Where the device draws the tokens, they need not be known for the next step to be asked for: it looks them up on the device. So
//! there are two steps under way while a text goes on, and what the host does with one step is done while the device computes the next
//! (vLLM calls it asynchronous scheduling). Whatever has to see a token first, such as a grammar or a penalty, or somebody
//! else who could start, ends that, and the next step is planned when the last one is known.

use std::ffi::OsStr;
use std::time::Instant;

use glm_kernels::{Device, KernelError, PendingSample, Work};

use super::drawing::Row;
use super::{Active, Engine, SampledRun, SeqEvent};
use crate::forward::{DecodeShape, ForwardBatch};
use crate::scheduler::{SeqId, StepPlan};

/// Set to `off`, the environment keeps steps from being asked for ahead.
const SWITCH: &str = "GLM_RUN_AHEAD";

/// Whether a device is asked for steps ahead: one that draws tokens itself, unless the environment says no.
pub(super) fn runs_ahead(device: &Device) -> bool {
    let switch = std::env::var_os(SWITCH);
    device.cuda_info().is_some() && switch.as_deref() != Some(OsStr::new("off"))
}

/// A step that the device has been asked for.
pub(super) struct Launched {
    plan: StepPlan,
    tokens: Tokens,
    /// When it began to be planned, and when it was asked for.
    planned: Instant,
    asked: Instant,
}

/// The next tokens of each of [`StepPlan::sampled`].
enum Tokens {
    Known(Vec<SampledRun>),
    /// The device draws them.
    Drawing(PendingSample),
}

impl Engine {
    /// Plans the next step and asks for it; `None` if there is none, or it failed.
    pub(super) fn launch_next(&mut self, events: &mut Vec<SeqEvent>) -> Option<Launched> {
        let planned = Instant::now();
        let mut plan = self.plan()?;
        self.note_start(&plan);
        self.speculate(&mut plan);
        let asked = Instant::now();
        match self.launch(&plan, None) {
            Ok(tokens) => Some(Launched {
                plan,
                tokens,
                planned,
                asked,
            }),
            Err(error) => {
                self.fail(&plan, &error.into(), events);
                None
            }
        }
    }

    /// Asks for the step after `step`, if it can be known before the tokens of this one are.
    pub(super) fn launch_ahead(&mut self, step: &Launched) -> Option<Launched> {
        let Tokens::Drawing(before) = &step.tokens else {
            return None;
        };
        // Whoever looks at the operations of a step looks at one step.
        if !self.runs_ahead || self.speculator.is_some() || self.device.recorder().is_on() {
            return None;
        }
        let foreseeable = |seq: SeqId| {
            let active = self.requests.get(&seq);
            // What was removed is in no step any more.
            active.is_none_or(Active::is_foreseeable)
        };
        if !step.plan.sampled().all(foreseeable) {
            return None;
        }
        let planned = Instant::now();
        let plan = self.scheduler.run_ahead(&step.plan, &mut self.blocks)?;
        let asked = Instant::now();
        match self.launch(&plan, Some(before)) {
            Ok(tokens) => {
                self.note_start(&plan);
                self.counters.steps_ahead += 1;
                Some(Launched {
                    plan,
                    tokens,
                    planned,
                    asked,
                })
            }
            // It comes again, in its turn.
            Err(_) => None,
        }
    }

    /// Asks the device for a step; `before`: what draws the tokens that it begins with, if they are not known.
    fn launch(
        &mut self,
        plan: &StepPlan,
        before: Option<&PendingSample>,
    ) -> Result<Tokens, KernelError> {
        self.copy_blocks(plan)?;
        let chunks = self.scheduler.tokens(plan);
        let shape = self.recorded_shape(plan);
        let mut batch = match shape {
            Some(shape) => ForwardBatch::filled_up(chunks, shape, self.kv.spare()),
            None => ForwardBatch::new(chunks),
        };
        if let Some(before) = before {
            batch.token_ids = batch.token_ids.drawn_by(before, &plan.follows)?;
        }
        batch.adapters = self.adapter_rows(plan, &batch);
        let ids = &batch.token_ids;
        if batch.logit_rows.is_empty() {
            let (model, kv) = (&self.model, &mut self.kv);
            let forward = || model.hidden_states(&batch, kv, &mut |_| {});
            self.graphs.run(None, ids, forward)?;
            // Nobody waits for a result; but what the step took is to be learnt, and what is wrong with it is its own.
            self.device.synchronize()?;
            return Ok(Tokens::Known(Vec::new()));
        }
        let (guided, guides) = self.take_guides(plan);
        let (model, kv, graphs) = (&self.model, &mut self.kv, &mut self.graphs);
        let key = shape.map(DecodeShape::key);
        let forward = || graphs.run(key, ids, || model.forward(&batch, kv));
        let (logits, guides) = self.mask_threads.prepare_during(guides, forward);
        self.give_back(&guided, guides);
        let mut logits = logits?; // [S, V]
        if let Some(drawing) = self.draw_on_device(plan, &mut logits)? {
            return Ok(Tokens::Drawing(drawing));
        }
        let mut logits = logits.into_host()?;
        let values = logits.as_f32_mut()?;
        let bytes = size_of_val(values);
        let device = self.device.clone();
        let _span = device.record(|| Work::moving("sample", bytes));
        let rows = values.chunks_exact_mut(self.model.config().vocab_size);
        Ok(Tokens::Known(self.sample_runs(plan, rows.map(Row::Logits))))
    }

    /// Waits for the tokens of a step, and commits them.
    pub(super) fn conclude(&mut self, step: Launched, events: &mut Vec<SeqEvent>) {
        let Launched {
            plan,
            tokens,
            planned,
            asked,
        } = step;
        let sampled = match tokens {
            Tokens::Known(runs) => Ok(runs),
            Tokens::Drawing(drawing) => drawing
                .wait()
                .map(|drawn| self.sample_runs(&plan, drawn.into_iter().map(Row::Drawn))),
        };
        // A step that runs ahead begins on the device when the one before it ends.
        let [planned, asked] = [planned, asked].map(|time| time.max(self.concluded));
        self.concluded = Instant::now();
        match sampled {
            Ok(sampled) => {
                self.learn(&plan, self.concluded - asked, &sampled);
                self.commit(&plan, sampled, events);
            }
            Err(error) => {
                // What was to follow is as lost.
                self.launched = None;
                self.fail(&plan, &error.into(), events);
            }
        }
        self.profiler.step_ended(planned, &plan);
    }
}
