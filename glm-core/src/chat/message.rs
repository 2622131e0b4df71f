//! Messages as clients send them: OpenAI's JSON, with the fields that GLM templates know besides.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};

use super::python;

/// What a chat is rendered from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ChatRequest {
    /// The conversation so far.
    pub messages: Vec<Message>,
    /// Tools the model may call, as OpenAI tool objects.
    #[serde(default)]
    pub tools: Vec<Value>,
    /// End the prompt where the assistant's answer begins.
    #[serde(default = "yes")]
    pub add_generation_prompt: bool,
    /// Whether the model should think first; `None` leaves it to the template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enable_thinking: Option<bool>,
    /// Further variables for the template, such as `clear_thinking` or `reasoning_effort` (`chat_template_kwargs`).
    #[serde(
        default,
        rename = "chat_template_kwargs",
        skip_serializing_if = "Map::is_empty"
    )]
    pub kwargs: Map<String, Value>,
}

fn yes() -> bool {
    true
}

impl ChatRequest {
    /// A request for an answer to `messages`, without tools.
    ///
    /// ```
    /// use glm_core::chat::{ChatRequest, Message};
    /// let request = ChatRequest::new(vec![Message::user("Hi")]);
    /// assert!(request.add_generation_prompt && request.tools.is_empty());
    /// ```
    pub fn new(messages: Vec<Message>) -> Self {
        Self {
            messages,
            add_generation_prompt: true,
            ..Self::default()
        }
    }
}

/// One message of a chat.
///
/// ```
/// use glm_core::chat::{Content, Message};
/// let message: Message = serde_json::from_str(r#"{"role": "user", "content": [{"type": "text", "text": "Hi"}]}"#)?;
/// assert!(matches!(message.content, Some(Content::Parts(_))));
/// let message: Message = serde_json::from_str(r#"{"role": "assistant", "content": null}"#)?;
/// assert_eq!(message.content, Some(Content::Null));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`; GLM-4's own `observation` too.
    pub role: String,
    /// The text; templates see `null` as absent, as in transformers.
    #[serde(
        default,
        deserialize_with = "present",
        skip_serializing_if = "Option::is_none"
    )]
    pub content: Option<Content>,
    /// What the assistant thought before it answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// Calls the assistant made.
    #[serde(
        default,
        deserialize_with = "null_as_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub tool_calls: Vec<ToolCall>,
    /// GLM-4 and ChatGLM3: what stands behind the role marker, such as the name of the tool called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<String>,
    /// Name of the speaker or tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The call that a tool message answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// Everything else, for templates that know it.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Content of a message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Content {
    /// Plain text.
    Text(String),
    /// OpenAI content parts: objects with a `type`.
    Parts(Vec<Value>),
    /// `null`, as assistants that only call tools have.
    Null,
}

/// A tool call of the assistant.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    /// The client's name for this call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `function`.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The function called; absent when name and arguments stand in the call itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<FunctionCall>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Name and arguments of a call.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FunctionCall {
    /// The function's name.
    pub name: String,
    /// An object, or its JSON as a string as OpenAI writes it.
    #[serde(default)]
    pub arguments: Value,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// `null` is a value here, and only a missing field is `None`.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Content>, D::Error> {
    Content::deserialize(deserializer).map(Some)
}

fn null_as_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<ToolCall>, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl Message {
    /// A message of plain text.
    pub fn text(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: Some(Content::Text(content.into())),
            ..Self::default()
        }
    }

    /// What the user says.
    pub fn user(content: impl Into<String>) -> Self {
        Self::text("user", content)
    }

    /// What the model said.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::text("assistant", content)
    }

    /// How the model is to behave.
    pub fn system(content: impl Into<String>) -> Self {
        Self::text("system", content)
    }

    /// The text of the message: its content, or the text parts of it joined by newlines.
    ///
    /// # Errors
    /// The type of the first part that is not text.
    pub fn plain_text(&self) -> Result<String, String> {
        match &self.content {
            None | Some(Content::Null) => Ok(String::new()),
            Some(Content::Text(text)) => Ok(text.clone()),
            Some(Content::Parts(parts)) => {
                let texts: Result<Vec<&str>, String> = parts.iter().map(part_text).collect();
                Ok(texts?.join("\n"))
            }
        }
    }

    /// The message as a template sees it: reasoning under its standard name, arguments of calls as objects.
    pub(crate) fn to_template_value(&self) -> Value {
        let mut message = Map::new();
        // transformers fills the standard field from its older names, and the name `thinking` for templates that read that
        let aliases = [
            self.reasoning_content.as_deref(),
            self.alias("thinking"),
            self.alias("reasoning"),
        ];
        let reasoning = aliases.into_iter().flatten().next();
        if let Some(reasoning) = reasoning {
            message.insert("thinking".into(), reasoning.into());
        }
        message.insert("role".into(), self.role.as_str().into());
        // transformers leaves out keys that are null: many templates would print "None"
        if let Some(content) = self
            .content
            .as_ref()
            .filter(|content| **content != Content::Null)
        {
            message.insert("content".into(), json!(content));
        }
        if !self.tool_calls.is_empty() {
            message.insert(
                "tool_calls".into(),
                self.tool_calls
                    .iter()
                    .map(ToolCall::to_template_value)
                    .collect(),
            );
        }
        let named = [
            ("metadata", &self.metadata),
            ("name", &self.name),
            ("tool_call_id", &self.tool_call_id),
        ];
        for (key, value) in named {
            if let Some(value) = value {
                message.insert(key.into(), value.as_str().into());
            }
        }
        let extra = self.extra.iter().filter(|(_, value)| !value.is_null());
        message.extend(extra.map(|(key, value)| (key.clone(), value.clone())));
        if let Some(reasoning) = reasoning {
            message.insert("reasoning_content".into(), reasoning.into());
        }
        Value::Object(message)
    }

    fn alias(&self, field: &str) -> Option<&str> {
        self.extra.get(field).and_then(Value::as_str)
    }
}

fn part_text(part: &Value) -> Result<&str, String> {
    match (part["type"].as_str(), part["text"].as_str()) {
        (Some("text" | "input_text"), Some(text)) => Ok(text),
        (None, _) if part.is_string() => Ok(part.as_str().unwrap_or_default()),
        (kind, _) => Err(kind.unwrap_or("unknown").to_owned()),
    }
}

impl ToolCall {
    /// Name of the function called, wherever it stands.
    pub fn name(&self) -> &str {
        let flat = || {
            self.extra
                .get("name")
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        self.function
            .as_ref()
            .map_or_else(flat, |function| &function.name)
    }

    /// The arguments; JSON in a string is read, so that templates can iterate over it.
    ///
    /// ```
    /// use glm_core::chat::ToolCall;
    /// let call: ToolCall = serde_json::from_str(r#"{"function": {"name": "f", "arguments": "{\"a\": 1}"}}"#)?;
    /// assert_eq!((call.name(), call.arguments()), ("f", serde_json::json!({"a": 1})));
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    pub fn arguments(&self) -> Value {
        read_arguments(self.raw_arguments())
    }

    /// The arguments as JSON text: as the client wrote them, if it sent text.
    pub(crate) fn arguments_text(&self) -> String {
        let arguments = self.raw_arguments();
        arguments
            .as_str()
            .map_or_else(|| python::compact_json(arguments), str::to_owned)
    }

    fn raw_arguments(&self) -> &Value {
        let arguments = self
            .function
            .as_ref()
            .map(|function| &function.arguments)
            .or(self.extra.get("arguments"));
        arguments.unwrap_or(&Value::Null)
    }

    fn to_template_value(&self) -> Value {
        let mut call = json!(self);
        for path in ["/function/arguments", "/arguments"] {
            if let Some(arguments) = call.pointer_mut(path) {
                *arguments = read_arguments(arguments);
            }
        }
        call
    }
}

/// An object written as a string becomes the object; anything else stays what it is.
fn read_arguments(arguments: &Value) -> Value {
    let object = arguments
        .as_str()
        .and_then(|text| serde_json::from_str::<Value>(text).ok())
        .filter(Value::is_object);
    object.unwrap_or_else(|| arguments.clone())
}
