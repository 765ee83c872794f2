//! `arcssh completions`: prints a shell completion script.

use clap::CommandFactory;
use clap_complete::generate;

use crate::cli::{Cli, CompletionsArgs};
use crate::diagnosis::Result;
use crate::terminal::output::print;

/// Prints the script and returns the exit status.
///
/// # Errors
/// Standard output cannot be written.
pub(crate) fn run(args: &CompletionsArgs) -> Result<u8> {
    let mut script = Vec::new();
    generate(args.shell, &mut Cli::command(), "arcssh", &mut script);
    print(&script)?;
    Ok(0)
}
