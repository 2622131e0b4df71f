//! The arguments of GLM-4's calls: a JSON object, passed on as it is written.

use super::sink::Sink;

/// Inside the object of a call.
#[derive(Debug, Clone, Default)]
pub(super) struct JsonCall {
    /// Brackets that are open.
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl JsonCall {
    /// One more character, the opening brace first; true if it was the last.
    pub(super) fn feed(&mut self, c: char, sink: &mut Sink) -> bool {
        sink.arguments().push(c);
        if self.in_string {
            self.in_string = self.escaped || c != '"';
            self.escaped = !self.escaped && c == '\\';
            return false;
        }
        match c {
            '"' => self.in_string = true,
            '{' | '[' => self.depth += 1,
            '}' | ']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        if self.depth == 0 {
            sink.end_call();
        }
        self.depth == 0
    }
}
