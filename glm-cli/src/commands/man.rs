//! `man`: the manual page, made from the command line's own definition.

use clap::CommandFactory;
use clap_mangen::Man;

use crate::args::{Cli, ManArgs};
use crate::error::CliError;
use crate::terminal::output;

pub fn run(args: &ManArgs) -> Result<(), CliError> {
    let mut cli = Cli::command();
    cli.build();
    let command = match &args.command {
        None => cli,
        Some(name) => cli.find_subcommand(name).cloned().ok_or_else(|| {
            let known: Vec<_> = cli.get_subcommands().map(clap::Command::get_name).collect();
            CliError::Usage(format!(
                "no command `{name}`; there are {}",
                known.join(", ")
            ))
        })?,
    };
    let mut page = Vec::new();
    Man::new(command)
        .render(&mut page)
        .map_err(CliError::failed)?;
    output::print(&String::from_utf8_lossy(&page))
}
