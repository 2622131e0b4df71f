//! sentencepiece unigram: the segmentation whose pieces have the largest sum of scores (Viterbi).
//!
//! Follows `Model::EncodeOptimized` of `unigram_model.cc`, with a hash look-up per distinct piece length in place of its trie.

use super::SentencePiece;

/// How far below the worst piece an unknown character scores (`kUnkPenalty`).
const UNKNOWN_PENALTY: f32 = 10.0;

/// The best way to cut the text so that a piece ends here.
#[derive(Clone, Copy)]
struct Best {
    score: f32,
    start: usize,
}

/// Cuts normalised text into pieces of the vocabulary and single characters outside it.
pub(super) fn segment<'t>(model: &SentencePiece, text: &'t str) -> Vec<&'t str> {
    let unknown_score = model.min_score - UNKNOWN_PENALTY;
    let mut best: Vec<Option<Best>> = vec![None; text.len() + 1];
    for (start, first) in text.char_indices() {
        let score_here = if start == 0 {
            0.0
        } else {
            best[start].map_or(0.0, |best| best.score)
        };
        let mut offer = |end: usize, score: f64| {
            let score = (score + f64::from(score_here)) as f32;
            if best[end].is_none_or(|best| score > best.score) {
                best[end] = Some(Best { score, start });
            }
        };
        let mut has_single_character = false;
        for &len in &model.piece_lengths {
            let Some(piece) = text.get(start..start + len) else {
                continue;
            };
            let Some(&id) = model.pieces.get(piece).filter(|&&id| !model.is_unused(id)) else {
                continue;
            };
            let score = if model.user_defined.id(piece).is_some() {
                len as f64 * f64::from(model.max_score) - 0.1
            } else {
                f64::from(model.score(id))
            };
            offer(start + len, score);
            has_single_character |= len == first.len_utf8();
        }
        if !has_single_character {
            offer(start + first.len_utf8(), unknown_score.into());
        }
    }

    let mut pieces = Vec::new();
    let mut end = text.len();
    while end > 0 {
        // every boundary is reached at least by the single character before it
        let start = best[end].map_or(0, |best| best.start);
        pieces.push(&text[start..end]);
        end = start;
    }
    pieces.reverse();
    pieces
}
