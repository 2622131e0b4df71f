//! [`JsonPrefix`]: whether a text that is still being written can become JSON, and whether it is inside of a string.

use serde::de::IgnoredAny;

/// A machine over the characters of a text; each is looked at once, so that a long value with many ends in its strings costs what a
/// plain one does.
#[derive(Debug, Clone, Default)]
pub(super) struct JsonPrefix {
    place: Place,
    /// Brackets that are open; true: of an object.
    open: Vec<bool>,
    /// The number or name that is being written.
    word: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Place {
    /// Before a value.
    #[default]
    Value,
    /// Behind the bracket of an array.
    FirstValue,
    /// Before the key of an object; `may_end`: behind its bracket.
    Key {
        may_end: bool,
    },
    Colon,
    /// Behind a value.
    After,
    Word,
    String {
        is_key: bool,
        escape: Escape,
    },
    /// It is no JSON.
    Broken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Escape {
    No,
    Begun,
    /// This many digits are to come.
    Digits(u8),
}

impl JsonPrefix {
    pub(super) fn push_str(&mut self, text: &str) {
        text.chars().for_each(|c| self.push(c));
    }

    /// Whether all was JSON so far, and its end is inside of a string.
    pub(super) fn is_inside_string(&self) -> bool {
        matches!(self.place, Place::String { .. })
    }

    fn push(&mut self, c: char) {
        if self.place == Place::Word {
            if c.is_ascii_alphanumeric() || "+-.".contains(c) {
                self.word.push(c);
                return;
            }
            let is_json = serde_json::from_str::<IgnoredAny>(&self.word).is_ok();
            self.place = if is_json { Place::After } else { Place::Broken };
        }
        self.place = match self.place {
            Place::String { is_key, escape } => in_string(c, is_key, escape),
            place if " \t\r\n".contains(c) => place,
            Place::Value => self.value(c),
            Place::FirstValue if c == ']' => self.close(),
            Place::FirstValue => self.value(c),
            Place::Key { may_end: true } if c == '}' => self.close(),
            Place::Key { .. } if c == '"' => string(true),
            Place::Colon if c == ':' => Place::Value,
            Place::After => match (c, self.open.last()) {
                (',', Some(true)) => Place::Key { may_end: false },
                (',', Some(false)) => Place::Value,
                ('}', Some(true)) | (']', Some(false)) => self.close(),
                _ => Place::Broken,
            },
            Place::Key { .. } | Place::Colon | Place::Word | Place::Broken => Place::Broken,
        };
    }

    /// The first character of a value.
    fn value(&mut self, c: char) -> Place {
        match c {
            '{' => {
                self.open.push(true);
                Place::Key { may_end: true }
            }
            '[' => {
                self.open.push(false);
                Place::FirstValue
            }
            '"' => string(false),
            '-' | '0'..='9' | 't' | 'f' | 'n' => {
                self.word.clear();
                self.word.push(c);
                Place::Word
            }
            _ => Place::Broken,
        }
    }

    fn close(&mut self) -> Place {
        self.open.pop();
        Place::After
    }
}

fn string(is_key: bool) -> Place {
    Place::String {
        is_key,
        escape: Escape::No,
    }
}

fn in_string(c: char, is_key: bool, escape: Escape) -> Place {
    let escape = match (escape, c) {
        (Escape::No, '"') if is_key => return Place::Colon,
        (Escape::No, '"') => return Place::After,
        (Escape::No, '\\') => Escape::Begun,
        (Escape::No, '\0'..'\x20') => return Place::Broken,
        (Escape::No, _) => Escape::No,
        (Escape::Begun, 'u') => Escape::Digits(4),
        (Escape::Begun, '"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't') => Escape::No,
        (Escape::Digits(1), c) if c.is_ascii_hexdigit() => Escape::No,
        (Escape::Digits(n), c) if c.is_ascii_hexdigit() => Escape::Digits(n - 1),
        _ => return Place::Broken,
    };
    Place::String { is_key, escape }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn is_inside_string(text: &str) -> bool {
        let mut prefix = JsonPrefix::default();
        prefix.push_str(text);
        prefix.is_inside_string()
    }

    /// What an empty string and all closing brackets make of it must be JSON.
    fn can_be_closed(text: &str) -> bool {
        let closings = [
            "", "]", "}", "]]", "]}", "}]", "}}", "]]]", "]]}", "]}]", "]}}", "}]]", "}]}", "}}]",
            "}}}",
        ];
        let is_json =
            |end: String| serde_json::from_str::<IgnoredAny>(&(text.to_owned() + &end)).is_ok();
        let ends = closings
            .iter()
            .flat_map(|end| [format!("\"{end}"), format!("\": 0{end}")]);
        ends.into_iter().any(is_json)
    }

    #[test]
    fn strings_are_known_from_what_is_no_json() {
        for text in [
            "\"",
            "[\"a",
            "{\"",
            "{\"a\": \"\\\"",
            "[1, true, -2e5, \"\\u00e9",
            "[[], {}, \"",
        ] {
            assert!(is_inside_string(text), "{text}");
        }
        for text in [
            "",
            "[",
            "\"a\"",
            "see \"",
            "[see, \"",
            "[1.2.3, \"",
            "[tru, \"",
            "{\"a\" \"",
            "[1, ] \"",
            "{1: \"",
            "\"\\x",
            "\"\n",
            "\"\\u00g",
            "[}\"",
            "{\"a\": 1, }, \"",
            "\"a\" \"",
        ] {
            assert!(!is_inside_string(text), "{text}");
        }
    }

    /// Deepest nesting that `can_be_closed` knows the end of.
    const DEPTH: usize = 3;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn it_is_inside_a_string_if_its_end_makes_json(parts in prop::collection::vec(prop::sample::select(vec![
            "[", "]", "{", "}", "\"", ",", ":", " ", "\n", "\\", "\\\"", "\\u00e9", "a", "<", "1", "-", ".", "e", "true", "null", "\"k\":", "\"s\",",
        ]), 0..9)) {
            let text = parts.concat();
            let depth = text.matches(['[', '{']).count();
            // A backslash at the end is no character yet.
            if depth > DEPTH || text.ends_with('\\') {
                return Ok(());
            }
            prop_assert_eq!(is_inside_string(&text), can_be_closed(&text), "{}", text);
        }
    }
}
