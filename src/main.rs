//! arcssh: plain `ssh` to Azure Arc-enabled servers.
//!
//! Starts the program and ends it; nothing else ends it.

mod azure;
mod cli;
mod commands;
mod diagnosis;
mod entra_ssh;
#[cfg(test)]
mod fuzz_tests;
mod logging;
mod machines;
mod net;
mod provisioning;
mod relay;
mod ssh;
mod state;
mod system;
mod terminal;
mod text;

use std::io::{stderr, stdout};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;

use crate::cli::{Cli, Command};
use crate::commands::setup::Next;
use crate::diagnosis::Result;
use crate::diagnosis::code::ExitStatus;
use crate::terminal::output::{print, print_on_stderr};
use crate::terminal::tty::use_color;
use crate::text::lines;

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        diagnosis::system::report_panic(panic);
        std::process::exit(u8::from(ExitStatus::Failed).into());
    }));
    #[cfg(unix)]
    no_dump();
    match Cli::from_command_line().map_or_else(|usage| show(&usage), |cli| start(&cli)) {
        Ok(status) => ExitCode::from(status),
        Err(error) => ExitCode::from(diagnosis::report(&error)),
    }
}

/// Prints the help or the version on standard output, and what is wrong with a command line on standard error. Only the
/// program's own text is coloured: a wrong command line is quoted, and may hold anything.
fn show(usage: &clap::Error) -> Result<u8> {
    use clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    let text = usage.render();
    if !usage.use_stderr() {
        let is_coloured = use_color(&stdout());
        print(&if is_coloured { text.ansi().to_string() } else { text.to_string() })?;
        return Ok(0);
    }
    let is_help = usage.kind() == DisplayHelpOnMissingArgumentOrSubcommand;
    let is_coloured = is_help && use_color(&stderr());
    print_on_stderr(&if is_coloured { text.ansi().to_string() } else { lines(&text.to_string()) });
    Ok(ExitStatus::Usage.into())
}

/// One thread drives everything: a second one costs CPU time and buys no throughput on a connection's one stream.
fn start(cli: &Cli) -> Result<u8> {
    system::limits::check()?;
    logging::start(&cli.log)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_keep_alive(FOR_EVER)
        .build()
        .context("cannot start")?;
    drop(runtime.spawn_blocking(|| {}));
    let result = runtime.block_on(async {
        #[cfg(unix)]
        let _fails_the_write = tokio::signal::unix::signal(FILE_TOO_LONG);
        tokio::select! {
            biased;
            result = run(cli) => result,
            // The proxy looks out for them by itself: it tells what it was waiting for.
            number = system::signals::shutdown(), if !matches!(cli.command, Command::Proxy(_)) => Ok(128 + number),
        }
    });
    // A read of standard input that is under way on a thread cannot be cancelled, and is not waited for.
    runtime.shutdown_background();
    result
}

async fn run(cli: &Cli) -> Result<u8> {
    match &cli.command {
        Command::Login(args) => commands::login::run(args).await,
        Command::Config(args) => commands::config::run(args).await,
        Command::List(args) => commands::list::run(args).await,
        Command::Cert(args) => commands::cert::run(args).await,
        Command::Warm(args) => commands::warm::run(args).await,
        Command::Setup(args) => match commands::setup::run(args).await? {
            Next::End(status) => Ok(status),
            Next::Config(args) => commands::config::run(&args).await,
        },
        Command::Teardown(args) => commands::teardown::run(args).await,
        Command::Doctor(args) => commands::doctor::run(args).await,
        Command::Last(args) => commands::last::run(args),
        Command::Account(args) => commands::account::run(args).await,
        Command::Logout => commands::logout::run().await,
        Command::Cache(args) => commands::cache::run(args),
        Command::Proxy(args) => commands::proxy::run(args).await,
        Command::Completions(args) => commands::completions::run(args),
        Command::Man(args) => commands::man::run(args),
        Command::Version => commands::version::run(&cli.log),
    }
}

/// How long a thread for name resolution stays: a connection that stands must not end because the system denies it
/// another (tokio panics then).
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// What the system sends whoever writes beyond `ulimit -f`, which would end the program.
#[cfg(unix)]
const FILE_TOO_LONG: tokio::signal::unix::SignalKind =
    tokio::signal::unix::SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw());

/// Keeps secrets out of core files, and other processes of the same user out of this one's memory. A program that arcssh
/// starts is dumpable again (prctl(2), PR_SET_DUMPABLE).
#[cfg(unix)]
fn no_dump() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Core);
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), ..limit });
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
}
