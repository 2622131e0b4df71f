//! `glm-cli`: chat with, measure, quantise and inspect GLM language models from a terminal.
//!
//! The program is thin: [`args`] says what can be asked, `commands/` calls the libraries and prints, `terminal/` is
//! everything a person sees move. Results go to stdout, progress and remarks to stderr.

#![forbid(unsafe_code)]

mod args;
mod commands;
mod error;
mod terminal;
mod values;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command};
use crate::error::CliError;
use crate::terminal::{interrupt, style::Style};

fn main() -> ExitCode {
    let cli = Cli::parse();
    interrupt::install();
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if let Some(message) = error.message() {
                eprintln!("{} {message}", Style::stderr().red("error:"));
            }
            error.exit_code()
        }
    }
}

fn run(command: Command) -> Result<(), CliError> {
    match command {
        Command::Chat(args) => commands::chat::run(&args),
        Command::Generate(args) => commands::generate::run(&args),
        Command::Batch(args) => commands::batch::run(&args),
        Command::Serve(args) => commands::serve::run(&args),
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
