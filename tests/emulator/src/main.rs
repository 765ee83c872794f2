//! The emulator as a program: `arcssh-emulator serve`, `demo` and `playground`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod demo;
mod serve;
mod shell;

/// Entra ID, Azure Resource Manager, Azure Relay and the Arc agent on loopback.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run an emulator until a signal stops it
    Serve(Box<serve::Serve>),
    /// Run ssh, scp, sftp and rsync through arcssh
    Demo(demo::Demo),
    /// Open a shell with a separate home directory, in which arcssh reaches emulated machines
    Playground(shell::Shell),
}

fn main() -> anyhow::Result<ExitCode> {
    match Cli::parse().command {
        Command::Serve(serve) => serve.run().map(|()| ExitCode::SUCCESS),
        Command::Demo(demo) => demo.run().map(|()| ExitCode::SUCCESS),
        Command::Playground(shell) => shell.run(),
    }
}
