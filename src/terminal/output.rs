//! Writing to standard output and standard error.

use std::io::{ErrorKind, Write};

use tracing::{Level, enabled};

use crate::terminal::TerminalError;
use crate::text::{grouped, lines, sanitize};

/// The target of log events whose text arcssh also prints. Only a log file contains them.
pub(crate) const PRINTED: &str = "arcssh::printed";

/// Prints a message that is not an error to standard error. A failed write is ignored.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", sanitize(&format!("arcssh: {text}")));
}

/// The names that a message has at most, unless the log of `-v` is on.
const MAX_NAMES: usize = 3;

/// Prints a message about several objects, and their names: the first ones, or with `-v` all, several on each line.
pub(crate) fn note_names(text: &str, names: &[String]) {
    const PER_LINE: usize = 20;
    if !enabled!(Level::INFO) {
        let (first, others) = names.split_at(names.len().min(MAX_NAMES));
        let more = match others.len() {
            0 => String::new(),
            more => format!(" and {} more", grouped(more)),
        };
        return note(&format!("{text}: {}{more}", first.join(", ")));
    }
    note(&format!("{text}:"));
    names.chunks(PER_LINE).for_each(|names| note(&format!("  {}", names.join(", "))));
}

/// Writes lines of our own to standard error. A failed write is ignored.
pub(crate) fn print_on_stderr(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Writes lines that quote others to standard error, without unsafe characters. A failed write is ignored.
pub(crate) fn print_sanitized_on_stderr(text: &str) {
    print_on_stderr(&lines(text));
}

/// Prints the output of a command. A reader that closes the pipe has read enough.
///
/// # Errors
/// [`TerminalError::Stdout`].
pub(crate) fn print(text: &(impl AsRef<[u8]> + ?Sized)) -> Result<(), TerminalError> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_ref()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(TerminalError::Stdout(error)),
        _ => Ok(()),
    }
}
