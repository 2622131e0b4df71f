//! The tools of a chat: which of them may be called, which must be, and how that is seen to.

use glm_core::chat::CallFormat;
use glm_runtime::{EngineHandle, Grammar, ToolCalls};
use serde_json::{Map, Value};

use super::ApiError;
use super::fields::Fields;
use super::format::{self, Wanted};

/// `tools`, `tool_choice` and `parallel_tool_calls` of a body.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tools {
    /// What the template is told and answers are searched for; none if nothing may be called.
    pub(super) offered: Vec<Value>,
    choice: Choice,
    parallel: bool,
}

#[derive(Debug, Clone, PartialEq)]
enum Choice {
    /// As the model likes, among these names if there are any.
    Auto(Option<Vec<String>>),
    Required(Option<Vec<String>>),
    Named(String),
}

const TOOL_CHOICE: &str = "tool_choice";

impl Tools {
    /// # Errors
    /// A tool without a name or of an unknown type, a choice of a tool that is not there.
    pub(super) fn read(fields: Fields<'_>) -> Result<Self, ApiError> {
        let tools: Vec<Map<String, Value>> = fields.get("tools")?.unwrap_or_default();
        let names: Result<Vec<_>, _> = tools.iter().map(name).collect();
        let names = names?;
        let parallel = fields.get("parallel_tool_calls")?.unwrap_or(true);
        let choice = choice(fields)?;
        let none = Self {
            offered: Vec::new(),
            choice: Choice::Auto(None),
            parallel,
        };
        let Some(choice) = choice else {
            return Ok(none);
        };
        let chosen: &[String] = match &choice {
            Choice::Auto(Some(names)) | Choice::Required(Some(names)) => names,
            Choice::Named(name) => std::slice::from_ref(name),
            Choice::Auto(None) | Choice::Required(None) => &[],
        };
        if let Some(unknown) = chosen.iter().find(|name| !names.contains(&name.as_str())) {
            let message = format!("`tool_choice` names `{unknown}`, which is not among `tools`");
            return Err(ApiError::invalid(TOOL_CHOICE, message));
        }
        if tools.is_empty() && choice != Choice::Auto(None) {
            let message = "`tool_choice` demands a call, but there are no `tools`";
            return Err(ApiError::invalid(TOOL_CHOICE, message));
        }
        Ok(Self {
            offered: tools.into_iter().map(Value::Object).collect(),
            choice,
            parallel,
        })
    }

    /// Whether one tool was named, and must be called: OpenAI then says `stop` where it ends otherwise with `tool_calls`.
    pub(super) fn is_named(&self) -> bool {
        matches!(self.choice, Choice::Named(_))
    }

    /// The grammar of an answer that may call these tools and is else what is `wanted`. `None`: the model is free.
    ///
    /// # Errors
    /// The model calls no tools, a schema cannot be enforced, or fields contradict each other.
    pub(super) fn grammar(
        &self,
        engine: &EngineHandle,
        format: Option<CallFormat>,
        wanted: Option<Wanted>,
    ) -> Result<Option<Grammar>, ApiError> {
        if self.offered.is_empty() {
            if let Some(wanted) = &wanted {
                wanted.check(engine)?;
            }
            return Ok(wanted.map(|wanted| wanted.grammar));
        }
        let Some(format) = format else {
            let message = "this model does not call tools";
            return Err(ApiError::not_supported("tools", message));
        };
        let required = !matches!(self.choice, Choice::Auto(_));
        if let Some(wanted) = wanted
            .as_ref()
            .filter(|wanted| !wanted.is_response_format())
            && required
        {
            let field = wanted.field;
            let message =
                format!("`{field}` has nothing to say where `tool_choice` demands a call");
            return Err(ApiError::invalid(field, message));
        }
        let tools = self.callable();
        let strict = tools.iter().any(|tool| tool["function"]["strict"] == true);
        let is_free = !required && self.parallel && !strict && wanted.is_none();
        if is_free && tools.len() == self.offered.len() {
            return Ok(None);
        }
        let field = wanted.as_ref().map_or("tools", |wanted| wanted.field);
        let content = wanted.filter(|_| !required);
        let calls = Grammar::Tools(ToolCalls {
            format,
            tools,
            required,
            parallel: self.parallel && !self.is_named(),
            content: content.map(|wanted| Box::new(wanted.grammar)),
        });
        format::check(engine, &calls, field)?;
        Ok(Some(calls))
    }

    /// The tools that may be called.
    fn callable(&self) -> Vec<Value> {
        let is_chosen = |tool: &&Value| {
            let name = tool["function"]["name"].as_str().unwrap_or_default();
            match &self.choice {
                Choice::Auto(Some(names)) | Choice::Required(Some(names)) => {
                    names.iter().any(|chosen| chosen == name)
                }
                Choice::Named(chosen) => chosen == name,
                Choice::Auto(None) | Choice::Required(None) => true,
            }
        };
        self.offered.iter().filter(is_chosen).cloned().collect()
    }
}

fn name(tool: &Map<String, Value>) -> Result<&str, ApiError> {
    match tool.get("type").and_then(Value::as_str) {
        Some("function") => {}
        Some(other) => {
            let message = format!("a tool of type `{other}` is not supported");
            return Err(ApiError::not_supported("tools", message));
        }
        None => return Err(ApiError::invalid("tools", "a tool has no `type`")),
    }
    let name = tool.get("function").and_then(|f| f["name"].as_str());
    name.filter(|name| !name.is_empty())
        .ok_or_else(|| ApiError::invalid("tools", "a tool's function has no `name`"))
}

/// `None`: nothing may be called.
fn choice(fields: Fields<'_>) -> Result<Option<Choice>, ApiError> {
    let Some(value) = fields.value(TOOL_CHOICE) else {
        return Ok(Some(Choice::Auto(None)));
    };
    let wrong = || {
        let message = "`tool_choice` must be none, auto, required, a function or allowed tools";
        ApiError::invalid(TOOL_CHOICE, message)
    };
    if let Some(mode) = value.as_str() {
        return mode_choice(mode, None).ok_or_else(wrong);
    }
    match value["type"].as_str() {
        Some("function") => {
            let name = value["function"]["name"].as_str().ok_or_else(wrong)?;
            Ok(Some(Choice::Named(name.to_owned())))
        }
        Some("allowed_tools") => {
            let allowed = &value["allowed_tools"];
            let tools = allowed["tools"].as_array().ok_or_else(wrong)?;
            let names = tools.iter().map(|tool| tool["function"]["name"].as_str());
            let names: Option<Vec<&str>> = names.collect();
            let names = names.ok_or_else(wrong)?;
            let names = names.into_iter().map(str::to_owned).collect();
            let mode = allowed["mode"].as_str().filter(|mode| *mode != "none");
            mode_choice(mode.ok_or_else(wrong)?, Some(names)).ok_or_else(wrong)
        }
        _ => Err(wrong()),
    }
}

fn mode_choice(mode: &str, names: Option<Vec<String>>) -> Option<Option<Choice>> {
    match mode {
        "none" => Some(None),
        "auto" => Some(Some(Choice::Auto(names))),
        "required" => Some(Some(Choice::Required(names))),
        _ => None,
    }
}
