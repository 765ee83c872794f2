//! The user's terminal: output, questions and progress.

pub(crate) mod output;
pub(crate) mod palette;
pub(crate) mod picker;
pub(crate) mod progress;
pub(crate) mod prompt;
pub(crate) mod table;
pub(crate) mod tty;

use std::time::Duration;

/// The output, the user or the time limit ended a command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TerminalError {
    /// A write to standard output failed, for example because a disk is full.
    #[error("cannot write to standard output: {0}")]
    Stdout(std::io::Error),
    /// The user did not confirm.
    #[error("nothing was changed: you did not confirm the changes")]
    Declined,
    /// There is no terminal.
    #[error("nothing was changed: there is no terminal to ask for confirmation")]
    NotInteractive,
    /// The answer cannot be read.
    #[error("cannot read the answer from the terminal: {0}")]
    Stdin(std::io::Error),
    /// The user picked no line of a list.
    #[error("no machine was picked")]
    NothingPicked,
    /// A part of the work took too long.
    #[error("timed out after {} s waiting for the {object}", .after.as_secs())]
    TimedOut {
        /// The awaited object.
        object: String,
        /// The time limit.
        after: Duration,
    },
    /// A signal ended the wait for a connection.
    #[error("ssh stopped waiting after {} s for the {object}", .after.as_secs())]
    Interrupted {
        /// The awaited object.
        object: String,
        /// How long arcssh had waited.
        after: Duration,
        /// The number of the signal.
        signal: u8,
    },
}
