//! Choosing the next token of each row of logits.
//!
//! With the largest logit `m` of the tokens that a row may choose, a token weighs `2^-d`, its depth `d`
//! being `(m - logit) * log2(e) / temperature`. Tokens stand in order of their logits, equal ones in order
//! of their ids. `top_k` keeps the first so many; `top_p` keeps the first whose predecessors weigh less
//! than that share of what was kept; `min_p` keeps those that weigh at least that much of the first. The
//! token at the fraction `uniform` of the weight that is left is chosen. Weights are whole multiples of
//! 2^-40, so sums are exact and the choice does not depend on how they are formed: on the CPU and on a
//! graphics processor it is the same, but for the last bit of a power of two.
//!
//! Penalties and biases are not known here: they change the logits beforehand.

mod cuda;
mod reference;
#[cfg(test)]
mod tests;

use crate::{Indices, KernelError, Tensor};

const OP: &str = "sample";

/// Rows are at most so long: the weights of a row fit in a `u64`.
const MAX_LEN: usize = 1 << 24;

/// How the token of a row is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
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
    /// Whether the log-probability is wanted.
    pub logprob: bool,
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
            logprob: false,
        }
    }
}

/// A token that was chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SampledToken {
    /// Its id; `None` if the largest logit is not a finite number.
    pub id: Option<u32>,
    /// The natural logarithm of its probability under all logits of the row, those that the mask forbids
    /// included; if wanted.
    pub logprob: Option<f32>,
}

/// Chooses a token for each row of `logits` (`[S, V]`, f32).
///
/// - `rules`: S of them.
/// - `masks`: `[M, ceil(V / 32)]`; bit `i % 32` of word `i / 32` says whether token `i` may be chosen.
///
/// # Errors
/// [`KernelError::Shape`] unless `logits` is a matrix, [`KernelError::Value`] for rows without or with
/// more than 2^24 logits and for rules that cannot be, [`KernelError::Length`] unless there are as many rules as rows and masks are
/// whole, [`KernelError::Index`] for a mask that is not there, [`KernelError::DType`] unless logits are
/// f32; the device's.
pub fn sample(
    logits: &Tensor,
    rules: &[SampleRule],
    masks: &Indices,
) -> Result<Vec<SampledToken>, KernelError> {
    let (rows, len) = logits.dims2(OP, "logits")?;
    check(rows, len, rules, masks)?;
    if let Some(cuda) = logits.device().as_cuda() {
        return cuda::sample(cuda, logits, rules, masks);
    }
    let rows = logits.as_f32()?.chunks_exact(len).zip(rules);
    Ok(rows
        .map(|(logits, rule)| reference::sample(logits, rule, mask_of(masks, rule, len)))
        .collect())
}

/// The words of a rule's mask.
fn mask_of<'a>(masks: &'a Indices, rule: &SampleRule, len: usize) -> Option<&'a [u32]> {
    let words = len.div_ceil(32);
    let mask = rule.mask?;
    Some(&masks[mask as usize * words..][..words])
}

fn check(
    rows: usize,
    len: usize,
    rules: &[SampleRule],
    masks: &Indices,
) -> Result<(), KernelError> {
    if len == 0 || len > MAX_LEN {
        return Err(KernelError::Value {
            op: OP,
            name: "columns of logits",
            found: len,
            rule: "1 to 2^24",
        });
    }
    let words = len.div_ceil(32);
    let lengths = [
        ("rules", rows, rules.len()),
        ("masks", masks.len().next_multiple_of(words), masks.len()),
    ];
    for (name, expected, found) in lengths {
        if expected != found {
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
            && (0.0..=1.0).contains(&rule.min_p);
        if !possible {
            return Err(KernelError::Value {
                op: OP,
                name: "the row of a rule",
                found: row,
                rule: "one whose temperature is 0 or more, top_p above 0 and at most 1, min_p 0 to 1",
            });
        }
        match rule.mask {
            Some(mask) if mask as usize >= masks.len() / words => {
                return Err(KernelError::Index {
                    op: OP,
                    name: "mask",
                    index: mask as usize,
                    len: masks.len() / words,
                });
            }
            _ => {}
        }
    }
    Ok(())
}
