//! Answers as a row of parts, for the dialects that have thoughts, texts and calls side by side.

use glm_core::chat::{AnswerEvent, AnswerParser};

/// A part of an answer, as far as it has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    /// What the model thinks.
    Thought(String),
    /// What it says.
    Text(String),
    /// The tool that it calls.
    Call {
        name: String,
        /// JSON text; its beginning if `complete` is false.
        arguments: String,
        complete: bool,
    },
}

/// What a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PartKind {
    Thought,
    Text,
    Call,
}

/// What more text does to the parts. Parts follow each other: one ends before the next begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// A part begins; nothing is in it yet.
    Begin(Part),
    /// The part of this kind grows by this text.
    More(PartKind, String),
    /// It is complete.
    End(Part),
}

/// Takes one answer apart.
#[derive(Debug)]
pub(crate) struct Parts {
    /// `None` when the answer has ended.
    parser: Option<AnswerParser>,
    with_thoughts: bool,
    open: Option<Part>,
    has_calls: bool,
    pushed: usize,
    thought: usize,
}

impl Parts {
    /// Nothing yet of an answer that `parser` takes apart; `with_thoughts`: thoughts are parts too.
    pub(crate) fn new(parser: AnswerParser, with_thoughts: bool) -> Self {
        Self {
            parser: Some(parser),
            with_thoughts,
            open: None,
            has_calls: false,
            pushed: 0,
            thought: 0,
        }
    }

    /// The parts of a whole answer, given as the texts of its tokens.
    pub(crate) fn whole<'a>(&mut self, texts: impl IntoIterator<Item = &'a str>) -> Vec<Part> {
        let mut steps = Vec::new();
        for text in texts {
            steps.extend(self.push(text));
        }
        steps.extend(self.finish());
        let ended = steps.into_iter().filter_map(|step| match step {
            Step::End(part) => Some(part),
            _ => None,
        });
        ended.collect()
    }

    /// The text of one more token.
    pub(crate) fn push(&mut self, text: &str) -> Vec<Step> {
        let events = match &mut self.parser {
            Some(parser) => parser.push(text),
            None => Vec::new(),
        };
        self.pushed += 1;
        if has_thoughts(&events) {
            self.thought = self.pushed;
        }
        self.steps(events)
    }

    /// The end of the answer.
    pub(crate) fn finish(&mut self) -> Vec<Step> {
        let Some(parser) = self.parser.take() else {
            return Vec::new();
        };
        let mut steps = self.steps(parser.finish());
        steps.extend(self.close(false));
        steps
    }

    /// Whether a tool is called.
    pub(crate) fn has_calls(&self) -> bool {
        self.has_calls
    }

    /// Tokens up to the last one of the thoughts, shown or not.
    pub(crate) fn thought_tokens(&self) -> usize {
        self.thought
    }

    fn steps(&mut self, events: Vec<AnswerEvent>) -> Vec<Step> {
        let mut steps = Vec::new();
        for event in events {
            match event {
                AnswerEvent::Reasoning(_) if !self.with_thoughts => {}
                AnswerEvent::Reasoning(text) => {
                    let is_open = matches!(self.open, Some(Part::Thought(_)));
                    self.more(is_open, Part::Thought(String::new()), text, &mut steps);
                }
                AnswerEvent::Content(text) => {
                    let is_open = matches!(self.open, Some(Part::Text(_)));
                    self.more(is_open, Part::Text(String::new()), text, &mut steps);
                }
                AnswerEvent::CallStart { name, .. } => {
                    self.has_calls = true;
                    self.begin(
                        Part::Call {
                            name,
                            arguments: String::new(),
                            complete: false,
                        },
                        &mut steps,
                    );
                }
                AnswerEvent::CallArguments { json, .. } => self.grow(json, &mut steps),
                AnswerEvent::CallEnd { .. } => steps.extend(self.close(true)),
                _ => {}
            }
        }
        steps
    }

    fn more(&mut self, is_open: bool, empty: Part, text: String, steps: &mut Vec<Step>) {
        if !is_open {
            self.begin(empty, steps);
        }
        self.grow(text, steps);
    }

    fn begin(&mut self, part: Part, steps: &mut Vec<Step>) {
        steps.extend(self.close(false));
        self.open = Some(part.clone());
        steps.push(Step::Begin(part));
    }

    fn grow(&mut self, more: String, steps: &mut Vec<Step>) {
        let (kind, text) = match &mut self.open {
            Some(Part::Thought(text)) => (PartKind::Thought, text),
            Some(Part::Text(text)) => (PartKind::Text, text),
            Some(Part::Call { arguments, .. }) => (PartKind::Call, arguments),
            None => return,
        };
        text.push_str(&more);
        steps.push(Step::More(kind, more));
    }

    /// Ends the open part; `whole`: it is a call, and all of it is there.
    fn close(&mut self, whole: bool) -> Option<Step> {
        let mut part = self.open.take()?;
        if let Part::Call { complete, .. } = &mut part {
            *complete = whole;
        }
        Some(Step::End(part))
    }
}

/// Whether some of what a token says is thought.
pub(crate) fn has_thoughts(events: &[AnswerEvent]) -> bool {
    let is_thought = |event: &AnswerEvent| matches!(event, AnswerEvent::Reasoning(_));
    events.iter().any(is_thought)
}

#[cfg(test)]
mod tests {
    use super::*;
    use glm_core::chat::CallFormat;
    use proptest::prelude::*;
    use serde_json::json;

    fn parts() -> Parts {
        let tools = [
            json!({"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}),
        ];
        let format = CallFormat::Tagged { lines: true };
        Parts::new(AnswerParser::new(Some(format), &tools, false), true)
    }

    const ANSWER: &str = "<think>so</think>Hi <tool_call>f\n</tool_call><tool_call>f\n<arg_key>一</arg_key>\n\
        <arg_value>{\"a\": [1]}</arg_value>\n</tool_call> and";

    #[test]
    fn parts_are_in_the_order_of_the_answer() {
        let call = |arguments: &str, complete| Part::Call {
            name: "f".to_owned(),
            arguments: arguments.to_owned(),
            complete,
        };
        let all = parts().whole([ANSWER]);
        assert_eq!(
            (&all[0], &all[1], &all[2]),
            (
                &Part::Thought("so".to_owned()),
                &Part::Text("Hi".to_owned()),
                &call("{}", true)
            )
        );
        assert!(matches!(&all[3], Part::Call { complete: true, .. }));
        assert_eq!(&all[4..], [Part::Text(" and".to_owned())]);
        let cut = parts().whole(["<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>{\"b"]);
        assert!(
            matches!(
                &cut[..],
                [Part::Call {
                    complete: false,
                    ..
                }]
            ),
            "{cut:?}"
        );
        assert_eq!(
            parts().whole(["<think>not done"]),
            [Part::Thought("not done".to_owned())]
        );
    }

    proptest! {
        #[test]
        fn however_an_answer_is_cut_its_parts_are_the_same(cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20), end in any::<prop::sample::Index>()) {
            let chars: Vec<char> = ANSWER.chars().collect();
            let text: String = chars[..=end.index(chars.len())].iter().collect();
            let pieces = crate::testing::pieces(&text, &cuts);
            let expected = parts().whole([text.as_str()]);
            prop_assert_eq!(parts().whole(pieces.iter().map(String::as_str)), expected.clone());
            // And what a client puts together of the steps is what they end with.
            let mut all = parts();
            let mut steps: Vec<Step> = pieces.iter().flat_map(|piece| all.push(piece)).collect();
            steps.extend(all.finish());
            let mut grown = Vec::new();
            for step in steps {
                match step {
                    Step::Begin(_) => grown.push(String::new()),
                    Step::More(_, text) => grown.last_mut().unwrap().push_str(&text),
                    Step::End(Part::Thought(text) | Part::Text(text) | Part::Call { arguments: text, .. }) => {
                        prop_assert_eq!(&text, grown.last().unwrap());
                    }
                }
            }
            prop_assert_eq!(grown.len(), expected.len());
        }
    }
}
