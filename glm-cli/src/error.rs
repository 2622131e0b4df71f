//! How a command can end other than well, and the exit code of each way.

use std::error::Error;
use std::process::ExitCode;

/// Why a command ended early.
#[derive(Debug, PartialEq, Eq)]
pub enum CliError {
    /// Wrong arguments or a wrong model: exit code 2.
    Usage(String),
    /// The work itself failed: exit code 1.
    Failed(String),
    /// Ctrl-C: exit code 130, and nothing to say.
    Interrupted,
    /// Whoever read our output has closed it, as `head` does: a quiet end.
    ClosedPipe,
}

impl CliError {
    /// A wrong argument or model.
    pub fn usage(error: impl Into<Box<dyn Error>>) -> Self {
        Self::Usage(one_line(&*error.into()))
    }

    /// Work that failed.
    pub fn failed(error: impl Into<Box<dyn Error>>) -> Self {
        Self::Failed(one_line(&*error.into()))
    }

    /// The line to print after `error: `, if there is something to say.
    pub fn message(&self) -> Option<&str> {
        match self {
            Self::Usage(text) | Self::Failed(text) => Some(text),
            Self::Interrupted | Self::ClosedPipe => None,
        }
    }

    /// The exit code of the process.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::ClosedPipe => 0,
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Interrupted => 130,
        })
    }
}

/// The error and its causes on one line. A cause that the text before it already spells out is not repeated.
pub fn one_line(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt;

    #[derive(Debug)]
    struct Link(&'static str, Option<Box<Link>>);

    impl fmt::Display for Link {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Link {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|inner| inner as _)
        }
    }

    #[test]
    fn causes_are_joined_on_one_line_and_not_repeated() {
        let root = Link("no such file", None);
        let middle = Link("cannot open x: no such file", Some(Box::new(root)));
        let top = Link("cannot load\n  the model", Some(Box::new(middle)));
        assert_eq!(
            one_line(&top),
            "cannot load the model: cannot open x: no such file"
        );
    }
}
