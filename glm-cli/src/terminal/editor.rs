//! The line editor of `chat`: history, completion of `/` commands, and input of several lines.

use std::env;
use std::fs;
use std::path::PathBuf;

use rustyline::completion::Completer;
use rustyline::config::Configurer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Context, Editor, Helper};

use crate::error::CliError;

/// What the person did at the prompt.
#[derive(Debug, PartialEq, Eq)]
pub enum Input {
    /// A text was entered, with its continuation lines joined.
    Text(String),
    /// Ctrl-C: drop what was typed.
    Cancelled,
    /// Ctrl-D: leave.
    End,
}

/// Reads turns from the terminal.
pub struct TurnEditor {
    editor: Editor<TurnHelper, FileHistory>,
    history: Option<PathBuf>,
}

impl TurnEditor {
    /// An editor that completes `commands` and remembers what was typed in earlier sessions.
    pub fn new(commands: &'static [&'static str]) -> Result<Self, CliError> {
        let mut editor = Editor::new().map_err(CliError::failed)?;
        editor.set_helper(Some(TurnHelper { commands }));
        editor
            .set_max_history_size(2000)
            .map_err(CliError::failed)?;
        let history = history_file();
        if let Some(path) = &history {
            // The first session has no history yet; a chat without one is still a chat.
            let _ = editor.load_history(path);
        }
        Ok(Self { editor, history })
    }

    /// Waits for the next turn.
    pub fn read(&mut self, prompt: &str) -> Result<Input, CliError> {
        match self.editor.readline(prompt) {
            Ok(typed) => {
                let _ = self.editor.add_history_entry(typed.as_str());
                Ok(Input::Text(join_lines(&typed)))
            }
            Err(ReadlineError::Interrupted) => Ok(Input::Cancelled),
            Err(ReadlineError::Eof) => Ok(Input::End),
            Err(error) => Err(CliError::Failed(format!(
                "cannot read from the terminal: {error}"
            ))),
        }
    }
}

impl Drop for TurnEditor {
    fn drop(&mut self) {
        if let Some(path) = &self.history {
            if let Some(folder) = path.parent() {
                let _ = fs::create_dir_all(folder);
            }
            let _ = self.editor.append_history(path);
        }
    }
}

/// `$XDG_STATE_HOME/glm-cli/history`, by default under `~/.local/state`; on Windows under `%LOCALAPPDATA%`.
fn history_file() -> Option<PathBuf> {
    let folder = |name| {
        env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let state = folder("XDG_STATE_HOME")
        .or_else(|| folder("LOCALAPPDATA"))
        .or_else(|| folder("HOME").map(|home| home.join(".local/state")))?;
    Some(state.join("glm-cli/history"))
}

/// Whether the text typed so far goes on in the next line: it ends with a backslash, or a `"""` is still open.
fn is_open(typed: &str) -> bool {
    typed.matches("\"\"\"").count() % 2 == 1 || (typed.ends_with('\\') && !typed.contains("\"\"\""))
}

/// The text that was meant: without the backslashes that joined lines, or without the `"""` around it.
fn join_lines(typed: &str) -> String {
    let trimmed = typed.trim();
    match trimmed
        .strip_prefix("\"\"\"")
        .and_then(|rest| rest.strip_suffix("\"\"\""))
    {
        Some(quoted) => quoted.trim_matches('\n').to_owned(),
        None if typed.contains("\"\"\"") => typed.to_owned(),
        None => typed.replace("\\\n", "\n"),
    }
}

struct TurnHelper {
    commands: &'static [&'static str],
}

impl Helper for TurnHelper {}
impl Highlighter for TurnHelper {}

impl Hinter for TurnHelper {
    type Hint = String;
}

impl Completer for TurnHelper {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let typed = &line[..pos];
        let fits = |command: &&&str| typed.starts_with('/') && command.starts_with(typed);
        Ok((
            0,
            self.commands
                .iter()
                .filter(fits)
                .map(|command| (*command).to_owned())
                .collect(),
        ))
    }
}

impl Validator for TurnHelper {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(if is_open(context.input()) {
            ValidationResult::Incomplete
        } else {
            ValidationResult::Valid(None)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backslash_joins_lines() {
        assert!(is_open("one \\"));
        assert!(!is_open("one \\\ntwo"));
        assert_eq!(join_lines("one\\\ntwo"), "one\ntwo");
        assert_eq!(join_lines("C:\\dir"), "C:\\dir");
    }

    #[test]
    fn triple_quotes_hold_lines_together() {
        assert!(is_open("\"\"\""));
        assert!(is_open("\"\"\"one\ntwo\\"));
        assert!(!is_open("\"\"\"\none\ntwo\n\"\"\""));
        assert_eq!(join_lines("\"\"\"\none\n\ntwo\n\"\"\""), "one\n\ntwo");
        assert_eq!(join_lines("\"\"\"path\\\nnext\"\"\""), "path\\\nnext");
        assert_eq!(
            join_lines("say \"\"\"x\"\"\" aloud"),
            "say \"\"\"x\"\"\" aloud"
        );
    }
}
