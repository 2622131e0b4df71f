//! What a template understands, found out by trying.
//!
//! GLM-4's templates know neither content parts nor OpenAI's `tool` role: they would print the former as Python lists and drop the
//! latter without a word. A short chat shows which kind a template is, more surely than its text.

use serde_json::{Value as Json, json};

use super::template::Templates;

/// Text that no template writes by itself.
const PROBE: &str = "zqprobe";

/// Instructions for one try: plenty for two messages, and a template that loops for ever is found out when it is used.
const FUEL: u64 = 50_000;

#[derive(Debug, Clone, Copy)]
pub(super) struct Capabilities {
    /// Content may be a list of parts.
    pub parts: bool,
    /// Messages may have the role `tool` and `tool_calls`.
    pub tools: bool,
}

impl Capabilities {
    pub fn probe(templates: &Templates) -> Self {
        let templates = templates.with_fuel(FUEL);
        let user = |content: Json| json!({"role": "user", "content": content});
        let result = |role: &str| json!({"role": role, "content": PROBE});
        let parts = json!([{"type": "text", "text": PROBE}]);
        let shows = |messages: &[Json]| {
            let prompt = templates
                .render(messages, &[], &serde_json::Map::new())
                .ok()?;
            // a printed list shows the text too, among its keys
            Some(prompt.contains(PROBE) && !prompt.contains("'text'"))
        };
        // A template that fails on plain text as well tells nothing; it gets messages as they are.
        let knows_parts =
            shows(&[user(parts)]) == Some(true) || shows(&[user(PROBE.into())]) != Some(true);
        let knows_role = |role: &str| shows(&[user("Hi".into()), result(role)]) == Some(true);
        Self {
            parts: knows_parts,
            tools: knows_role("tool") || !knows_role("observation"),
        }
    }
}
