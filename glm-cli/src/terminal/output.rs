//! Results go to stdout through here, so that a closed pipe ends the program quietly instead of with a panic.

use std::io::{self, ErrorKind, Write};

use crate::error::CliError;

/// Writes `text` as it is and hands it on at once.
pub fn print(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(stdout_error)
}

/// Writes `text` and a line end.
pub fn print_line(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}").and_then(|()| stdout.flush()).map_err(stdout_error)
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
