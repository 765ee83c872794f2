//! Writing to standard output and standard error.

use std::io::{ErrorKind, Write};

use crate::terminal::TerminalError;
use crate::text::sanitize;

/// Tells the user of something that is no failure. A standard error that is gone leaves nobody to tell.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", sanitize(&format!("arcssh: {text}")));
}

/// Writes lines for the user, made safe by the caller, to standard error; an error of the write has no place to go.
pub(crate) fn print_on_stderr(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Prints the output of a command. A reader that closes the pipe has read enough.
///
/// # Errors
/// [`TerminalError::Stdout`].
pub(crate) fn print(text: &str) -> Result<(), TerminalError> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(TerminalError::Stdout(error)),
        _ => Ok(()),
    }
}
