//! Tells a model's thinking from its answer while both stream by, to show them differently.

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// A piece of streamed text.
#[derive(Debug, PartialEq, Eq)]
pub enum Part {
    /// Between `<think>` and `</think>`.
    Thinking(String),
    /// Everything else.
    Answer(String),
}

/// Splits a stream of text at `<think>` and `</think>`; a marker may arrive in pieces.
#[derive(Debug, Default)]
pub struct ThinkingSplitter {
    thinking: bool,
    /// Nothing of the answer has been seen: blank lines between thinking and answer are not part of it.
    before_answer: bool,
    held: String,
}

impl ThinkingSplitter {
    /// `thinking`: the prompt ended with `<think>`, so the text starts inside.
    pub fn new(thinking: bool) -> Self {
        Self {
            thinking,
            before_answer: true,
            held: String::new(),
        }
    }

    /// Takes more text; returns what is certain by now.
    pub fn push(&mut self, text: &str) -> Vec<Part> {
        self.held.push_str(text);
        let mut parts = Vec::new();
        while let Some(at) = self.held.find(self.marker()) {
            let rest = self.held.split_off(at + self.marker().len());
            self.held.truncate(at);
            self.emit(&mut parts);
            self.held = rest;
            self.thinking = !self.thinking;
        }
        let safe = self.held.len() - partial_marker(&self.held, self.marker());
        let rest = self.held.split_off(safe);
        self.emit(&mut parts);
        self.held = rest;
        parts
    }

    /// The stream is over: what was held back is text.
    pub fn finish(mut self) -> Vec<Part> {
        let mut parts = Vec::new();
        self.emit(&mut parts);
        parts
    }

    fn marker(&self) -> &'static str {
        if self.thinking { CLOSE } else { OPEN }
    }

    fn emit(&mut self, parts: &mut Vec<Part>) {
        let mut text = std::mem::take(&mut self.held);
        if !self.thinking && self.before_answer {
            text = text.trim_start().to_owned();
            self.before_answer = text.is_empty();
        }
        if !text.is_empty() {
            parts.push(if self.thinking {
                Part::Thinking(text)
            } else {
                Part::Answer(text)
            });
        }
    }
}

/// Length of the longest end of `text` that `marker` could start with.
fn partial_marker(text: &str, marker: &str) -> usize {
    (1..marker.len())
        .rev()
        .find(|&len| text.ends_with(&marker[..len]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(inside: bool, pieces: &[&str]) -> (String, String) {
        let mut splitter = ThinkingSplitter::new(inside);
        let mut parts: Vec<_> = pieces
            .iter()
            .flat_map(|piece| splitter.push(piece))
            .collect();
        parts.extend(splitter.finish());
        let (mut thinking, mut answer) = (String::new(), String::new());
        for part in parts {
            match part {
                Part::Thinking(text) => thinking += &text,
                Part::Answer(text) => answer += &text,
            }
        }
        (thinking, answer)
    }

    #[test]
    fn the_split_does_not_depend_on_the_pieces() {
        let text = "<think>a < b</think>\n\nso <b>";
        let expected = ("a < b".to_owned(), "so <b>".to_owned());
        assert_eq!(split(false, &[text]), expected);
        let letters: Vec<_> = text.split("").collect();
        assert_eq!(split(false, &letters), expected);
    }

    #[test]
    fn a_prompt_may_have_opened_the_thinking() {
        assert_eq!(
            split(true, &["why</th", "ink>because"]),
            ("why".into(), "because".into())
        );
    }

    #[test]
    fn text_that_only_looks_like_a_marker_is_kept() {
        assert_eq!(
            split(false, &["a <thin", "g"]),
            (String::new(), "a <thing".into())
        );
        assert_eq!(
            split(false, &["end <thi"]),
            (String::new(), "end <thi".into())
        );
    }
}
