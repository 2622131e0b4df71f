//! Colours, only where a person sees them: on a terminal that has not asked for none (`NO_COLOR`, `TERM=dumb`).

use std::env;
use std::io::{self, IsTerminal};

/// Text attributes of one output stream; without colour every method returns the text unchanged.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    enabled: bool,
}

impl Style {
    /// Attributes for stdout.
    pub fn stdout() -> Self {
        Self {
            enabled: io::stdout().is_terminal() && wanted(),
        }
    }

    /// Attributes for stderr.
    pub fn stderr() -> Self {
        Self {
            enabled: io::stderr().is_terminal() && wanted(),
        }
    }

    /// For a heading.
    pub fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    /// For what matters less: thinking, notes.
    pub fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }

    /// What [`dim`](Self::dim) puts before and after a text, for text that is printed in another way.
    pub fn dim_marks(self) -> [&'static str; 2] {
        if self.enabled {
            ["\x1b[2m", "\x1b[0m"]
        } else {
            ["", ""]
        }
    }

    /// For errors.
    pub fn red(self, text: &str) -> String {
        self.wrap("1;31", text)
    }

    /// For what is well.
    pub fn green(self, text: &str) -> String {
        self.wrap("32", text)
    }

    /// For warnings.
    pub fn yellow(self, text: &str) -> String {
        self.wrap("33", text)
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.enabled && !text.is_empty() {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

fn wanted() -> bool {
    let set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
    !set("NO_COLOR") && env::var_os("TERM").is_none_or(|term| term != "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_without_colour() {
        assert_eq!(Style { enabled: false }.dim("x"), "x");
        assert_eq!(Style { enabled: true }.dim("x"), "\x1b[2mx\x1b[0m");
        assert_eq!(Style { enabled: true }.dim(""), "");
    }
}
