//! The user's terminal: output, questions and progress.

pub(crate) mod output;
pub(crate) mod progress;
pub(crate) mod prompt;
pub(crate) mod tty;
