//! The log: off unless asked for, on standard error or in a file, never on standard output.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::sync::Mutex;

use anyhow::{Context, Result};
use tracing::Level;
use tracing_subscriber::filter::{Targets, filter_fn};
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::cli::LogArgs;
use crate::line::{Log, warn};

/// Starts the log that was asked for by `-v`, `--log-file` or `RUST_LOG`, which adds to the others.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn start(args: &LogArgs) -> Result<()> {
    let directives = std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
    if args.verbose == 0 && args.log_file.is_none() && directives.is_none() {
        return Ok(());
    }
    let by_variable = directives.as_deref().and_then(understood);
    let on_stderr = args.verbose > 0 || by_variable.is_some();
    let typed = args.verbose > 0 || args.log_file.is_some();
    let by_arguments = if typed { by_verbosity(args.verbose) } else { Targets::new() };
    let by_variable = by_variable.unwrap_or_default();
    let wanted = filter_fn(move |event| {
        [&by_arguments, &by_variable]
            .iter()
            .any(|targets| targets.would_enable(event.target(), event.level()))
    });
    let stderr = on_stderr.then(|| fmt::layer().with_ansi(false).with_writer(|| Log(std::io::stderr())));
    let file = match &args.log_file {
        Some(path) => Some(fmt::layer().with_ansi(false).with_writer(Mutex::new(Log(open(path)?)))),
        None => None,
    };
    tracing_subscriber::registry().with(stderr).with(file).with(wanted).init();
    Ok(())
}

/// What `RUST_LOG` asks for. What cannot be understood is no reason not to connect.
fn understood(directives: &str) -> Option<Targets> {
    let targets = directives.parse().ok();
    if targets.is_none() {
        warn(&format!("RUST_LOG={directives} is not understood, and left out"));
    }
    targets
}

/// What each `-v` adds. A log file alone holds as much as `-v`.
fn by_verbosity(verbose: u8) -> Targets {
    match verbose {
        0 | 1 => Targets::new().with_target("arcssh", Level::INFO),
        2 => Targets::new().with_target("arcssh", Level::DEBUG).with_default(Level::INFO),
        _ => Targets::new().with_default(Level::DEBUG),
    }
}

/// A log names machines, users and tenants: it is for its owner's eyes.
fn open(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).with_context(|| format!("cannot write the log file {}", path.display()))
}
