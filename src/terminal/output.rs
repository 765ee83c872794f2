//! Writing to standard output and standard error.

use std::io::{ErrorKind, Write};

use anyhow::{Context as _, Result};

use crate::text::sanitize;

/// Prints a message that is not an error to standard error. A failed write is ignored.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", sanitize(&format!("arcssh: {text}")));
}

/// Writes lines that the caller has sanitized to standard error. A failed write is ignored.
pub(crate) fn print_on_stderr(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Prints the result of a command. A closed pipe is not an error: the reader needs no more.
///
/// # Errors
/// [`StdoutError`]: the disk is full.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context(StdoutError),
        _ => Ok(()),
    }
}

/// Standard output cannot be written.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("standard output cannot be written")]
pub(crate) struct StdoutError;
