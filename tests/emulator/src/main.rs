//! The emulator for people: `arcssh-emulator serve`.

use clap::{Parser, Subcommand};

mod demo;
mod serve;

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
    /// Leave a machine to play with up until it is interrupted.
    Playground(demo::Demo),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Serve(serve) => serve.run(),
        Command::Demo(demo) => demo.run(),
        Command::Playground(demo) => demo.stay(),
    }
}
