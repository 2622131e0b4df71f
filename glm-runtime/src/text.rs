//! The edge between token ids and text: incremental decoding and stop strings.

use glm_core::Tokenizer;
use glm_core::tokenizer::DecodeStream;

use crate::request::GenerateOptions;

/// Text that became certain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) text: String,
    /// A stop string begins right after `text`; nothing more will come.
    pub(crate) stopped: bool,
}

/// The text of one answer, piece by piece.
pub(crate) struct TextStream {
    decode: DecodeStream,
    stop: StopFilter,
    /// Tokens whose text cannot end the answer.
    before_stop: usize,
}

impl TextStream {
    pub(crate) fn new(tokenizer: &Tokenizer, options: &GenerateOptions) -> Self {
        Self {
            decode: tokenizer.decode_stream(options.skip_special_tokens),
            stop: StopFilter::new(&options.stop),
            before_stop: options.min_tokens,
        }
    }

    /// One more token.
    pub(crate) fn push(&mut self, id: u32) -> Piece {
        let text = self.decode.push(id).unwrap_or_default();
        if self.before_stop > 0 {
            self.before_stop -= 1;
            return self.stop.pass(&text);
        }
        self.stop.push(&text)
    }

    /// The last token: nothing is held back after it.
    pub(crate) fn push_last(&mut self, id: u32) -> Piece {
        let first = self.push(id);
        let rest = self.finish();
        Piece {
            text: first.text + &rest.text,
            stopped: first.stopped || rest.stopped,
        }
    }

    /// The stop string that ended the text.
    pub(crate) fn stop_string(&self) -> Option<&str> {
        self.stop.found.map(|stop| self.stop.stops[stop].as_str())
    }

    /// The end without a further token.
    pub(crate) fn finish(&mut self) -> Piece {
        let text = self.decode.finish().unwrap_or_default();
        let first = self.stop.push(&text);
        if first.stopped {
            return first;
        }
        Piece {
            text: first.text + &self.stop.finish(),
            stopped: false,
        }
    }
}

/// Cuts text before the first stop string to be complete (of several that end together, the one that begins first). It may
/// be spread over any number of pieces: what could still become one is held back.
#[derive(Debug, Clone)]
struct StopFilter {
    stops: Vec<String>,
    held: String,
    /// Which of them was found.
    found: Option<usize>,
}

impl StopFilter {
    fn new(stops: &[String]) -> Self {
        Self {
            stops: stops.to_vec(),
            held: String::new(),
            found: None,
        }
    }

    fn push(&mut self, text: &str) -> Piece {
        if self.found.is_some() {
            return Piece {
                text: String::new(),
                stopped: true,
            };
        }
        let seen = self.held.len();
        self.held.push_str(text);
        if let Some((at, stop)) = first_stop(&self.held, &self.stops, seen) {
            self.held.truncate(at);
            self.found = Some(stop);
            return Piece {
                text: std::mem::take(&mut self.held),
                stopped: true,
            };
        }
        self.show()
    }

    /// As [`Self::push`] for text that completes no stop string; one may begin in it.
    fn pass(&mut self, text: &str) -> Piece {
        self.held.push_str(text);
        self.show()
    }

    /// What can no longer become a part of a stop string.
    fn show(&mut self) -> Piece {
        let keep = self
            .stops
            .iter()
            .map(|stop| overlap(&self.held, stop))
            .max()
            .unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        Piece {
            text: std::mem::replace(&mut self.held, rest),
            stopped: false,
        }
    }

    /// What was held back was no stop string after all.
    fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Where the stop string begins that is complete first, of those that are not complete in the first `seen` bytes, and its number.
fn first_stop(text: &str, stops: &[String], seen: usize) -> Option<(usize, usize)> {
    let found = stops.iter().enumerate().filter_map(|(number, stop)| {
        let first = text.ceil_char_boundary((seen + 1).saturating_sub(stop.len()));
        let at = first + text[first..].find(stop.as_str())?;
        Some((at + stop.len(), at, number))
    });
    found.min().map(|(_, at, number)| (at, number))
}

/// Bytes of the longest end of `text` that is a proper beginning of `stop`.
fn overlap(text: &str, stop: &str) -> usize {
    let longest = text.len().min(stop.len().saturating_sub(1));
    // Comparing bytes finds no false match: both are UTF-8, and a character boundary in one is one in the other.
    let ends_with = |len: &usize| {
        stop.is_char_boundary(*len) && text.as_bytes().ends_with(&stop.as_bytes()[..*len])
    };
    (1..=longest).rev().find(ends_with).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(stops: &[String], pieces: &[String]) -> (String, bool) {
        let mut filter = StopFilter::new(stops);
        let mut shown = String::new();
        for piece in pieces {
            let piece = filter.push(piece);
            shown.push_str(&piece.text);
            if piece.stopped {
                return (shown, true);
            }
        }
        (shown + &filter.finish(), false)
    }

    #[test]
    fn a_stop_string_across_pieces_never_shows() {
        let stops = ["END".to_owned()];
        let mut filter = StopFilter::new(&stops);
        let shown: Vec<_> = ["a E", "N", "X E", "ND b"]
            .iter()
            .map(|p| filter.push(p))
            .collect();
        let texts: Vec<_> = shown.iter().map(|p| p.text.as_str()).collect();
        assert_eq!(texts, ["a ", "", "ENX ", ""]);
        assert!(shown[3].stopped);
        assert_eq!(
            filter.push("more"),
            Piece {
                text: String::new(),
                stopped: true
            }
        );
    }

    proptest! {
        #[test]
        fn pieces_show_what_the_whole_text_before_the_first_stop_is(
            stops in prop::collection::vec("[ab一]{1,4}", 0..3),
            pieces in prop::collection::vec("[abc一二]{0,4}", 0..12),
        ) {
            let whole = pieces.concat();
            let first = first_stop(&whole, &stops, 0);
            let expected = whole[..first.map_or(whole.len(), |(at, _)| at)].to_owned();
            prop_assert_eq!(run(&stops, &pieces), (expected, first.is_some()));
            if let Some((at, stop)) = first {
                prop_assert!(whole[at..].starts_with(&stops[stop]));
            }
        }

        #[test]
        fn a_stop_string_counts_only_if_it_ends_after_the_text_that_cannot_stop(
            stops in prop::collection::vec("[ab一]{1,4}", 0..3),
            passed in prop::collection::vec("[ab一]{0,4}", 0..6),
            pieces in prop::collection::vec("[ab一]{0,4}", 0..6),
        ) {
            let before = passed.concat().len();
            let whole = passed.concat() + &pieces.concat();
            let places = whole.char_indices().map(|(at, _)| at);
            let ends = places.flat_map(|at| {
                let here = stops.iter().filter(|stop| whole[at..].starts_with(stop.as_str()));
                here.map(|stop| (at + stop.len(), at)).collect::<Vec<_>>()
            });
            let first = ends.filter(|&(end, _)| end > before).min();
            let mut filter = StopFilter::new(&stops);
            let mut shown: String = passed.iter().map(|piece| filter.pass(piece).text).collect();
            let mut stopped = false;
            for piece in &pieces {
                let piece = filter.push(piece);
                shown += &piece.text;
                stopped |= piece.stopped;
            }
            shown += &filter.finish();
            let at = first.map_or(whole.len(), |(_, at)| at);
            prop_assert_eq!(&shown, &whole[..at]);
            prop_assert_eq!(stopped, first.is_some());
        }
    }
}
