//! Speculative decoding: several tokens per step, and every one of them what the model itself would have said.
//!
//! A [`Drafter`] guesses how a sequence goes on. The step computes the guesses behind the last token, as it would compute a prompt,
//! and the request's own sampler then draws from the rows of logits one after the other, each with its own random number, penalties and
//! grammar, as long as what it draws is what was guessed. It never sees a token that it did not draw, and a token's logits do not
//! depend on what else is in a step; so the answer is the same, to the bit, with any drafter or none, greedy or sampled.
//!
//! Leviathan et al. 2023 (arXiv:2211.17192) and Chen et al. 2023 (arXiv:2302.01318) accept a guess `x` of a drafter's distribution q
//! with probability `min(1, p(x) / q(x))`, which keeps the distribution. Here a draft is one text and no distribution, and drawing
//! from p and looking whether that is `x` accepts it with the same probability, p(x), for the same distribution; with a seed it even gives
//! the same tokens.
//!
//! How many tokens are guessed is [`length`]'s to decide, and whether there is room for them the scheduler's
//! ([`Scheduler::look_ahead`](crate::scheduler::Scheduler::look_ahead)).

mod length;
mod lookup;
mod model;

use std::time::{Duration, Instant};

use glm_kernels::KernelError;

use crate::error::BuildError;
use crate::kv::CacheSalt;
use crate::sampling::SequenceSampler;
use crate::scheduler::SeqId;
pub(crate) use length::PlainStep;
use length::{LengthControl, MAX_LOGIT_ROWS};
pub(crate) use model::DraftModel;

/// How the next tokens are guessed; see `docs/how-to/speculation.md`. Answers are the same whatever is chosen, only their time
/// differs.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub enum Speculation {
    /// Not at all.
    #[default]
    Off,
    /// As they followed the last few tokens earlier in prompt and answer: for summaries, edits, code, and whatever else quotes.
    PromptLookup {
        /// Fewest tokens that must be the same, at least 1.
        min_ngram: usize,
        /// The longest likeness that is looked for.
        max_ngram: usize,
        /// How many are guessed.
        length: DraftLength,
    },
    /// As a smaller model would go on. It is quantised like the model itself, and takes memory for its weights and keys and values.
    DraftModel {
        /// Its name, as of any MODEL; it needs the same vocabulary.
        model: String,
        /// How many are guessed.
        length: DraftLength,
    },
}

/// How many tokens are guessed for a sequence in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DraftLength {
    /// As many as make the answers fastest, which may be none: learnt from how long steps take and how many guesses are right.
    Adaptive {
        /// Most of them, at least 1.
        max: usize,
    },
    /// Always so many, whether that pays or not, at least 1; fewer only where a step has no room for them.
    Fixed(usize),
}

impl Default for DraftLength {
    fn default() -> Self {
        Self::Adaptive { max: 8 }
    }
}

/// More guesses in a row are hardly ever all right.
const MAX_DRAFT: usize = 64;

impl Speculation {
    /// Prompt lookup with likenesses of two to four tokens.
    pub fn prompt_lookup() -> Self {
        Self::PromptLookup {
            min_ngram: 2,
            max_ngram: 4,
            length: DraftLength::default(),
        }
    }

    /// A draft model: a directory, a `.gguf` file, a hub id or `random:PRESET`.
    pub fn draft_model(model: impl Into<String>) -> Self {
        Self::DraftModel {
            model: model.into(),
            length: DraftLength::default(),
        }
    }

    /// The same with other numbers of guesses.
    #[must_use]
    pub fn with_length(mut self, new: DraftLength) -> Self {
        match &mut self {
            Self::Off => {}
            Self::PromptLookup { length, .. } | Self::DraftModel { length, .. } => *length = new,
        }
        self
    }

    /// Checks every number against its range.
    pub(crate) fn check(&self) -> Result<(), BuildError> {
        let check = |option, ok, allowed, found: usize| {
            let found = found.to_string();
            let error = BuildError::Option {
                option,
                allowed,
                found,
            };
            if ok { Ok(()) } else { Err(error) }
        };
        match *self {
            Self::Off => Ok(()),
            Self::PromptLookup {
                min_ngram,
                max_ngram,
                length,
            } => {
                let ok = min_ngram >= 1 && min_ngram <= max_ngram;
                check(
                    "min_ngram",
                    ok,
                    "at least 1 and at most max_ngram",
                    min_ngram,
                )?;
                length.check()
            }
            Self::DraftModel { length, .. } => length.check(),
        }
    }
}

impl DraftLength {
    fn most(self) -> usize {
        match self {
            Self::Adaptive { max } | Self::Fixed(max) => max,
        }
    }

    fn check(self) -> Result<(), BuildError> {
        let most = self.most();
        if (1..=MAX_DRAFT).contains(&most) {
            return Ok(());
        }
        Err(BuildError::Option {
            option: "draft length",
            allowed: "between 1 and 64",
            found: most.to_string(),
        })
    }
}

/// A sequence that goes on, as a drafter sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context<'a> {
    /// Which one.
    pub(crate) seq: SeqId,
    /// Prompt and answer so far.
    pub(crate) tokens: &'a [u32],
    /// With whom it shares blocks of equal tokens; `None`: with nobody.
    pub(crate) cache: Option<&'a CacheSalt>,
    /// A text that the answer may resemble; may be empty.
    pub(crate) prediction: &'a [u32],
    /// Most tokens to guess; may be 0.
    pub(crate) max_len: usize,
    /// Draws its next token; a clone of it can draw from a drafter's logits.
    pub(crate) sampler: &'a SequenceSampler,
}

/// What may follow the tokens of a sequence.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Draft {
    /// The guesses, one after the other.
    pub(crate) tokens: Vec<u32>,
    /// Whether [`Context::prediction`] reads so.
    pub(crate) predicted: bool,
}

/// Guesses how sequences go on.
///
/// This is the seam for other ways to guess. Heads that predict several tokens ahead (MTP) are such a drafter with weights of the
/// model's own and a KV cache like a draft model's; they also need the final hidden state of each last token, for which
/// [`Context`] is the place and `Engine::run`, which has them before it makes logits of them, the source.
pub(crate) trait Drafter: Send {
    /// At most `max_len` tokens for each of `open`, in its order; fewer where it has no idea. State of sequences that are not in
    /// `open` is dropped: they have ended or lost their blocks.
    ///
    /// # Errors
    /// [`KernelError`] of a model that is asked; all state must be gone then.
    fn draft(&mut self, open: &[Context<'_>]) -> Result<Vec<Draft>, KernelError>;

    /// Drops the state of a sequence that has ended.
    fn forget(&mut self, _seq: SeqId) {}

    /// Whether there is no state of any sequence, which must be so while the engine is idle.
    fn holds_nothing(&self) -> bool {
        true
    }
}

/// What came of guessing so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct SpeculationCounters {
    /// Tokens guessed and checked.
    pub(crate) drafted: u64,
    /// Those of them that were right.
    pub(crate) accepted: u64,
    /// Steps that went on without guesses because the drafter failed.
    pub(crate) failures: u64,
}

/// A drafter and the knowledge of when to ask it.
pub(crate) struct Speculator {
    drafter: Box<dyn Drafter>,
    length: DraftLength,
    control: LengthControl,
    counters: SpeculationCounters,
}

impl Speculator {
    /// The one that was asked for, with its draft model if that is what it needs; `None` for none.
    pub(crate) fn new(speculation: &Speculation, model: Option<DraftModel>) -> Option<Self> {
        let (drafter, length): (Box<dyn Drafter>, _) = match *speculation {
            Speculation::Off => return None,
            Speculation::DraftModel { length, .. } => (Box::new(model?), length),
            Speculation::PromptLookup {
                min_ngram,
                max_ngram,
                length,
            } => {
                let lookup = lookup::PromptLookup {
                    min_ngram,
                    max_ngram,
                };
                (Box::new(lookup), length)
            }
        };
        Some(Self::with(drafter, length))
    }

    /// One that asks this drafter.
    pub(crate) fn with(drafter: Box<dyn Drafter>, length: DraftLength) -> Self {
        Self {
            drafter,
            length,
            control: LengthControl::default(),
            counters: SpeculationCounters::default(),
        }
    }

    /// Guesses for each of `open`, in its order; each has room for `max_len` tokens in the step `plain`. Empty if nothing is
    /// guessed at all.
    pub(crate) fn draft(&mut self, plain: PlainStep, mut open: Vec<Context<'_>>) -> Vec<Draft> {
        self.limit(plain, &mut open);
        let started = Instant::now();
        let Ok(drafts) = self.drafter.draft(&open) else {
            // Answers do not depend on it: they only take longer.
            self.counters.failures += 1;
            return Vec::new();
        };
        let lengths = drafts.iter().map(|draft| draft.tokens.len());
        let rounds = lengths.max().unwrap_or(0);
        self.control.drafted(open.len(), rounds, started.elapsed());
        drafts
    }

    /// Lowers `max_len` to how many tokens are to be guessed.
    fn limit(&mut self, plain: PlainStep, open: &mut [Context<'_>]) {
        let most = self.length.most();
        open.iter_mut()
            .for_each(|context| context.max_len = context.max_len.min(most));
        match self.length {
            DraftLength::Adaptive { .. } => {
                let rooms: Vec<_> = open.iter().map(|c| (c.seq, c.max_len)).collect();
                let lengths = self.control.lengths(plain, &rooms);
                for (context, len) in open.iter_mut().zip(lengths) {
                    context.max_len = len;
                }
            }
            DraftLength::Fixed(_) => {
                let mut rows = MAX_LOGIT_ROWS.saturating_sub(plain.yields);
                for context in open {
                    context.max_len = context.max_len.min(rows);
                    rows -= context.max_len;
                }
            }
        }
    }

    /// Learns what a step of `tokens` tokens took.
    pub(crate) fn stepped(&mut self, tokens: usize, elapsed: Duration) {
        self.control.stepped(tokens, elapsed);
    }

    /// Learns that not even the first token guessed for a sequence was possible.
    pub(crate) fn refused(&mut self, seq: SeqId) {
        self.control.verified(seq, 1, 0);
    }

    /// Learns how many of the tokens guessed for a sequence were right.
    pub(crate) fn verified(&mut self, seq: SeqId, drafted: usize, accepted: usize) {
        self.counters.drafted += drafted as u64;
        self.counters.accepted += accepted as u64;
        self.control.verified(seq, drafted, accepted);
    }

    /// Drops what is known of a sequence that has ended.
    pub(crate) fn forget(&mut self, seq: SeqId) {
        self.drafter.forget(seq);
        self.control.forget(seq);
    }

    /// Whether nothing is kept of any sequence.
    pub(crate) fn holds_nothing(&self) -> bool {
        self.drafter.holds_nothing() && self.control.is_empty()
    }

    /// What came of it so far.
    pub(crate) fn counters(&self) -> SpeculationCounters {
        self.counters
    }
}
