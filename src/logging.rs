//! The log, off by default, on standard error or in a file; and warnings, which the user always sees.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write};
use std::path::Path;
use std::sync::Mutex;

use tracing::{Level, Metadata};
use tracing_subscriber::filter::{Targets, filter_fn};
use tracing_subscriber::fmt;
use tracing_subscriber::layer::{Layer as _, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::system::SystemError;
use crate::system::files::open_own;
use crate::terminal::output::{PRINTED, note};
use crate::text::Log;

/// Starts the log of `-v`, `--log-file` and `RUST_LOG`, which adds to the options.
///
/// # Errors
/// The log file cannot be written, or is not a log.
pub(crate) fn start(verbose: u8, file: Option<&Path>) -> Result<(), SystemError> {
    let directives = std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
    let by_variable = directives.as_deref().and_then(parse);
    let is_on_stderr = verbose > 0 || by_variable.is_some();
    let has_options = verbose > 0 || file.is_some();
    let by_options = if has_options { verbosity(verbose) } else { Targets::new() };
    let filters = [by_options, by_variable.unwrap_or_default()];
    let is_logged = move |event: &Metadata<'_>| {
        filters.iter().any(|targets| targets.would_enable(event.target(), event.level()))
    };
    let layer = || fmt::layer().with_ansi(false);
    let warnings = layer().without_time().with_level(false).with_target(false).with_writer(|| Warnings);
    let mut layers = vec![warnings.with_filter(Targets::new().with_target("arcssh", Level::WARN)).boxed()];
    if is_on_stderr {
        let stderr = layer().with_writer(|| Log(io::stderr()));
        let is_logged = is_logged.clone();
        let is_new = move |event: &Metadata<'_>| event.target() != PRINTED && is_logged(event);
        layers.push(stderr.with_filter(filter_fn(is_new)).boxed());
    }
    if let Some(path) = file {
        let file = layer().with_writer(Mutex::new(Log(open(path)?)));
        layers.push(file.with_filter(filter_fn(is_logged)).boxed());
    }
    tracing_subscriber::registry().with(layers).init();
    Ok(())
}

/// Parses `RUST_LOG`. An invalid value is no reason not to connect.
fn parse(directives: &str) -> Option<Targets> {
    let targets = directives.parse().ok();
    if targets.is_none() {
        note(&format!("ignoring RUST_LOG={directives}: it is not a list of TARGET=LEVEL"));
    }
    targets
}

/// Returns the events that each `-v` adds. A log file alone has those of `-v`.
fn verbosity(verbose: u8) -> Targets {
    match verbose {
        0 | 1 => Targets::new().with_target("arcssh", Level::INFO),
        2 => Targets::new().with_target("arcssh", Level::DEBUG).with_default(Level::INFO),
        _ => Targets::new().with_default(Level::DEBUG),
    }
}

/// Prints each warning of arcssh as a message to the user. Modules that do not use the terminal warn in this way.
struct Warnings;

impl Write for Warnings {
    /// `tracing_subscriber::fmt` writes an event with one call.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        note(String::from_utf8_lossy(event).trim_end());
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens the log file for appending. A log names machines, users and tenants, so only this user can access it. The user
/// can name a wrong file, so arcssh does not write to a file that is not a log.
fn open(path: &Path) -> Result<File, SystemError> {
    let not_opened = |error| not_opened(path, &error);
    let options = &mut OpenOptions::new();
    let file = open_own(path, options.create(true).read(true).append(true)).map_err(not_opened)?;
    if !begins_as_log(&file).map_err(not_opened)? {
        return Err(SystemError::NotALog(path.to_owned()));
    }
    #[cfg(unix)]
    ensure_private(&file, path)?;
    Ok(file)
}

fn not_opened(path: &Path, cause: &impl ToString) -> SystemError {
    SystemError::LogNotOpened { path: path.to_owned(), cause: cause.to_string() }
}

/// Checks that only this user can access the file. A hard link could be another file of the user.
#[cfg(unix)]
fn ensure_private(file: &File, path: &Path) -> Result<(), SystemError> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = file.metadata().map_err(|error| not_opened(path, &error))?;
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(SystemError::LogInsecure { path: path.to_owned(), mode });
    }
    if metadata.nlink() > 1 {
        return Err(not_opened(path, &"it is a hard link"));
    }
    Ok(())
}

/// Returns whether a file is empty, or begins with a time as tracing-subscriber writes it (RFC 3339, in UTC).
fn begins_as_log(file: &File) -> io::Result<bool> {
    const FORM: &[u8] = b"0000-00-00T00:00:00.000000Z ";
    let mut head = Vec::new();
    file.take(FORM.len() as u64).read_to_end(&mut head)?;
    let matches = |(byte, form): (&u8, &u8)| if *form == b'0' { byte.is_ascii_digit() } else { byte == form };
    Ok(head.is_empty() || (head.len() == FORM.len() && head.iter().zip(FORM).all(matches)))
}
