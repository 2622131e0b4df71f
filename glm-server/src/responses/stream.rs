//! Answers as they come: events of the engine to those of a response.

use glm_runtime::{EngineError, EngineHandle, Event, FinishReason, Finished};
use serde_json::{Value, json};

use super::response::{End, ResponseForm, content, item, item_id, status_of_item};
use crate::openai::{ApiError, Form, Stamp};
use crate::parts::{Part, PartKind, Parts, Step};

/// Makes the events of one response. Put together they are what [`ResponseForm::response`] says of the same answer, and the last one
/// has all of it.
#[derive(Debug)]
pub(crate) struct ResponseEvents {
    response: ResponseForm,
    form: Form,
    engine: EngineHandle,
    stamp: Stamp,
    parts: Parts,
    /// Items that are complete.
    output: Vec<Value>,
    /// Id of the open item.
    item_id: String,
    sequence_number: u64,
}

impl ResponseEvents {
    pub(crate) fn new(
        response: ResponseForm,
        form: Form,
        engine: &EngineHandle,
        stamp: Stamp,
    ) -> Self {
        Self {
            response,
            parts: Parts::new(form.parser(), true),
            form,
            engine: engine.clone(),
            stamp,
            output: Vec::new(),
            item_id: String::new(),
            sequence_number: 0,
        }
    }

    /// What comes before the answer.
    pub(crate) fn begin(&mut self) -> Vec<Value> {
        let model = self.form.model(&self.engine);
        let response = self.response.begun(model, &self.stamp);
        self.numbered(vec![
            json!({"type": "response.created", "response": response}),
            json!({"type": "response.in_progress", "response": response}),
        ])
    }

    /// The events that the next one of the answer leads to.
    ///
    /// # Errors
    /// The error of [`Event::Failed`]: the stream ends with it.
    pub(crate) fn push(&mut self, event: Event) -> Result<Vec<Value>, EngineError> {
        let events = match event {
            Event::Failed(error) => return Err(error),
            Event::Token(token) => {
                let steps = self.parts.push(&token.text);
                self.steps(steps, false)
            }
            Event::Finished(finished) => self.end(&finished),
        };
        Ok(self.numbered(events))
    }

    /// The event that says what went wrong.
    pub(crate) fn fail(&mut self, error: &ApiError) -> Vec<Value> {
        let response = self
            .response
            .failed(&self.form, &self.engine, &self.stamp, error);
        self.numbered(vec![
            json!({"type": "response.failed", "response": response}),
        ])
    }

    fn end(&mut self, finished: &Finished) -> Vec<Value> {
        let steps = self.parts.finish();
        let mut events = self.steps(steps, finished.reason != FinishReason::Stop);
        let end = End {
            finished,
            thought_tokens: self.parts.thought_tokens(),
        };
        let output = std::mem::take(&mut self.output);
        let response = self
            .response
            .ended(&self.form, &self.engine, &self.stamp, &end, output);
        let kind = match finished.reason {
            FinishReason::Stop => "response.completed",
            FinishReason::Length | FinishReason::Cancelled => "response.incomplete",
        };
        events.push(json!({"type": kind, "response": response}));
        events
    }

    fn numbered(&mut self, mut events: Vec<Value>) -> Vec<Value> {
        for event in &mut events {
            event["sequence_number"] = self.sequence_number.into();
            self.sequence_number += 1;
        }
        events
    }

    /// `cut`: these are the last steps of an answer that did not end by itself.
    fn steps(&mut self, steps: Vec<Step>, cut: bool) -> Vec<Value> {
        let num_steps = steps.len();
        let steps = steps.into_iter().enumerate();
        let events = steps.flat_map(|(i, step)| self.step(step, cut && i + 1 == num_steps));
        events.collect()
    }

    fn step(&mut self, step: Step, is_cut: bool) -> Vec<Value> {
        let index = self.output.len();
        match step {
            Step::Begin(part) => self.begin_item(index, &part),
            Step::More(kind, text) => {
                let mut delta = json!({
                    "type": match kind {
                        PartKind::Thought => "response.reasoning_text.delta",
                        PartKind::Text => "response.output_text.delta",
                        PartKind::Call => "response.function_call_arguments.delta",
                    },
                    "item_id": self.item_id,
                    "output_index": index,
                    "delta": text,
                });
                if kind != PartKind::Call {
                    delta["content_index"] = 0.into();
                }
                if kind == PartKind::Text {
                    delta["logprobs"] = json!([]);
                }
                vec![delta]
            }
            Step::End(part) => self.end_item(index, &part, is_cut),
        }
    }

    fn begin_item(&mut self, index: usize, part: &Part) -> Vec<Value> {
        self.item_id = item_id(index, part, &self.stamp);
        let mut item = item(index, part, &self.stamp, "in_progress");
        if !matches!(part, Part::Call { .. }) {
            item["content"] = json!([]);
        }
        let mut events = vec![json!({
            "type": "response.output_item.added",
            "output_index": index,
            "item": item,
        })];
        events.extend(self.of_part("response.content_part.added", index, part));
        events
    }

    fn end_item(&mut self, index: usize, part: &Part, is_cut: bool) -> Vec<Value> {
        let mut events = match part {
            Part::Thought(text) => {
                let kind = "response.reasoning_text.done";
                vec![self.of_content(kind, index, "text", text.as_str().into())]
            }
            Part::Text(text) => {
                let kind = "response.output_text.done";
                let mut done = self.of_content(kind, index, "text", text.as_str().into());
                done["logprobs"] = json!([]);
                vec![done]
            }
            Part::Call {
                name, arguments, ..
            } => vec![json!({
                "type": "response.function_call_arguments.done",
                "item_id": self.item_id,
                "output_index": index,
                "name": name,
                "arguments": arguments,
            })],
        };
        events.extend(self.of_part("response.content_part.done", index, part));
        let item = item(index, part, &self.stamp, status_of_item(part, is_cut));
        self.output.push(item.clone());
        events.push(json!({
            "type": "response.output_item.done",
            "output_index": index,
            "item": item,
        }));
        events
    }

    /// An event about the one part of the open item's content, if it has any.
    fn of_part(&self, kind: &str, index: usize, part: &Part) -> Option<Value> {
        let has_content = !matches!(part, Part::Call { .. });
        has_content.then(|| self.of_content(kind, index, "part", content(part)))
    }

    /// An event about the content of the open item.
    fn of_content(&self, kind: &str, index: usize, field: &str, value: Value) -> Value {
        json!({
            "type": kind,
            "item_id": self.item_id,
            "output_index": index,
            "content_index": 0,
            field: value,
        })
    }
}
