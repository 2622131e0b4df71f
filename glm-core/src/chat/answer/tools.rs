//! [`Tools`]: the names of the tools an answer may call, and what their parameters may be.

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;

use serde_json::Value as Json;

/// Deepest chain of references followed in a schema.
const MAX_DEPTH: usize = 16;

/// What was declared.
#[derive(Debug, Default)]
pub(super) struct Tools {
    names: BTreeSet<String>,
    parameters: HashMap<String, Vec<(String, Types)>>,
}

/// Types a JSON value may have; none: any.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Types(u8);

impl Types {
    pub(super) const STRING: Self = Self(1);
    pub(super) const NUMBER: Self = Self(2);
    pub(super) const BOOLEAN: Self = Self(4);
    pub(super) const NULL: Self = Self(8);
    pub(super) const OBJECT: Self = Self(16);
    pub(super) const ARRAY: Self = Self(32);

    pub(super) fn is_only_string(self) -> bool {
        self == Self::STRING
    }

    /// Whether a value of type `other` may be.
    pub(super) fn allow(self, other: Self) -> bool {
        self.0 == 0 || self.0 & other.0 != 0
    }

    fn named(name: &str) -> Self {
        match name {
            "string" => Self::STRING,
            "number" | "integer" => Self::NUMBER,
            "boolean" => Self::BOOLEAN,
            "null" => Self::NULL,
            "object" => Self::OBJECT,
            "array" => Self::ARRAY,
            _ => Self::default(),
        }
    }

    fn of(value: &Json) -> Self {
        match value {
            Json::String(_) => Self::STRING,
            Json::Number(_) => Self::NUMBER,
            Json::Bool(_) => Self::BOOLEAN,
            Json::Null => Self::NULL,
            Json::Object(_) => Self::OBJECT,
            Json::Array(_) => Self::ARRAY,
        }
    }

    /// Those of any of several; any at all if one of them says nothing.
    fn union(all: impl Iterator<Item = Self>) -> Self {
        let all: Vec<Self> = all.collect();
        if all.contains(&Self(0)) {
            return Self(0);
        }
        Self(all.iter().fold(0, |types, of| types | of.0))
    }

    /// What `schema` allows; `root`: where its references lead.
    fn allowed_by(schema: &Json, root: &Json, depth: usize) -> Self {
        if depth == 0 {
            return Self(0);
        }
        let inner = |schema: &Json| Self::allowed_by(schema, root, depth - 1);
        match &schema["type"] {
            Json::String(name) => return Self::named(name),
            Json::Array(names) => {
                let named = names.iter().filter_map(Json::as_str).map(Self::named);
                return Self::union(named);
            }
            _ => {}
        }
        if let Some(value) = schema.get("const") {
            return Self::of(value);
        }
        if let Json::Array(values) = &schema["enum"] {
            return Self::union(values.iter().map(Self::of));
        }
        if let Some(target) = schema["$ref"].as_str() {
            let found = target.strip_prefix('#').and_then(|path| root.pointer(path));
            return found.map_or(Self(0), inner);
        }
        for key in ["anyOf", "oneOf"] {
            if let Json::Array(schemas) = &schema[key] {
                return Self::union(schemas.iter().map(inner));
            }
        }
        // One of several that all hold is enough to know.
        let all = schema["allOf"].as_array().into_iter().flatten();
        all.map(inner)
            .find(|types| *types != Self(0))
            .unwrap_or_default()
    }
}

/// Whether a parameter with this schema is written as bare text in calls of GLM-4.5 and later: its type is a string and nothing else.
/// `root`: the schema that references in it lead into.
pub fn is_only_text(schema: &Json, root: &Json) -> bool {
    Types::allowed_by(schema, root, MAX_DEPTH).is_only_string()
}

impl Tools {
    /// `tools`: OpenAI's tool objects, or the functions in them; what has no name is left out.
    pub(super) fn new(tools: &[Json]) -> Self {
        let mut declared = Self::default();
        for tool in tools {
            let function = tool.get("function").unwrap_or(tool);
            let Some(name) = function["name"].as_str() else {
                continue;
            };
            let schema = &function["parameters"];
            let properties = schema["properties"].as_object().into_iter().flatten();
            let types = |schema_of| Types::allowed_by(schema_of, schema, MAX_DEPTH);
            let parameters = properties.map(|(name, schema)| (name.clone(), types(schema)));
            declared
                .parameters
                .insert(name.to_owned(), parameters.collect());
            declared.names.insert(name.to_owned());
        }
        declared
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// Whether `text` is the beginning of a name, or a name and at most `blanks` white spaces.
    pub(super) fn could_be_named(&self, text: &str, blanks: usize) -> bool {
        // Of the names that are not before it, the first begins with it if any does.
        let not_before = (Bound::Included(text), Bound::Unbounded);
        let next = self.names.range::<str, _>(not_before).next();
        if next.is_some_and(|name| name.starts_with(text)) {
            return true;
        }
        let name = text.trim_end();
        name.len() < text.len() && text.len() - name.len() <= blanks && self.has(name)
    }

    /// What the parameter of a tool may be.
    pub(super) fn types(&self, tool: &str, parameter: &str) -> Types {
        let mut parameters = self.parameters.get(tool).into_iter().flatten();
        let found = parameters.find(|(name, _)| name == parameter);
        found.map_or(Types::default(), |(_, types)| *types)
    }

    /// Name of the parameter at this place, for calls that do not name it.
    pub(super) fn parameter(&self, tool: &str, place: usize) -> Option<&str> {
        let (name, _) = self.parameters.get(tool)?.get(place)?;
        Some(name)
    }
}
