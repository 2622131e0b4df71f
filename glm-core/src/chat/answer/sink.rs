//! [`Sink`]: where the parts of an answer go. It joins what belongs together and leaves out the white space of the format.

use super::AnswerEvent;

#[derive(Debug, Clone)]
pub(super) struct Sink {
    events: Vec<AnswerEvent>,
    /// White space that is shown if text of the same kind follows.
    blanks: String,
    /// Blanks before the first text belong to the format, not only line ends.
    trims_blanks: bool,
    /// There was a thought, or there is.
    thought: bool,
    reasoned: bool,
    said: bool,
    /// The last that happened was the end of a call.
    after_call: bool,
    calls: usize,
}

impl Sink {
    pub(super) fn new(trims_blanks: bool) -> Self {
        Self {
            events: Vec::new(),
            blanks: String::new(),
            trims_blanks,
            thought: false,
            reasoned: false,
            said: false,
            after_call: false,
            calls: 0,
        }
    }

    /// The text has begun before.
    pub(super) fn go_on(&mut self) {
        self.said = true;
    }

    pub(super) fn take(&mut self) -> Vec<AnswerEvent> {
        std::mem::take(&mut self.events)
    }

    /// The events that are left; blanks at the end of a text are part of it.
    pub(super) fn finish(mut self) -> Vec<AnswerEvent> {
        if self.said && !self.after_call {
            let blanks = std::mem::take(&mut self.blanks);
            self.content().push_str(&blanks);
        }
        self.events.retain(|event| match event {
            AnswerEvent::Content(text) => !text.is_empty(),
            _ => true,
        });
        self.events
    }

    /// White space that may belong to a text or to the format.
    pub(super) fn blank(&mut self, c: char) {
        self.blanks.push(c);
    }

    pub(super) fn forget_blanks(&mut self) {
        self.blanks.clear();
    }

    pub(super) fn reason(&mut self, text: &str) {
        text.chars().for_each(|c| self.reason_char(c));
    }

    pub(super) fn reason_char(&mut self, c: char) {
        if c.is_whitespace() {
            self.blank(c);
            return;
        }
        let blanks = std::mem::take(&mut self.blanks);
        if !matches!(self.events.last(), Some(AnswerEvent::Reasoning(_))) {
            self.events.push(AnswerEvent::Reasoning(String::new()));
        }
        if let Some(AnswerEvent::Reasoning(text)) = self.events.last_mut() {
            if std::mem::replace(&mut self.reasoned, true) {
                text.push_str(&blanks);
            }
            text.push(c);
        }
    }

    pub(super) fn end_reasoning(&mut self) {
        self.blanks.clear();
        self.thought = true;
    }

    pub(super) fn say(&mut self, text: &str) {
        text.chars().for_each(|c| self.say_char(c));
    }

    pub(super) fn say_char(&mut self, c: char) {
        if c.is_whitespace() {
            self.blank(c);
            return;
        }
        let mut blanks = std::mem::take(&mut self.blanks);
        if !self.said {
            let all = self.thought || self.trims_blanks || self.calls > 0;
            let lines = blanks.rfind('\n').map_or(0, |at| at + 1);
            blanks.drain(..if all { blanks.len() } else { lines });
        }
        (self.said, self.after_call) = (true, false);
        let text = self.content();
        text.push_str(&blanks);
        text.push(c);
    }

    /// The text that goes on, or a new one.
    fn content(&mut self) -> &mut String {
        if !matches!(self.events.last(), Some(AnswerEvent::Content(_))) {
            self.events.push(AnswerEvent::Content(String::new()));
        }
        match self.events.last_mut() {
            Some(AnswerEvent::Content(text)) => text,
            _ => unreachable!("pushed above"),
        }
    }

    /// A call begins; its index is that of [`Self::arguments`] until the next one.
    pub(super) fn start_call(&mut self, name: &str) {
        self.blanks.clear();
        self.after_call = false;
        self.events.push(AnswerEvent::CallStart {
            index: self.calls,
            name: name.to_owned(),
        });
        self.calls += 1;
    }

    /// The JSON text of the call's arguments, to be appended to.
    pub(super) fn arguments(&mut self) -> &mut String {
        let current = self.calls.saturating_sub(1);
        if !matches!(self.events.last(), Some(AnswerEvent::CallArguments { .. })) {
            self.events.push(AnswerEvent::CallArguments {
                index: current,
                json: String::new(),
            });
        }
        match self.events.last_mut() {
            Some(AnswerEvent::CallArguments { json, .. }) => json,
            _ => unreachable!("pushed above"),
        }
    }

    pub(super) fn end_call(&mut self) {
        self.blanks.clear();
        self.after_call = true;
        self.events.push(AnswerEvent::CallEnd {
            index: self.calls.saturating_sub(1),
        });
    }
}

/// Appends a character of a JSON string.
pub(super) fn push_escaped(json: &mut String, c: char) {
    match c {
        '"' => json.push_str("\\\""),
        '\\' => json.push_str("\\\\"),
        '\n' => json.push_str("\\n"),
        '\r' => json.push_str("\\r"),
        '\t' => json.push_str("\\t"),
        '\0'..='\u{1f}' => json.push_str(&format!("\\u{:04x}", u32::from(c))),
        _ => json.push(c),
    }
}

/// The JSON string of `text`.
pub(super) fn quoted(text: &str) -> String {
    let mut json = String::with_capacity(text.len() + 2);
    json.push('"');
    text.chars().for_each(|c| push_escaped(&mut json, c));
    json.push('"');
    json
}
