//! Prompt lookup (Saxena 2023): a text that repeats itself goes on as it did before. Summaries, edits and code quote their
//! prompts, so the last few tokens are looked up in everything before them, and what followed there is the guess. A request can also
//! bring a text that its answer is expected to resemble.

use glm_kernels::KernelError;

use super::{Context, Draft, Drafter};

/// Guesses without a model and without memory: each guess is one pass over the sequence's tokens.
#[derive(Debug, Clone, Copy)]
pub(super) struct PromptLookup {
    /// Fewest tokens that must be the same.
    pub(super) min_ngram: usize,
    /// More need not be.
    pub(super) max_ngram: usize,
}

impl PromptLookup {
    /// At most `len` tokens that may follow `tokens`; `prediction` is a text that they may resemble.
    fn guess(&self, tokens: &[u32], prediction: &[u32], len: usize) -> Draft {
        let Some((_, before)) = tokens.split_last().filter(|_| len > 0) else {
            return Draft::default();
        };
        let own = self.find(before, tokens);
        let predicted = self.find(prediction, tokens);
        // What somebody predicted for this answer says more than what was said in passing.
        match (own, predicted) {
            (own, Some(there)) if own.is_none_or(|own| there.len >= own.len) => {
                let rest = prediction[there.next..].iter();
                Draft {
                    tokens: rest.take(len).copied().collect(),
                    predicted: true,
                }
            }
            (Some(here), _) => Draft {
                tokens: go_on(tokens, here.next, len),
                predicted: false,
            },
            _ => Draft::default(),
        }
    }

    /// Where `text` last read as `tokens` do at their end; the longest likeness counts.
    fn find(&self, text: &[u32], tokens: &[u32]) -> Option<Likeness> {
        let (&last, before) = tokens.split_last()?;
        let mut best: Option<Likeness> = None;
        for at in (0..text.len()).rev().filter(|&at| text[at] == last) {
            let pairs = text[..at].iter().rev().zip(before.iter().rev());
            let same = pairs.take(self.max_ngram - 1).take_while(|(a, b)| a == b);
            let len = 1 + same.count();
            if len >= best.map_or(self.min_ngram, |best| best.len + 1) {
                best = Some(Likeness { len, next: at + 1 });
            }
            if len >= self.max_ngram {
                break;
            }
        }
        best
    }
}

/// A place in a text that reads like the end of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Likeness {
    /// Equal tokens, at most `max_ngram`.
    len: usize,
    /// Position after them.
    next: usize,
}

/// `len` tokens from a position on. Behind the last one the guess quotes itself, so a short pattern goes on as long as it is asked for.
fn go_on(tokens: &[u32], from: usize, len: usize) -> Vec<u32> {
    let mut guess: Vec<u32> = Vec::with_capacity(len);
    for at in from..from + len {
        let token = tokens.get(at).copied();
        guess.push(token.unwrap_or_else(|| guess[at - tokens.len()]));
    }
    guess
}

impl Drafter for PromptLookup {
    fn draft(&mut self, open: &[Context<'_>]) -> Result<Vec<Draft>, KernelError> {
        let guess = |c: &Context<'_>| self.guess(c.tokens, c.prediction, c.max_len);
        Ok(open.iter().map(guess).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LOOKUP: PromptLookup = PromptLookup {
        min_ngram: 2,
        max_ngram: 3,
    };

    #[test]
    fn what_followed_before_follows_again() {
        let cases: [(&[u32], &[u32]); 7] = [
            (&[1, 2, 3, 4, 5, 9, 2, 3], &[4, 5, 9, 2]),
            // The longer likeness, though the shorter one is nearer.
            (&[1, 2, 3, 4, 5, 2, 3, 6, 1, 2, 3], &[4, 5, 2, 3]),
            // Of two equal ones the nearer.
            (&[2, 3, 4, 2, 3, 6, 2, 3], &[6, 2, 3, 6]),
            // A pattern that repeats goes on.
            (&[9, 7, 8, 7, 8], &[7, 8, 7, 8]),
            (&[5, 5, 5], &[5, 5, 5, 5]),
            // One token alone says too little.
            (&[1, 2, 3, 2], &[]),
            (&[1], &[]),
        ];
        for (tokens, expected) in cases {
            let draft = LOOKUP.guess(tokens, &[], 4);
            assert_eq!(draft.tokens, expected, "{tokens:?}");
            assert!(!draft.predicted);
        }
        assert_eq!(LOOKUP.guess(&[5, 5, 5], &[], 0), Draft::default());
        assert_eq!(LOOKUP.guess(&[], &[1], 4), Draft::default());
    }

    #[test]
    fn a_prediction_is_quoted_where_the_answer_resembles_it() {
        let prediction = [1, 2, 3, 4, 5, 6, 7];
        let check = |tokens: &[u32], expected: &[u32], predicted: bool| {
            let draft = LOOKUP.guess(tokens, &prediction, 4);
            assert_eq!((&*draft.tokens, draft.predicted), (expected, predicted));
        };
        check(&[9, 2, 3], &[4, 5, 6, 7], true);
        // It is over.
        check(&[9, 6, 7], &[], true);
        // One token says too little.
        check(&[9, 1], &[], false);
        // It goes before what was said, but not if that is more alike.
        check(&[2, 3, 8, 2, 3], &[4, 5, 6, 7], true);
        check(&[9, 2, 3, 8, 9, 2, 3], &[8, 9, 2, 3], false);
    }

    /// The definition: for every length from the longest, every place from the nearest.
    fn by_definition(text: &[u32], tokens: &[u32]) -> Option<Likeness> {
        (LOOKUP.min_ngram..=LOOKUP.max_ngram).rev().find_map(|len| {
            let end = &tokens[tokens.len().checked_sub(len)?..];
            let at = text.windows(len).rposition(|window| window == end)?;
            let next = at + len;
            Some(Likeness { len, next })
        })
    }

    proptest! {
        #[test]
        fn the_longest_and_nearest_likeness_is_found(
            text in prop::collection::vec(0u32..3, 0..30),
            tokens in prop::collection::vec(0u32..3, 0..10),
        ) {
            prop_assert_eq!(LOOKUP.find(&text, &tokens), by_definition(&text, &tokens));
        }
    }
}
