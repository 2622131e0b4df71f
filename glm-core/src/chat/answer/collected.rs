//! [`Answer`]: a whole answer, put together from its events.

use super::AnswerEvent;

/// An answer, as far as it has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// What the model thought; `None` if it did not.
    pub reasoning: Option<String>,
    /// What it says.
    pub content: String,
    /// The tools it calls.
    pub calls: Vec<AnswerCall>,
}

/// A call in an [`Answer`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AnswerCall {
    /// The tool's name.
    pub name: String,
    /// JSON text of an object; its beginning if the call is not complete.
    pub arguments: String,
    /// Whether the model has written the call to its end.
    pub complete: bool,
}

impl Answer {
    /// Adds what one more event says.
    pub fn push(&mut self, event: AnswerEvent) {
        match event {
            AnswerEvent::Reasoning(text) => {
                self.reasoning.get_or_insert_default().push_str(&text);
            }
            AnswerEvent::Content(text) => self.content.push_str(&text),
            AnswerEvent::CallStart { name, .. } => self.calls.push(AnswerCall {
                name,
                ..AnswerCall::default()
            }),
            AnswerEvent::CallArguments { index, json } => {
                if let Some(call) = self.calls.get_mut(index) {
                    call.arguments.push_str(&json);
                }
            }
            AnswerEvent::CallEnd { index } => {
                if let Some(call) = self.calls.get_mut(index) {
                    call.complete = true;
                }
            }
        }
    }
}

impl Extend<AnswerEvent> for Answer {
    fn extend<I: IntoIterator<Item = AnswerEvent>>(&mut self, events: I) {
        events.into_iter().for_each(|event| self.push(event));
    }
}
