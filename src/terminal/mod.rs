//! The user's terminal: what arcssh prints, asks and shows while it waits.

pub(crate) mod output;
pub(crate) mod progress;
pub(crate) mod prompt;
pub(crate) mod tty;
