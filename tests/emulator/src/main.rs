//! The emulator for people: `arcssh-emulator serve`.

use clap::{Parser, Subcommand};

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
    Serve(serve::Serve),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Serve(serve) => serve.run(),
    }
}
