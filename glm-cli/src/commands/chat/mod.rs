//! `chat`: a conversation, on a terminal or line by line from a pipe.

mod session;
mod slash;

use std::io::{self, BufRead, IsTerminal};

use self::session::Session;
use self::slash::Slash;
use super::{answering_builder, build_for_text, engine_error, keep_prefix_cache, print_remarks};
use crate::args::ChatArgs;
use crate::error::CliError;
use crate::terminal::editor::{Input, TurnEditor};
use crate::terminal::output;
use crate::terminal::style::Style;

pub fn run(args: &ChatArgs) -> Result<(), CliError> {
    let engine = build_for_text(answering_builder(&args.engine, &args.adapter)?)?;
    engine.chat_format().map_err(engine_error)?;
    print_remarks(&engine);
    let mut session = Session::new(engine.clone(), args);
    let done = if io::stdin().is_terminal() {
        converse(&mut session)
    } else {
        answer_lines(&mut session)
    };
    keep_prefix_cache(&engine, &args.engine.cache);
    done
}

/// Each line of stdin is one turn of the user, to the letter.
fn answer_lines(session: &mut Session) -> Result<(), CliError> {
    for line in io::stdin().lock().lines() {
        let line = line.map_err(|error| CliError::Usage(format!("cannot read stdin: {error}")))?;
        if !line.trim().is_empty() {
            session.answer(line)?;
        }
    }
    Ok(())
}

/// Turns and commands from the line editor, until Ctrl-D or `/quit`.
fn converse(session: &mut Session) -> Result<(), CliError> {
    let style = Style::stderr();
    let mut editor = TurnEditor::new(slash::NAMES)?;
    eprintln!(
        "{}",
        style.dim(&format!(
            "{}. /help lists the commands, Ctrl-D leaves.",
            session.model_name()
        ))
    );
    let mut leaving = false;
    loop {
        let input = editor.read("> ")?;
        let was_leaving = std::mem::replace(&mut leaving, input == Input::Cancelled);
        let text = match input {
            Input::End => return Ok(()),
            Input::Cancelled if was_leaving => return Err(CliError::Interrupted),
            Input::Cancelled => {
                eprintln!("{}", style.dim("Ctrl-C again or Ctrl-D leaves."));
                continue;
            }
            Input::Text(text) if text.trim().is_empty() => continue,
            Input::Text(text) => text,
        };
        let done = match slash::parse(&text) {
            None => session.answer(text),
            Some(Ok(Slash::Quit)) => return Ok(()),
            Some(Ok(command)) => obey(session, &command),
            Some(Err(wrong)) => Err(CliError::Usage(wrong)),
        };
        match done {
            Ok(()) => {}
            Err(CliError::ClosedPipe) => return Err(CliError::ClosedPipe),
            // Nothing that goes wrong in one turn ends the session.
            Err(error) => eprintln!(
                "{} {}",
                style.red("error:"),
                error.message().unwrap_or("interrupted")
            ),
        }
    }
}

fn obey(session: &mut Session, command: &Slash) -> Result<(), CliError> {
    match command {
        Slash::Help => output::print(slash::HELP),
        Slash::System(Some(text)) => {
            session.set_system(Some(text.clone()));
            Ok(())
        }
        Slash::System(None) => {
            output::print_line(session.system().unwrap_or("(no system message)"))
        }
        Slash::Reset => {
            session.reset();
            Ok(())
        }
        Slash::Adapter(None) => output::print(&session.adapters()),
        Slash::Adapter(Some(name)) => session.choose_adapter(name),
        Slash::Save(path) => session.save(path),
        Slash::Load(path) => session.load(path),
        Slash::Stats => output::print(&session.stats()),
        Slash::Quit => Ok(()),
    }
}
