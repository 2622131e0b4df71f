//! [`Held`]: text that may be the beginning of a marker.

/// What is known about the text after one more character.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// It may still become a marker.
    Nothing,
    /// It is this marker.
    Marker(&'static str),
    /// A character that begins no marker, with nothing held before it.
    Char(char),
    /// What was held is none after all.
    Text(String),
}

/// The beginning of a marker. Markers have one `<`, at their beginning, so no other can begin in what is held but with its last character.
#[derive(Debug, Clone, Default)]
pub(super) struct Held(String);

impl Held {
    /// One more character of a text in which `markers` mean something.
    pub(super) fn push(&mut self, c: char, markers: &[&'static str]) -> Seen {
        if c == '<' {
            let before = std::mem::replace(&mut self.0, "<".to_owned());
            return if before.is_empty() {
                Seen::Nothing
            } else {
                Seen::Text(before)
            };
        }
        if self.0.is_empty() {
            return Seen::Char(c);
        }
        self.0.push(c);
        let found = markers
            .iter()
            .find(|marker| marker.starts_with(self.0.as_str()));
        match found {
            Some(marker) if marker.len() == self.0.len() => {
                self.0.clear();
                Seen::Marker(marker)
            }
            Some(_) => Seen::Nothing,
            None => Seen::Text(self.take()),
        }
    }

    /// What is held, which is no marker.
    pub(super) fn take(&mut self) -> String {
        std::mem::take(&mut self.0)
    }
}
