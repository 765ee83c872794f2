//! The log: off unless asked for, on standard error or in a file, never on standard output.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tracing::Level;
use tracing_subscriber::filter::{Targets, filter_fn};
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::cli::LogArgs;
use crate::system::files::open_own;
use crate::terminal::output::note;
use crate::text::Log;

/// Starts the log that was asked for by `-v`, `--log-file` or `RUST_LOG`, which adds to the others.
///
/// # Errors
/// The file cannot be written, or holds something else.
pub(crate) fn start(args: &LogArgs) -> Result<(), NoLog> {
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
        note(&format!("RUST_LOG={directives} is not understood, and left out"));
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

/// Why there is no log in a file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoLog {
    /// It is no file, another user's, or cannot be written.
    #[error("cannot write the log file {}: {error}", path.display())]
    NotOpened {
        /// The file.
        path: PathBuf,
        /// What the system says, or what the file is.
        error: io::Error,
    },
    /// Its permissions let other users read or write it.
    #[error("the log file {} is open to other users (mode {mode:04o})", path.display())]
    InsecurePermissions {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Something else is in it.
    #[error("the log file {} holds something else than a log of arcssh", .0.display())]
    NotALog(PathBuf),
}

/// A log names machines, users and tenants: it is for its owner's eyes. The file can be named by mistake: what is not a
/// log is not written to.
fn open(path: &Path) -> Result<File, NoLog> {
    let not_opened = |error| NoLog::NotOpened { path: path.to_owned(), error };
    let options = &mut OpenOptions::new();
    let file = open_own(path, options.create(true).read(true).append(true)).map_err(not_opened)?;
    if !begins_as_log(&file).map_err(not_opened)? {
        return Err(NoLog::NotALog(path.to_owned()));
    }
    #[cfg(unix)]
    ensure_private(&file, path)?;
    Ok(file)
}

/// A second name, a hard link, can lead other programs to a file of the user's.
#[cfg(unix)]
fn ensure_private(file: &File, path: &Path) -> Result<(), NoLog> {
    use std::os::unix::fs::MetadataExt as _;
    let not_opened = |error| NoLog::NotOpened { path: path.to_owned(), error };
    let found = file.metadata().map_err(not_opened)?;
    let mode = found.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(NoLog::InsecurePermissions { path: path.to_owned(), mode });
    }
    match found.nlink() {
        0 | 1 => Ok(()),
        _ => Err(not_opened(io::Error::new(ErrorKind::InvalidInput, "it is a hard link"))),
    }
}

/// Whether a file is empty, or begins with a date and time as tracing-subscriber writes it (RFC 3339, in UTC).
fn begins_as_log(mut file: &File) -> io::Result<bool> {
    const FORM: &[u8] = b"0000-00-00T00:00:00.000000Z ";
    let mut head = Vec::new();
    file.by_ref().take(FORM.len() as u64).read_to_end(&mut head)?;
    let fits = |(found, form): (&u8, &u8)| if *form == b'0' { found.is_ascii_digit() } else { found == form };
    Ok(head.is_empty() || (head.len() == FORM.len() && head.iter().zip(FORM).all(fits)))
}
