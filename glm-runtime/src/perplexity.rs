//! How well a model predicts a text: the negative log-likelihood of every token, and what follows from it.

use serde::Serialize;

use crate::engine::EngineHandle;
use crate::error::EngineError;

/// Likelihood of a list of tokens under a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Perplexity {
    /// Tokens given, those that were not predicted included.
    pub tokens: usize,
    /// Tokens predicted.
    pub scored: usize,
    /// Tokens in a window.
    pub window: usize,
    /// Mean negative log-likelihood of the predicted tokens, natural logarithm.
    pub mean_nll: f64,
    /// `exp(mean_nll)`.
    pub perplexity: f64,
    /// Standard error of `mean_nll`; 0 for a single token.
    pub standard_error: f64,
    /// Negative log-likelihood of each predicted token, in order.
    pub nll: Vec<f32>,
}

/// Why a text could not be scored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PerplexityError {
    /// Nothing is left to predict: each token is predicted from those before it.
    #[error("{0} tokens are too few: a token is predicted from those before it")]
    TooShort(usize),
    /// A window too short predicts nothing; one longer than the context cannot be read.
    #[error(
        "a window must hold at least {least} tokens and fit into the context of {max_model_len}, found {found}"
    )]
    Window {
        /// Window asked for.
        found: usize,
        /// The shortest that predicts a token.
        least: usize,
        /// Context of the model.
        max_model_len: usize,
    },
    /// The engine refused or failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Scores `ids` in windows of at most `window` tokens that do not overlap.
///
/// Each window starts with `prefix` (such as `[gMASK]<sop>`), which counts towards its length and is not scored itself. With
/// an empty prefix the first token of a window has nothing to be predicted from and is not scored either. `adapter` names the
/// LoRA adapter to score with, if any. `progress` hears how many tokens each finished window took from `ids`.
///
/// # Errors
/// [`PerplexityError::TooShort`], [`PerplexityError::Window`], [`PerplexityError::Engine`].
pub fn perplexity(
    engine: &EngineHandle,
    prefix: &[u32],
    ids: &[u32],
    window: usize,
    adapter: Option<&str>,
    mut progress: impl FnMut(usize),
) -> Result<Perplexity, PerplexityError> {
    let max_model_len = engine.model_info().max_model_len;
    let unscored = prefix.len().max(1);
    if !(unscored + 1..=max_model_len).contains(&window) {
        return Err(PerplexityError::Window {
            found: window,
            least: unscored + 1,
            max_model_len,
        });
    }
    if prefix.len() + ids.len() <= unscored {
        return Err(PerplexityError::TooShort(ids.len()));
    }
    let mut nll = Vec::with_capacity(ids.len());
    for tokens in ids.chunks(window - prefix.len()) {
        let input = [prefix, tokens].concat();
        // A single token left over at the end may have nothing to be predicted from.
        if input.len() > unscored {
            let scores = match adapter {
                Some(name) => engine.score_with_adapter(&input, name)?,
                None => engine.score(&input)?,
            };
            nll.extend_from_slice(&scores[unscored - 1..]);
        }
        progress(tokens.len());
    }
    Ok(summary(ids.len(), window, nll))
}

fn summary(tokens: usize, window: usize, nll: Vec<f32>) -> Perplexity {
    let count = nll.len() as f64;
    let mean = nll.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
    let squares: f64 = nll.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum();
    let standard_error = if nll.len() > 1 {
        (squares / (count - 1.0) / count).sqrt()
    } else {
        0.0
    };
    Perplexity {
        tokens,
        scored: nll.len(),
        window,
        mean_nll: mean,
        perplexity: mean.exp(),
        standard_error,
        nll,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_even_guess_among_n_has_perplexity_n() {
        let result = summary(5, 5, vec![8f32.ln(); 4]);
        assert!((result.perplexity - 8.0).abs() < 1e-5);
        assert!(result.standard_error < 1e-6);
        assert_eq!((result.tokens, result.scored), (5, 4));
    }

    #[test]
    fn the_error_of_the_mean_is_the_textbook_one() {
        let result = summary(4, 4, vec![1.0, 2.0, 3.0]);
        assert!((result.mean_nll - 2.0).abs() < 1e-12);
        assert!((result.standard_error - (1.0f64 / 3.0).sqrt()).abs() < 1e-12);
    }
}
