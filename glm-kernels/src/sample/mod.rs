//! Choosing the next token of each row of logits.
//!
//! First come the edits: what a request's biases and penalties do to the logits of single tokens. With the
//! largest logit `m` of the tokens that a row may choose, a token weighs `2^-d`, its depth `d` being
//! `(m - logit) * log2(e) / temperature`. Tokens stand in order of their logits, equal ones in order
//! of their ids. `top_k` keeps the first so many; `top_p` keeps the first whose predecessors weigh less
//! than that share of what was kept; `min_p` keeps those that weigh at least that much of the first. The
//! token at the fraction `uniform` of the weight that is left is chosen. Weights are whole multiples of
//! 2^-40, so sums are exact and the choice does not depend on how they are formed: on the CPU and on a
//! graphics processor it is the same, but for the last bit of a power of two.
//!
//! On a graphics processor the host need not wait for what is chosen ([`sample_later`]), nor does the next
//! step, which takes the ids from where they are ([`Indices::drawn_by`]).

mod cuda;
mod pending;
mod reference;
#[cfg(test)]
mod tests;

use std::ops::Range;

pub(crate) use cuda::SampledIds;
pub(crate) use pending::Ids;
pub use pending::PendingSample;

use crate::{Indices, KernelError, Tensor};

const OP: &str = "sample";

/// Rows are at most so long: the weights of a row fit in a `u64`.
const MAX_LEN: usize = 1 << 24;

/// The most tokens that [`SampleRule::top`] may ask for: each is another pass over the row.
pub const MAX_TOP_TOKENS: usize = 20;

/// How the token of a row is chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct SampleRule {
    /// Divides the logits; 0 takes the most likely token.
    pub temperature: f32,
    /// How many of the most likely tokens may be chosen; 0 for all.
    pub top_k: u32,
    /// The share of the weight that they have together, above 0; 1 for all.
    pub top_p: f32,
    /// The least weight, in units of that of the most likely one; 0 for any.
    pub min_p: f32,
    /// Where to draw, in units of 2^-64 of the weight.
    pub uniform: u64,
    /// The row of the masks that says what may be chosen; all if `None`.
    pub mask: Option<u32>,
    /// The edits of this row.
    pub edits: Range<u32>,
    /// Whether the log-probability is wanted.
    pub logprob: bool,
    /// Of how many of the most likely tokens the log-probability is wanted besides, at most
    /// [`MAX_TOP_TOKENS`].
    pub top: usize,
}

impl Default for SampleRule {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            uniform: 0,
            mask: None,
            edits: 0..0,
            logprob: false,
            top: 0,
        }
    }
}

/// What is done to the logit of a token before one is chosen: the bias is added; then what is above 0 is
/// divided by `repetition`, and what is not is multiplied by it; then `penalty` is subtracted. Each of that
/// rounds to f32.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogitEdit {
    /// The token.
    pub id: u32,
    /// A number, or minus infinity, which forbids the token.
    pub bias: f32,
    /// Above 0.
    pub repetition: f32,
    /// A number.
    pub penalty: f32,
}

impl LogitEdit {
    /// The edit that leaves the logit as it is, to the bit.
    pub fn unchanged(id: u32) -> Self {
        Self {
            id,
            bias: -0.0, // -0 + 0 would be 0
            repetition: 1.0,
            penalty: 0.0,
        }
    }

    /// What becomes of a logit.
    fn apply(&self, logit: f32) -> f32 {
        let biased = logit + self.bias;
        let repeated = if biased > 0.0 {
            biased / self.repetition
        } else {
            biased * self.repetition
        };
        repeated - self.penalty
    }

    fn is_possible(&self) -> bool {
        (self.bias.is_finite() || self.bias == f32::NEG_INFINITY)
            && self.repetition > 0.0
            && self.repetition.is_finite()
            && self.penalty.is_finite()
    }
}

/// What the rules of rows refer to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SampleLists {
    /// `[M, ceil(V / 32)]`; bit `i % 32` of word `i / 32` says whether token `i` may be chosen.
    pub masks: Indices,
    /// Edits, those of a row side by side and of different tokens, in any order.
    pub edits: Vec<LogitEdit>,
}

impl SampleLists {
    /// The words of a rule's mask.
    fn mask(&self, rule: &SampleRule, len: usize) -> Option<&[u32]> {
        let words = len.div_ceil(32);
        let mask = rule.mask?;
        Some(&self.masks[mask as usize * words..][..words])
    }

    /// A rule's edits.
    fn edits(&self, rule: &SampleRule) -> &[LogitEdit] {
        &self.edits[rule.edits.start as usize..rule.edits.end as usize]
    }
}

/// A token that was chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct SampledToken {
    /// Its id; `None` if the largest logit that may be chosen is not a finite number.
    pub id: Option<u32>,
    /// The natural logarithm of its probability under the logits as they were before the edits, those that
    /// the mask forbids included; if wanted.
    pub logprob: Option<f32>,
    /// The most likely tokens under the same logits, the likeliest first, with their log-probabilities: as
    /// many as wanted, or as there are numbers. Empty where there is no token.
    pub top: Vec<(u32, f32)>,
}

/// Chooses a token for each row of `logits` (`[S, V]`, f32), which are edited in place.
///
/// - `rules`: S of them.
/// - `lists`: what they refer to.
///
/// # Errors
/// [`KernelError::Shape`] unless `logits` is a matrix, [`KernelError::Value`] for rows without or with
/// more than 2^24 logits and for rules and edits that cannot be, [`KernelError::Length`] unless there are as
/// many rules as rows and masks are whole, [`KernelError::Index`] for a mask, an edit or a token that is
/// not there, [`KernelError::DType`] unless logits are f32, [`KernelError::Shared`] while a clone of them
/// lives; the device's.
pub fn sample(
    logits: &mut Tensor,
    rules: &[SampleRule],
    lists: &SampleLists,
) -> Result<Vec<SampledToken>, KernelError> {
    sample_later(logits, rules, lists)?.wait()
}

/// As [`sample`], without waiting for a graphics processor. `logits` may be dropped at once.
///
/// # Errors
/// As [`sample`].
pub fn sample_later(
    logits: &mut Tensor,
    rules: &[SampleRule],
    lists: &SampleLists,
) -> Result<PendingSample, KernelError> {
    let (rows, len) = logits.dims2(OP, "logits")?;
    check(rows, len, rules, lists)?;
    let device = logits.device().clone();
    if let Some(cuda) = device.as_cuda() {
        let launched = cuda::sample(cuda, logits, rules, lists)?;
        return Ok(PendingSample::on_device(launched));
    }
    let rows = logits.as_f32_mut()?.chunks_exact_mut(len).zip(rules);
    let choose = |(logits, rule): (&mut [f32], &SampleRule)| {
        reference::sample(logits, rule, lists.edits(rule), lists.mask(rule, len))
    };
    Ok(PendingSample::known(rows.map(choose).collect()))
}

fn check(
    rows: usize,
    len: usize,
    rules: &[SampleRule],
    lists: &SampleLists,
) -> Result<(), KernelError> {
    if len == 0 || len > MAX_LEN {
        return Err(value("columns of logits", len, "1 to 2^24"));
    }
    let words = len.div_ceil(32);
    let masks = lists.masks.len();
    let lengths = [
        ("rules", rows, rules.len()),
        ("masks", masks.next_multiple_of(words), masks),
    ];
    for (name, expected, found) in lengths {
        if found != expected {
            return Err(KernelError::Length {
                op: OP,
                name,
                expected,
                found,
            });
        }
    }
    for (row, rule) in rules.iter().enumerate() {
        let possible = rule.temperature >= 0.0
            && rule.temperature.is_finite()
            && rule.top_p > 0.0
            && rule.top_p <= 1.0
            && (0.0..=1.0).contains(&rule.min_p)
            && rule.top <= MAX_TOP_TOKENS;
        if !possible {
            return Err(value(
                "the row of a rule",
                row,
                "one whose temperature is 0 or more, top_p above 0 and at most 1, min_p 0 to 1, top at most 20",
            ));
        }
        if let Some(mask) = rule.mask {
            index("mask", mask as usize, masks / words)?;
        }
    }
    check_edits(len, rules, &lists.edits)
}

fn check_edits(len: usize, rules: &[SampleRule], edits: &[LogitEdit]) -> Result<(), KernelError> {
    if let Some(at) = edits.iter().position(|edit| !edit.is_possible()) {
        let rule = "one whose bias is finite or minus infinity, repetition above 0, penalty finite";
        return Err(value("an edit", at, rule));
    }
    for edit in edits {
        index("edited token", edit.id as usize, len)?;
    }
    // A bit for each token; none is set between two rows.
    let mut seen = Vec::new();
    for (row, rule) in rules.iter().enumerate() {
        let range = rule.edits.start as usize..rule.edits.end as usize;
        let Some(edits) = edits.get(range) else {
            let rule = "one whose edits are there";
            return Err(value("the row of a rule", row, rule));
        };
        if !edits.is_empty() {
            seen.resize(len.div_ceil(64), 0u64);
        }
        for edit in edits {
            let (word, bit) = (&mut seen[edit.id as usize / 64], 1 << (edit.id % 64));
            if *word & bit != 0 {
                let rule = "one whose edits are of different tokens";
                return Err(value("the row of a rule", row, rule));
            }
            *word |= bit;
        }
        for edit in edits {
            seen[edit.id as usize / 64] = 0;
        }
    }
    Ok(())
}

fn value(name: &'static str, found: usize, rule: &'static str) -> KernelError {
    KernelError::Value {
        op: OP,
        name,
        found,
        rule,
    }
}

fn index(name: &'static str, index: usize, len: usize) -> Result<(), KernelError> {
    if index < len {
        return Ok(());
    }
    Err(KernelError::Index {
        op: OP,
        name,
        index,
        len,
    })
}
