//! `glm-cli`: chat with, measure, quantise and inspect GLM language models from a terminal.
//!
//! The program is thin: [`args`] says what can be asked, `commands/` calls the libraries and prints, `terminal/` is
//! everything a person sees move. Results go to stdout, progress and remarks to stderr.

#![forbid(unsafe_code)]

mod args;
mod commands;
mod error;
#[cfg(feature = "profile")]
mod heap;
mod terminal;
mod values;

use std::process::ExitCode;

use crate::args::Command;
use crate::args::layers::{CommandLine, ParseError, Settings};
use crate::error::CliError;
use crate::terminal::{interrupt, style::Style};

fn main() -> ExitCode {
    let line = CommandLine::of_this_process();
    let (cli, settings) = match line.parse() {
        Ok(parsed) => parsed,
        // Help and version end there too, with exit code 0.
        Err(ParseError::Clap(error)) => error.exit(),
        Err(ParseError::Source(error)) => return report(&error),
    };
    interrupt::install();
    match run(cli.command, line, settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error),
    }
}

fn report(error: &CliError) -> ExitCode {
    if let Some(message) = error.message() {
        eprintln!("{} {message}", Style::stderr().red("error:"));
    }
    error.exit_code()
}

fn run(command: Command, line: CommandLine, settings: Settings) -> Result<(), CliError> {
    match command {
        Command::Chat(args) => commands::chat::run(&args),
        Command::Generate(args) => commands::generate::run(&args),
        Command::Batch(args) => commands::batch::run(&args),
        Command::Serve(args) => commands::serve::run(&args, line, &settings),
        Command::Tokenize(args) => commands::tokenize::run(&args),
        Command::Inspect(args) => commands::inspect::run(&args),
        Command::Perplexity(args) => commands::perplexity::run(&args),
        Command::Quantize(args) => commands::quantize::run(&args),
        Command::Bench(args) => commands::bench::run(&args),
        Command::Doctor(args) => commands::doctor::run(&args),
        Command::Completions(args) => commands::completions::run(&args),
        Command::Man(args) => commands::man::run(&args),
    }
}
