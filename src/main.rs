//! arcssh: plain `ssh` to Azure Arc-enabled servers.
//!
//! This file starts the program, dispatches commands and returns the exit status.

mod azure;
mod cli;
mod commands;
mod diagnosis;
mod entra_ssh;
mod logging;
mod machines;
mod net;
mod provisioning;
mod relay;
mod ssh;
mod state;
mod system;
mod terminal;
#[cfg(test)]
mod tests;
mod text;

use std::io::{stderr, stdout};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;

use crate::cli::{Cli, Command, usage_error};
use crate::commands::setup::Next;
use crate::diagnosis::Result;
use crate::diagnosis::code::ExitStatus;
use crate::system::signals::{Signals, or_shutdown};
use crate::terminal::output::{print, print_on_stderr, print_sanitized_on_stderr};
use crate::terminal::palette::Colors;

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or_default();
        diagnosis::report_panic(text, panic.location());
        std::process::exit(u8::from(ExitStatus::Failed).into());
    }));
    #[cfg(unix)]
    disable_dumps();
    #[cfg(all(target_os = "linux", target_env = "gnu", target_feature = "crt-static"))]
    system::names::use_built_in_modules();
    match Cli::from_command_line().map_or_else(|usage| show(&usage), |cli| start(&cli)) {
        Ok(status) => ExitCode::from(status),
        Err(error) => ExitCode::from(diagnosis::report(&error)),
    }
}

/// Prints the help or the version to standard output, or a usage error to standard error. Text that quotes the command line
/// is sanitized and has no colours.
fn show(usage: &clap::Error) -> Result<u8> {
    use clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    let text = usage.render();
    if !usage.use_stderr() {
        let is_plain = Colors::of(&stdout()) == Colors::Off;
        print(&if is_plain { text.to_string() } else { text.ansi().to_string() })?;
        return Ok(0);
    }
    if usage.kind() != DisplayHelpOnMissingArgumentOrSubcommand {
        print_sanitized_on_stderr(&usage_error(usage, std::env::args_os()));
    } else if Colors::of(&stderr()) == Colors::On {
        print_on_stderr(&text.ansi().to_string());
    } else {
        print_on_stderr(&text.to_string());
    }
    Ok(ExitStatus::Usage.into())
}

/// Runs the command on one thread. A second thread costs CPU time, and makes the one stream of a connection no faster.
fn start(cli: &Cli) -> Result<u8> {
    system::limits::check()?;
    if let Some(ssh) = &cli.client.ssh {
        ssh::client::select(ssh.as_ref());
    }
    logging::start(cli.log.verbose, cli.log.log_file.as_deref())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_keep_alive(UNLIMITED)
        .build()
        .context("cannot start")?;
    // `arcssh proxy` starts no thread between two pipes of ssh, and otherwise checks this itself.
    if !matches!(cli.command, Command::Proxy(_)) {
        system::limits::check_thread()?;
        drop(runtime.spawn_blocking(|| {}));
        #[cfg(unix)]
        watch_signals();
    }
    let result = runtime.block_on(async {
        #[cfg(unix)]
        let _write_fails_instead = tokio::signal::unix::signal(FILE_TOO_LONG);
        match &cli.command {
            // They handle signals themselves: the message of the proxy names the current step, the doctor prints the results
            // that it has, and the forwarder and the ping their totals.
            Command::Proxy(_) | Command::Doctor(_) | Command::Forward(_) | Command::Ping(_) => run(cli).await,
            _ => or_shutdown(&mut Signals::new(), run(cli), |number| Ok(128 + number)).await,
        }
    });
    // A thread that reads standard input cannot be cancelled.
    runtime.shutdown_background();
    result
}

/// Ends arcssh after a signal even if a command waits for a program without the runtime. A command that notices the signal
/// has ended before: it deletes its temporary files.
#[cfg(unix)]
fn watch_signals() {
    const LIMIT: Duration = Duration::from_millis(500);
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_io().build() else { return };
    let watch = move || {
        let number = runtime.block_on(system::signals::shutdown());
        if system::signals::is_taken_over() {
            return;
        }
        system::children::kill_all();
        std::thread::sleep(LIMIT);
        std::process::exit((128 + number).into());
    };
    // Without the thread, a signal ends arcssh as soon as the program has ended.
    let _ = std::thread::Builder::new().spawn(watch);
}

async fn run(cli: &Cli) -> Result<u8> {
    match &cli.command {
        Command::Login(args) => commands::login::run(args).await,
        Command::Config(args) => commands::config::run(args).await,
        Command::Ssh(args) => commands::ssh::run(args, &cli.log).await,
        Command::Rdp(args) => commands::rdp::run(args, &cli.log).await,
        Command::List(args) => commands::list::run(args).await,
        Command::Cert(args) => commands::cert::run(args).await,
        Command::Warm(args) => commands::warm::run(args).await,
        Command::Forward(args) => commands::forward::run(args).await,
        Command::Ping(args) => commands::ping::run(args).await,
        Command::KnownHosts(args) => commands::known_hosts::run(args).await,
        Command::Setup(args) => match commands::setup::run(args).await? {
            Next::End(status) => Ok(status),
            Next::Config(args) => commands::config::run(&args).await,
        },
        Command::Teardown(args) => commands::teardown::run(args).await,
        Command::Doctor(args) => commands::doctor::run(args).await,
        Command::Last(args) => commands::last::run(args),
        Command::Account(args) => commands::account::run(args).await,
        Command::Logout(args) => commands::logout::run(args).await,
        Command::Cache(args) => commands::cache::run(args),
        Command::Proxy(args) => commands::proxy::run(args, &cli.log).await,
        Command::Completions(args) => commands::completions::run(args),
        Command::Complete(args) => commands::complete::run(args),
        Command::Man(args) => commands::man::run(args),
        Command::Version(args) => commands::version::run(args, &cli.log),
    }
}

/// The lifetime of an idle thread of tokio, which panics if the system denies it a new one. That would end an open connection.
const UNLIMITED: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// SIGXFSZ, which ends a program that exceeds `ulimit -f`. If the signal is handled, the write fails instead.
#[cfg(unix)]
const FILE_TOO_LONG: tokio::signal::unix::SignalKind =
    tokio::signal::unix::SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw());

/// Disables core files, and access to this process's memory for other processes of the user. A program that arcssh starts is
/// dumpable again (prctl(2), PR_SET_DUMPABLE).
#[cfg(unix)]
fn disable_dumps() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Core);
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), ..limit });
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
}
