//! `arcssh completions`: prints a shell completion script.

use clap::CommandFactory;
use clap_complete::{Shell, generate};

use crate::cli::{Cli, CompletionsArgs};
use crate::diagnosis::Result;
use crate::terminal::output::print;

/// Prints the script and returns the exit status. The scripts run `arcssh complete`, so they remain valid for other versions.
/// `clap_complete` has scripts for its own protocol, but warns that the protocol changes, and its script for PowerShell
/// evaluates the command line.
///
/// # Errors
/// Standard output cannot be written.
pub(crate) fn run(args: &CompletionsArgs) -> Result<u8> {
    let script = match args.shell {
        Shell::Bash => include_str!("arcssh.bash"),
        Shell::Zsh => include_str!("_arcssh"),
        Shell::Fish => include_str!("arcssh.fish"),
        Shell::PowerShell => include_str!("arcssh.ps1"),
        // Without names.
        other => {
            let mut script = Vec::new();
            generate(other, &mut Cli::command(), "arcssh", &mut script);
            print(&script)?;
            return Ok(0);
        }
    };
    print(script)?;
    Ok(0)
}
