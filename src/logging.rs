//! The log: off unless asked for, on standard error or in a file, never on standard output.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::sync::Mutex;

use anyhow::{Context, Result};
use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::cli::LogArgs;

/// Starts the log that was asked for by `-v`, `--log-file` or `RUST_LOG`, which has the last word on what it holds.
///
/// # Errors
/// `RUST_LOG` is not understood, or the file cannot be written.
pub(crate) fn start(args: &LogArgs) -> Result<()> {
    let directives = std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
    if args.verbose == 0 && args.log_file.is_none() && directives.is_none() {
        return Ok(());
    }
    let targets = match &directives {
        Some(text) => text.parse().with_context(|| format!("RUST_LOG={text} is not understood"))?,
        None => by_verbosity(args.verbose),
    };
    let on_stderr = args.verbose > 0 || directives.is_some();
    let stderr = on_stderr.then(|| fmt::layer().with_ansi(false).with_writer(std::io::stderr));
    let file = match &args.log_file {
        Some(path) => Some(fmt::layer().with_ansi(false).with_writer(Mutex::new(open(path)?))),
        None => None,
    };
    tracing_subscriber::registry().with(stderr).with(file).with(targets).init();
    Ok(())
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
