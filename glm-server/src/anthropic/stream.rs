//! Answers as they come: events of the engine to those of a message.

use glm_runtime::{EngineHandle, Event};
use serde_json::{Value, json};

use super::response::{MessageForm, Thoughts, signature, stop, usage};
use crate::openai::{ApiError, Form, Stamp};
use crate::parts::{Part, PartKind, Parts, Step};

/// Makes the events of one message. Put together they are what [`MessageForm::response`] says of the same answer.
#[derive(Debug)]
pub(crate) struct MessageEvents {
    message: MessageForm,
    form: Form,
    engine: EngineHandle,
    stamp: Stamp,
    parts: Parts,
    /// Number of the next block.
    next: usize,
}

impl MessageEvents {
    pub(crate) fn new(
        message: MessageForm,
        form: Form,
        engine: &EngineHandle,
        stamp: Stamp,
    ) -> Self {
        Self {
            parts: message.parts(&form),
            message,
            form,
            engine: engine.clone(),
            stamp,
            next: 0,
        }
    }

    /// What comes before the answer.
    pub(crate) fn begin(&self) -> Vec<Value> {
        let message = self.message.message(&self.form, &self.engine, &self.stamp);
        vec![
            json!({"type": "message_start", "message": message}),
            json!({"type": "ping"}),
        ]
    }

    /// The events that the next one of the answer leads to.
    ///
    /// # Errors
    /// The error of [`Event::Failed`]: the stream ends with it.
    pub(crate) fn push(&mut self, event: Event) -> Result<Vec<Value>, glm_runtime::EngineError> {
        match event {
            Event::Failed(error) => Err(error),
            Event::Token(token) => {
                let steps = self.parts.push(&token.text);
                Ok(self.steps(steps))
            }
            Event::Finished(finished) => {
                let steps = self.parts.finish();
                let mut events = self.steps(steps);
                let (reason, sequence) = stop(&finished, self.parts.has_calls());
                events.push(json!({
                    "type": "message_delta",
                    "delta": {"stop_reason": reason, "stop_sequence": sequence},
                    "usage": usage(&finished.usage, self.parts.thought_tokens()),
                }));
                events.push(json!({"type": "message_stop"}));
                Ok(events)
            }
        }
    }

    /// The event that says what went wrong.
    pub(crate) fn fail(error: &ApiError) -> Value {
        super::error_body(error, None)
    }

    fn steps(&mut self, steps: Vec<Step>) -> Vec<Value> {
        steps.into_iter().flat_map(|step| self.step(step)).collect()
    }

    fn step(&mut self, step: Step) -> Vec<Value> {
        let index = self.next;
        let delta =
            |delta: Value| json!({"type": "content_block_delta", "index": index, "delta": delta});
        match step {
            Step::Begin(part) => {
                let mut block = self.message.block(index, &part, &self.stamp);
                if matches!(part, Part::Thought(_)) {
                    // It comes at the end of the thought, as a delta.
                    block["signature"] = "".into();
                }
                vec![json!({"type": "content_block_start", "index": index, "content_block": block})]
            }
            Step::More(kind, text) => match kind {
                PartKind::Text => vec![delta(json!({"type": "text_delta", "text": text}))],
                PartKind::Call => {
                    vec![delta(
                        json!({"type": "input_json_delta", "partial_json": text}),
                    )]
                }
                PartKind::Thought if self.message.thoughts == Thoughts::Shown => {
                    vec![delta(json!({"type": "thinking_delta", "thinking": text}))]
                }
                PartKind::Thought => Vec::new(),
            },
            Step::End(part) => {
                self.next += 1;
                let mut events = Vec::new();
                if matches!(part, Part::Thought(_)) {
                    let signature = signature(&self.stamp);
                    events.push(delta(
                        json!({"type": "signature_delta", "signature": signature}),
                    ));
                }
                events.push(json!({"type": "content_block_stop", "index": index}));
                events
            }
        }
    }
}
