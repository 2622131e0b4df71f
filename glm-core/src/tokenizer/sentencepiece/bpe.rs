//! sentencepiece BPE: characters are merged pairwise, the pair whose joined piece has the best score first.
//!
//! Follows `bpe_model.cc`; llama.cpp's `llama` tokenizer is the same algorithm.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use super::SentencePiece;

/// A stretch of the text that is one symbol so far; empty once merged into its left neighbour.
struct Symbol {
    start: usize,
    len: usize,
    prev: Option<usize>,
    next: Option<usize>,
    /// A user-defined piece, which takes part in no merge.
    frozen: bool,
}

/// A possible merge of symbol `left` with its right neighbour, `len` bytes together when it was found.
struct Candidate {
    score: f32,
    left: usize,
    right: usize,
    len: usize,
}

impl Ord for Candidate {
    /// Best score first, then leftmost.
    fn cmp(&self, other: &Self) -> Ordering {
        self.score
            .total_cmp(&other.score)
            .then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}

/// Cuts normalised text into pieces of the vocabulary and single characters outside it.
pub(super) fn segment<'t>(model: &SentencePiece, text: &'t str) -> Vec<&'t str> {
    let mut merger = Merger {
        model,
        text,
        symbols: initial_symbols(model, text),
        agenda: BinaryHeap::new(),
        unused: HashMap::new(),
    };
    merger.merge_all();
    merger.into_pieces()
}

fn initial_symbols(model: &SentencePiece, text: &str) -> Vec<Symbol> {
    let mut symbols: Vec<Symbol> = Vec::with_capacity(text.len());
    let mut start = 0;
    while let Some(first) = text[start..].chars().next() {
        let user_defined = model.user_defined.match_at_start(&text[start..]);
        let len = user_defined.unwrap_or(first.len_utf8());
        let index = symbols.len();
        symbols.push(Symbol {
            start,
            len,
            prev: index.checked_sub(1),
            next: None,
            frozen: user_defined.is_some(),
        });
        if let Some(prev) = index.checked_sub(1) {
            symbols[prev].next = Some(index);
        }
        start += len;
    }
    symbols
}

struct Merger<'m, 't> {
    model: &'m SentencePiece,
    text: &'t str,
    symbols: Vec<Symbol>,
    agenda: BinaryHeap<Candidate>,
    /// For merges that made an unused piece: where it comes apart again, in bytes.
    unused: HashMap<&'t str, usize>,
}

impl<'t> Merger<'_, 't> {
    fn merge_all(&mut self) {
        for left in 0..self.symbols.len() {
            self.propose(Some(left), self.symbols[left].next);
        }
        while let Some(Candidate {
            left, right, len, ..
        }) = self.agenda.pop()
        {
            let (left_len, right_len) = (self.symbols[left].len, self.symbols[right].len);
            // either side has been merged with something else since
            if left_len == 0 || right_len == 0 || left_len + right_len != len {
                continue;
            }
            let next = self.symbols[right].next;
            self.symbols[right].len = 0;
            self.symbols[left].len = len;
            self.symbols[left].next = next;
            if let Some(next) = next {
                self.symbols[next].prev = Some(left);
            }
            self.propose(self.symbols[left].prev, Some(left));
            self.propose(Some(left), next);
        }
    }

    /// Puts a pair on the agenda if it makes a piece.
    fn propose(&mut self, left: Option<usize>, right: Option<usize>) {
        let (Some(left), Some(right)) = (left, right) else {
            return;
        };
        let (l, r) = (&self.symbols[left], &self.symbols[right]);
        if l.frozen || r.frozen {
            return;
        }
        let (split, len) = (l.len, l.len + r.len);
        let piece = &self.text[l.start..l.start + len];
        let Some(&id) = self.model.pieces.get(piece) else {
            return;
        };
        self.agenda.push(Candidate {
            score: self.model.score(id),
            left,
            right,
            len,
        });
        if self.model.is_unused(id) {
            self.unused.insert(piece, split);
        }
    }

    /// The surviving symbols, with unused pieces taken apart the way they were made.
    fn into_pieces(self) -> Vec<&'t str> {
        let mut pieces = Vec::new();
        let mut stack = Vec::new();
        for symbol in self.symbols.iter().filter(|symbol| symbol.len > 0) {
            stack.push(&self.text[symbol.start..symbol.start + symbol.len]);
            while let Some(piece) = stack.pop() {
                let unused = self
                    .model
                    .pieces
                    .get(piece)
                    .is_some_and(|&id| self.model.is_unused(id));
                match self.unused.get(piece).filter(|_| unused) {
                    Some(&split) => stack.extend([&piece[split..], &piece[..split]]),
                    None => pieces.push(piece),
                }
            }
        }
        pieces
    }
}
