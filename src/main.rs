//! arcssh: plain `ssh` to Azure Arc-enabled servers.
//!
//! Starts the program and ends it; nothing else ends it.

mod azure;
mod cli;
mod commands;
mod failure;
mod fleet;
mod line;
mod logging;
mod net;
mod relay;
mod ssh;
mod stdio;
mod waiting;

use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    match start(&Cli::from_command_line()) {
        Ok(status) => ExitCode::from(status),
        Err(error) => failure::report(&error),
    }
}

/// One thread drives everything: a second one costs CPU time and buys no throughput on a connection's one stream.
fn start(cli: &Cli) -> Result<u8> {
    logging::start(&cli.log)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let result = runtime.block_on(async {
        match &cli.command {
            Command::Proxy(args) => commands::proxy::run(args).await,
            Command::Config(args) => commands::config::run(args).await,
            Command::List(args) => commands::list::run(args).await,
        }
    });
    // A read of standard input that is under way on a thread cannot be cancelled, and is not waited for.
    runtime.shutdown_background();
    result
}
