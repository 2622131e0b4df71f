//! `completions`: a completion script for a shell, made from the command line's own definition.

use clap::CommandFactory;

use crate::args::{Cli, CompletionsArgs};
use crate::error::CliError;
use crate::terminal::output;

pub fn run(args: &CompletionsArgs) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "glm-cli", &mut script);
    output::print(&String::from_utf8_lossy(&script))
}
