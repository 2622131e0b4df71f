//! Where an engine's time goes: its steps, and within each what the device did.
//!
//! Off until somebody starts it, and then read from any thread; see [`EngineHandle::profiler`](crate::EngineHandle::profiler).
//! `glm-cli bench --profile` prints what [`Summary`] makes of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use glm_kernels::{Cost, Device};
use serde::Serialize;

use crate::scheduler::{Chunk, StepPlan};

/// One step of an engine.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// When it began to plan.
    pub start: Instant,
    /// When its tokens were chosen.
    pub end: Instant,
    /// Prompt tokens computed.
    pub prefill_tokens: usize,
    /// Sequences that decoded one token.
    pub decode_tokens: usize,
    /// What the device's operations cost; empty unless operations were asked for.
    pub costs: Vec<Cost>,
}

/// How much a [`Profiler`] writes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// When each step began and ended.
    Steps,
    /// What every operation cost, too: some ten microseconds a step.
    Operations,
}

/// Writes an engine's steps down while somebody wants them.
#[derive(Debug)]
pub struct Profiler {
    device: Device,
    on: AtomicBool,
    steps: Mutex<Vec<Step>>,
}

impl Profiler {
    pub(crate) fn new(device: Device) -> Self {
        Self {
            device,
            on: AtomicBool::new(false),
            steps: Mutex::default(),
        }
    }

    /// Starts over: what was written down before is forgotten.
    pub fn start(&self, detail: Detail) {
        let recorder = self.device.recorder();
        recorder.set_on(detail == Detail::Operations);
        recorder.take();
        self.steps().clear();
        self.on.store(true, Ordering::SeqCst);
    }

    /// Stops, and gives out the steps that have ended since the start. The first of them may have begun before it.
    pub fn finish(&self) -> Vec<Step> {
        self.on.store(false, Ordering::SeqCst);
        self.device.recorder().set_on(false);
        std::mem::take(&mut *self.steps())
    }

    /// Writes down a step that was done just now, if somebody wants it.
    pub(crate) fn step_ended(&self, start: Instant, plan: &StepPlan) {
        if !self.on.load(Ordering::Relaxed) {
            return;
        }
        let (prefill, decode): (Vec<&Chunk>, Vec<&Chunk>) =
            plan.chunks.iter().partition(|chunk| chunk.prefill);
        let step = Step {
            start,
            end: Instant::now(),
            prefill_tokens: prefill.iter().map(|chunk| chunk.len).sum(),
            decode_tokens: decode.len(),
            costs: self.device.recorder().take(),
        };
        let mut steps = self.steps();
        if self.on.load(Ordering::SeqCst) {
            steps.push(step);
        }
    }

    /// The list is whole even if a thread panicked while it held the lock.
    fn steps(&self) -> MutexGuard<'_, Vec<Step>> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Steps of one kind, summed up: where a mean step's time goes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Steps looked at.
    pub steps: usize,
    /// Tokens computed in them.
    pub tokens: usize,
    /// Mean time from the start of a step to the start of the next, in milliseconds.
    pub step_ms: f64,
    /// The parts of a step in the order of the forward pass; the last two are what remains within and between steps.
    pub rows: Vec<Row>,
}

/// One part of a mean step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// What is done.
    pub name: String,
    /// Calls per step.
    pub calls: f64,
    /// Milliseconds per step.
    pub ms: f64,
    /// `ms` over the whole step's.
    pub share: f64,
    /// Bytes per step that must be read or written.
    pub bytes: f64,
    /// `bytes` per second of this part, in GB/s (1e9).
    pub gb_s: f64,
    /// Arithmetic operations per second of this part, in 1e9; a multiply-add is two. 0 where only bytes matter.
    pub gop_s: f64,
}

impl Summary {
    /// Sums `steps` up; `name_of` says what an operation is called in a model. `None` if there is no step.
    ///
    /// Without a step after it, the time that passes after the last one is unknown: it counts as if nothing did.
    pub fn of(steps: &[Step], name_of: impl Fn(&Cost) -> String) -> Option<Self> {
        let (first, last) = (steps.first()?, steps.last()?);
        let whole = last.end.saturating_duration_since(first.start);
        let inside: Duration = steps
            .iter()
            .map(|step| step.end.saturating_duration_since(step.start))
            .sum();
        let mut parts: Vec<(String, Cost)> = Vec::new();
        for cost in steps.iter().flat_map(|step| &step.costs) {
            let name = name_of(cost);
            match parts.iter_mut().find(|(known, _)| *known == name) {
                Some((_, known)) => known.add(cost),
                None => parts.push((name, *cost)),
            }
        }
        let recorded: Duration = parts.iter().map(|(_, cost)| cost.time).sum();
        let count = steps.len() as f64;
        let row = |name: &str, time: Duration, cost: Option<&Cost>| {
            let seconds = time.as_secs_f64();
            let per_second = |amount: u64| {
                if seconds > 0.0 {
                    amount as f64 / seconds / 1e9
                } else {
                    0.0
                }
            };
            Row {
                name: name.to_owned(),
                calls: cost.map_or(0.0, |cost| cost.calls as f64 / count),
                ms: seconds * 1e3 / count,
                share: seconds / whole.as_secs_f64().max(f64::MIN_POSITIVE),
                bytes: cost.map_or(0.0, |cost| cost.bytes as f64 / count),
                gb_s: cost.map_or(0.0, |cost| per_second(cost.bytes)),
                gop_s: cost.map_or(0.0, |cost| per_second(cost.operations)),
            }
        };
        let mut rows: Vec<_> = parts
            .iter()
            .map(|(name, cost)| row(name, cost.time, Some(cost)))
            .collect();
        rows.push(row("rest of a step", inside.saturating_sub(recorded), None));
        rows.push(row("between steps", whole.saturating_sub(inside), None));
        Some(Self {
            steps: steps.len(),
            tokens: steps
                .iter()
                .map(|step| step.prefill_tokens + step.decode_tokens)
                .sum(),
            step_ms: whole.as_secs_f64() * 1e3 / count,
            rows,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use glm_kernels::Op;

    fn cost(name: &'static str, ms: u64) -> Cost {
        Cost {
            op: Op {
                name,
                shape: [0, 0],
            },
            calls: 2,
            time: Duration::from_millis(ms),
            bytes: 3_000_000,
            operations: 6_000_000,
        }
    }

    #[test]
    fn the_parts_of_a_step_add_up_to_it() {
        let zero = Instant::now();
        let at = |ms| zero + Duration::from_millis(ms);
        let step = |start, costs| Step {
            start: at(start),
            end: at(start + 10),
            prefill_tokens: 0,
            decode_tokens: 4,
            costs,
        };
        let steps = [
            step(0, vec![cost("linear", 6), cost("norm", 2)]),
            step(14, vec![cost("norm", 2), cost("linear", 6)]),
        ];
        let summary = Summary::of(&steps, |cost| cost.op.name.to_owned()).unwrap();
        assert_eq!((summary.steps, summary.tokens), (2, 8));
        let rows: Vec<_> = summary
            .rows
            .iter()
            .map(|row| (row.name.as_str(), row.ms.round()))
            .collect();
        let expected = [
            ("linear", 6.0),
            ("norm", 2.0),
            ("rest of a step", 2.0),
            ("between steps", 2.0),
        ];
        assert_eq!(rows, expected);
        let linear = &summary.rows[0];
        assert_eq!((linear.calls, linear.bytes), (2.0, 3_000_000.0));
        assert!((linear.gb_s - 0.5).abs() < 1e-9 && (linear.gop_s - 1.0).abs() < 1e-9);
        let shares: f64 = summary.rows.iter().map(|row| row.share).sum();
        assert!((shares - 1.0).abs() < 1e-9, "{shares}");
        assert!((summary.step_ms - 12.0).abs() < 1e-9);
    }

    #[test]
    fn nothing_happened() {
        assert_eq!(Summary::of(&[], |cost| cost.op.name.to_owned()), None);
    }
}
