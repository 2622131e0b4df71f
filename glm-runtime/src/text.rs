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
}

impl TextStream {
    pub(crate) fn new(tokenizer: &Tokenizer, options: &GenerateOptions) -> Self {
        Self {
            decode: tokenizer.decode_stream(options.skip_special_tokens),
            stop: StopFilter::new(&options.stop),
        }
    }

    /// One more token.
    pub(crate) fn push(&mut self, id: u32) -> Piece {
        let text = self.decode.push(id).unwrap_or_default();
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
    stopped: bool,
}

impl StopFilter {
    fn new(stops: &[String]) -> Self {
        Self {
            stops: stops.to_vec(),
            held: String::new(),
            stopped: false,
        }
    }

    fn push(&mut self, text: &str) -> Piece {
        if self.stopped {
            return Piece {
                text: String::new(),
                stopped: true,
            };
        }
        self.held.push_str(text);
        if let Some(at) = first_stop(&self.held, &self.stops) {
            self.held.truncate(at);
            self.stopped = true;
            return Piece {
                text: std::mem::take(&mut self.held),
                stopped: true,
            };
        }
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

/// Where the stop string that is complete first begins.
fn first_stop(text: &str, stops: &[String]) -> Option<usize> {
    let found = stops
        .iter()
        .filter_map(|stop| text.find(stop.as_str()).map(|at| (at + stop.len(), at)));
    found.min().map(|(_, at)| at)
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
            let first = first_stop(&whole, &stops);
            let expected = whole[..first.unwrap_or(whole.len())].to_owned();
            prop_assert_eq!(run(&stops, &pieces), (expected, first.is_some()));
        }
    }
}
