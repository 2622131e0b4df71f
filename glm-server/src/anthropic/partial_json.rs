//! The value that the beginning of a JSON text has so far.

use std::collections::VecDeque;

use serde_json::{Map, Value};

/// What a JSON text says that may break off anywhere: unfinished texts, numbers and keys are left out, what is open is closed.
/// Anthropic's clients make the same of a call whose stream ended early.
pub(super) fn complete(json: &str) -> Value {
    if let Ok(whole) = serde_json::from_str(json) {
        return whole;
    }
    let mut open: Vec<char> = Vec::new();
    let mut ends = Ends::default();
    let (mut in_text, mut escaped) = (false, false);
    for (at, c) in json.char_indices() {
        if in_text {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => {
                    in_text = false;
                    ends.push(at + 1, &open);
                }
                _ => {}
            }
            continue;
        }
        match c {
            '"' => in_text = true,
            '{' => open.push('}'),
            '[' => open.push(']'),
            '}' | ']' => drop(open.pop()),
            ',' => ends.push(at, &open),
            _ => {}
        }
        if matches!(c, '{' | '[' | '}' | ']') {
            ends.push(at + 1, &open);
        }
    }
    let close = |(end, open): &(usize, Vec<char>)| {
        let closed: String = json[..*end]
            .chars()
            .chain(open.iter().rev().copied())
            .collect();
        serde_json::from_str(&closed).ok()
    };
    let found = ends.0.iter().rev().find_map(close);
    found.unwrap_or_else(|| Map::new().into())
}

/// The latest places at which a value may have ended, with what is open there. Of the last few one is right, if any is: behind it there
/// are at most a key and the beginning of its value.
#[derive(Default)]
struct Ends(VecDeque<(usize, Vec<char>)>);

impl Ends {
    fn push(&mut self, at: usize, open: &[char]) {
        if self.0.len() == 4 {
            self.0.pop_front();
        }
        self.0.push_back((at, open.to_vec()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_there_is_kept() {
        for (text, value) in [
            ("", json!({})),
            ("{\"a\": 1", json!({})),
            ("{\"a\": 1,", json!({"a": 1})),
            ("{\"a\": \"x\", \"b", json!({"a": "x"})),
            ("{\"a\": \"x\", \"b\": \"y", json!({"a": "x"})),
            (
                "{\"a\": {\"b\": [1, 2, {\"c\": \"}\\\"\"",
                json!({"a": {"b": [1, 2, {"c": "}\""}]}}),
            ),
            ("{\"a\": [true, fal", json!({"a": [true]})),
            ("{\"a\": {}}", json!({"a": {}})),
        ] {
            assert_eq!(complete(text), value, "{text}");
        }
    }
}
