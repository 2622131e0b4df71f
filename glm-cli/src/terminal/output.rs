//! Results go to stdout through here, so that a closed pipe ends the program quietly instead of with a panic.

use std::io::{self, ErrorKind, IsTerminal, Write};

use crate::error::CliError;

/// Writes `text` as it is and hands it on at once.
pub fn print(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(stdout_error)
}

/// Writes text that a model made. On a terminal its control characters are shown as U+FFFD: they could move the cursor or
/// reprogram the terminal. Anything else gets the text to the letter.
pub fn print_model_text(text: &str) -> Result<(), CliError> {
    if io::stdout().is_terminal() {
        print(&without_controls(text))
    } else {
        print(text)
    }
}

fn without_controls(text: &str) -> String {
    let harmless = |c: char| !c.is_control() || matches!(c, '\n' | '\t');
    text.chars()
        .map(|c| {
            if harmless(c) {
                c
            } else {
                char::REPLACEMENT_CHARACTER
            }
        })
        .collect()
}

/// Writes `text` and a line end.
pub fn print_line(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")
        .and_then(|()| stdout.flush())
        .map_err(stdout_error)
}

/// Writes one JSON object on one line.
pub fn print_json(value: &serde_json::Value) -> Result<(), CliError> {
    print_line(&value.to_string())
}

/// A remark for the person at the terminal, on stderr. That stderr is closed stops nothing.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "note: {text}");
}

fn stdout_error(error: io::Error) -> CliError {
    match error.kind() {
        ErrorKind::BrokenPipe => CliError::ClosedPipe,
        _ => CliError::Failed(format!("cannot write to stdout: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::without_controls;

    #[test]
    fn a_model_cannot_speak_to_the_terminal() {
        assert_eq!(without_controls("a\tb\n世"), "a\tb\n世");
        assert_eq!(
            without_controls("\u{1b}[2J\u{7}\u{9b}x"),
            "\u{fffd}[2J\u{fffd}\u{fffd}x"
        );
    }
}
