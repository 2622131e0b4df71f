//! The engine's side of speculative decoding: whose tokens are guessed, and what is learnt from it. See
//! [`speculate`](crate::speculate).

use std::time::Duration;

use glm_kernels::Work;

use super::{Engine, SampledRun};
use crate::scheduler::{Committed, SeqId, StepPlan};
use crate::speculate::{Context, PlainStep};

impl Engine {
    /// Puts guesses at what follows behind the decoding sequences of a step, which then finds out how many are right.
    pub(super) fn speculate(&mut self, plan: &mut StepPlan) {
        let Some(speculator) = &mut self.speculator else {
            return;
        };
        let _span = self.device.record(|| Work::moving("draft", 0));
        let (mut chunks, mut open) = (Vec::new(), Vec::new());
        for decoding in self.scheduler.decoding(plan) {
            let active = self.requests.get(&decoding.seq);
            let Some(active) = active.filter(|active| active.speculates) else {
                continue;
            };
            chunks.push((decoding.chunk, decoding.seq));
            open.push(Context {
                seq: decoding.seq,
                tokens: decoding.tokens,
                cache: decoding.cache,
                prediction: &active.prediction,
                max_len: decoding.max_draft,
                sampler: &active.sampler,
            });
        }
        let plain = PlainStep {
            num_tokens: plan.num_tokens(),
            yields: plan.sampled().count(),
        };
        let drafts = speculator.draft(plain, open);
        for ((chunk, seq), draft) in chunks.into_iter().zip(drafts) {
            let Some(active) = self.requests.get_mut(&seq) else {
                continue;
            };
            active.predicted = draft.predicted;
            let draft = draft.tokens;
            // Whoever guesses does not know the grammar: what it refuses is not computed.
            let guide = active.guide.as_mut();
            let allowed = guide.map_or(draft.len(), |guide| guide.num_allowed(&draft));
            if allowed == 0 && !draft.is_empty() {
                speculator.refused(seq);
            }
            self.scheduler
                .look_ahead(plan, chunk, &draft[..allowed], &mut self.blocks);
        }
    }

    /// Counts the guesses of a step that requests predicted: those that are in the answers now, and those that are not.
    pub(super) fn count_predictions(&mut self, plan: &StepPlan, committed: &[Committed]) {
        let drafts = plan.sampled().zip(plan.drafts());
        for (seq, draft) in drafts.filter(|(_, draft)| !draft.is_empty()) {
            let active = self.requests.get_mut(&seq);
            let Some(active) = active.filter(|active| active.predicted) else {
                continue;
            };
            let said = committed.iter().filter(|committed| committed.seq == seq);
            let pairs = draft.iter().zip(said.map(|committed| &committed.token));
            let right = pairs.take_while(|(guess, token)| guess == token).count();
            active.usage.accepted_prediction_tokens += right;
            active.usage.rejected_prediction_tokens += draft.len() - right;
        }
    }

    /// The scheduler and the speculator learn what a step took, and the latter which guesses were right.
    pub(super) fn learn(&mut self, plan: &StepPlan, elapsed: Duration, sampled: &[SampledRun]) {
        self.scheduler.stepped(plan, elapsed);
        let Some(speculator) = &mut self.speculator else {
            return;
        };
        speculator.stepped(plan.num_tokens(), elapsed);
        let runs = plan.sampled().zip(plan.drafts()).zip(sampled);
        for ((seq, draft), run) in runs.filter(|((_, draft), _)| !draft.is_empty()) {
            if let Ok(run) = run {
                let right = draft
                    .iter()
                    .zip(run)
                    .take_while(|(id, s)| **id == s.token.id);
                speculator.verified(seq, draft.len(), right.count());
            }
        }
    }

    /// Drops what is known of a sequence that has ended.
    pub(super) fn forget_drafts(&mut self, seq: SeqId) {
        if let Some(speculator) = &mut self.speculator {
            speculator.forget(seq);
        }
    }
}

#[cfg(test)]
mod tests {
    use glm_kernels::KernelError;

    use super::super::tests::{counter, request};
    use super::*;
    use crate::engine::SeqEvent;
    use crate::request::FinishReason;
    use crate::speculate::{Draft, DraftLength, Drafter, Speculator};

    /// Guesses what the counter says, and fails at some of its calls.
    struct Scripted {
        calls: usize,
        fails: fn(usize) -> bool,
        /// Right guesses in each draft of four.
        right: usize,
    }

    impl Drafter for Scripted {
        fn draft(&mut self, open: &[Context<'_>]) -> Result<Vec<Draft>, KernelError> {
            self.calls += 1;
            if (self.fails)(self.calls) {
                return Err(KernelError::ShapeOverflow(vec![usize::MAX]));
            }
            let draft = |context: &Context<'_>| {
                let last = context.tokens.last().copied().unwrap_or_default();
                let guess = |i| if i <= self.right { last + i as u32 } else { 1 };
                Draft {
                    tokens: (1..=context.max_len.min(4)).map(guess).collect(),
                    predicted: false,
                }
            };
            Ok(open.iter().map(draft).collect())
        }
    }

    /// The answers to two requests, how they ended, and the steps that took.
    fn answers(drafter: Option<Scripted>) -> (Vec<(u64, Vec<u32>)>, Engine) {
        let (mut engine, _) = counter(8);
        let with = |drafter| Speculator::with(Box::new(drafter), DraftLength::Fixed(4));
        engine.speculator = drafter.map(with);
        let ids = [(3, 12), (44, 20)].map(|(first, most)| engine.submit(request(&[first], most)));
        let mut answers: Vec<_> = ids.map(|id| (id.unwrap().0, Vec::new())).into();
        while engine.has_work() {
            for event in engine.step() {
                match event {
                    SeqEvent::Token(token) => {
                        let answer = answers.iter_mut().find(|a| a.0 == token.request.0).unwrap();
                        assert_eq!(token.index, answer.1.len());
                        answer.1.push(token.id);
                    }
                    SeqEvent::Finished(id, finished) => {
                        let (_, answer) = answers.iter().find(|a| a.0 == id.0).unwrap();
                        assert_eq!(finished.usage.completion_tokens, answer.len());
                        // 50 is the counter's end of sequence.
                        let stopped = answer.last() == Some(&50);
                        assert_eq!(finished.reason == FinishReason::Stop, stopped);
                    }
                    SeqEvent::Failed(_, error) => panic!("{error}"),
                }
            }
        }
        (answers, engine)
    }

    #[test]
    fn a_step_makes_as_many_tokens_as_were_guessed_right_and_one() {
        let (expected, plain) = answers(None);
        assert_eq!(expected[1].1, [45, 46, 47, 48, 49, 50]);
        for right in [0, 1, 4] {
            let (answers, engine) = answers(Some(Scripted {
                calls: 0,
                fails: |_| false,
                right,
            }));
            assert_eq!(answers, expected, "{right}");
            // The first token of twelve comes with the prompt.
            let steps = 1 + 11usize.div_ceil(right + 1);
            assert_eq!(engine.stats().steps as usize, steps, "{right}");
            assert_eq!(engine.stats().accepted_tokens == 0, right == 0);
        }
        assert_eq!(plain.stats().steps, 12);
    }

    #[test]
    fn a_drafter_that_fails_costs_time_only() {
        let (expected, _) = answers(None);
        for fails in [|_| true, |call: usize| call.is_multiple_of(2)] {
            let (answers, engine) = answers(Some(Scripted {
                calls: 0,
                fails,
                right: 4,
            }));
            assert_eq!(answers, expected);
            assert!(engine.stats().drafter_failures > 0);
        }
    }
}
