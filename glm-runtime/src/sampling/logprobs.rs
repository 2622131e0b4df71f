//! Log-probabilities under the model: log-softmax of the raw logits.

use super::TokenLogprob;
use super::filter::by_logit;

/// What is reported about one position.
pub struct LogProbs {
    logits: Vec<f32>,
    log_sum: f64,
    top: Vec<TokenLogprob>,
}

impl LogProbs {
    /// Takes the model's logits before they are changed; keeps the `count` most likely tokens.
    pub fn new(logits: &[f32], count: usize) -> Self {
        let log_sum = log_sum_exp(logits);
        let count = count.min(logits.len());
        let mut order: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
        if count > 0 && count < order.len() {
            order.select_nth_unstable_by(count - 1, by_logit);
        }
        order.truncate(count);
        order.sort_unstable_by(by_logit);
        let top = order
            .into_iter()
            .map(|(id, logit)| TokenLogprob {
                id,
                logprob: (f64::from(logit) - log_sum) as f32,
            })
            .collect();
        Self {
            logits: logits.to_vec(),
            log_sum,
            top,
        }
    }

    /// Log-probability of one token.
    pub fn of(&self, id: u32) -> f32 {
        (f64::from(self.logits[id as usize]) - self.log_sum) as f32
    }

    /// The most likely tokens.
    pub fn into_top(self) -> Vec<TokenLogprob> {
        self.top
    }
}

/// `ln(sum(exp(logits)))`, exact to f64 and safe against overflow. NaN counts as impossible.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits
        .iter()
        .filter(|l| !l.is_nan())
        .map(|&l| f64::from(l - max).exp())
        .sum();
    f64::from(max) + sum.ln()
}
