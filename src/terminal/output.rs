//! Writing to standard output and standard error.

use std::io::{ErrorKind, IsTerminal as _, Write};

use clap::builder::styling::Style;
use serde_json::Value;
use tracing::{Level, enabled};

use crate::terminal::palette::Colors;
use crate::terminal::{TerminalError, tty};
use crate::text::{grouped, json_text, lines, sanitize, width};

/// The target of log events whose text arcssh also prints. Only a log file contains them.
pub(crate) const PRINTED: &str = "arcssh::printed";

/// The reader of standard output.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Screen {
    /// A user at a terminal.
    Terminal {
        /// The width of the terminal, if it is known.
        columns: Option<usize>,
        colors: Colors,
    },
    /// A program, or a file: nothing is shortened, relative or coloured.
    Program,
}

impl Screen {
    /// Returns the reader of our standard output.
    pub(crate) fn stdout() -> Self {
        let out = std::io::stdout();
        if !out.is_terminal() {
            return Self::Program;
        }
        Self::Terminal { columns: tty::columns(&out), colors: Colors::of(&out) }
    }

    pub(crate) fn is_terminal(self) -> bool {
        matches!(self, Self::Terminal { .. })
    }

    /// Returns the width to which lines must fit, if there is one.
    pub(crate) fn columns(self) -> Option<usize> {
        match self {
            Self::Terminal { columns, .. } => columns,
            Self::Program => None,
        }
    }

    /// Returns a text and a command to copy, which has its own line if both do not fit into one.
    pub(crate) fn with_command(self, text: &str, command: &str) -> String {
        let line = sanitize(&format!("{text} {command}"));
        let fits = self.columns().is_none_or(|columns| width(&line) <= columns);
        if fits { line } else { sanitize(text) + "\n  " + &sanitize(command) }
    }

    /// Returns a text in a style, if the reader sees colours.
    pub(crate) fn styled(self, text: &str, style: Style) -> String {
        match self {
            Self::Terminal { colors, .. } => colors.paint(style, text),
            Self::Program => text.to_owned(),
        }
    }
}

/// Prints a message that is not an error to standard error. A failed write is ignored.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", sanitize(&format!("arcssh: {text}")));
}

/// Ends the line in which a terminal shows ^C.
pub(crate) fn end_line() {
    if std::io::stderr().is_terminal() {
        print_on_stderr("\n");
    }
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

/// Prints a JSON document.
///
/// # Errors
/// [`TerminalError::Stdout`].
pub(crate) fn print_json(value: &Value) -> Result<(), TerminalError> {
    print(&(json_text(value) + "\n"))
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
