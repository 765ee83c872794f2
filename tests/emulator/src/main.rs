//! The emulator for people: `arcssh-emulator serve`.

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
    /// Run an emulator until it is interrupted.
    Serve(Box<serve::Serve>),
    /// Show ssh, scp, sftp and rsync at work through arcssh.
    Demo(demo::Demo),
    /// Open a shell with a home directory of its own, in which arcssh reaches emulated machines.
    Playground(shell::Shell),
}

fn main() -> anyhow::Result<ExitCode> {
    match Cli::parse().command {
        Command::Serve(serve) => serve.run().map(|()| ExitCode::SUCCESS),
        Command::Demo(demo) => demo.run().map(|()| ExitCode::SUCCESS),
        Command::Playground(shell) => shell.run(),
    }
}
