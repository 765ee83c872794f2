//! Questions to the user, on a terminal only.

use std::io::{self, IsTerminal, Write, stderr, stdin};

use tokio::task::spawn_blocking;

use crate::terminal::TerminalError;
use crate::text::sanitize;

/// Whether a command asks before it changes anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Confirm {
    /// `--yes` confirms.
    Yes,
    /// The user must confirm.
    Ask,
}

impl Confirm {
    /// Returns the meaning of `--yes`.
    pub(crate) fn of(yes: bool) -> Self {
        if yes { Self::Yes } else { Self::Ask }
    }

    /// Asks the question, unless `--yes` was given.
    ///
    /// # Errors
    /// The user does not confirm, or there is no terminal.
    pub(crate) async fn to(self, question: &str) -> Result<(), TerminalError> {
        if self == Self::Yes {
            return Ok(());
        }
        match answer(&format!("{question} [y/N]")).await?.as_deref() {
            Some("y" | "yes") => Ok(()),
            Some(_) => Err(TerminalError::Declined),
            None => Err(TerminalError::NotInteractive),
        }
    }
}

/// Asks a question whose default is yes. Without a terminal, the answer is no.
///
/// # Errors
/// The terminal cannot be read.
pub(crate) async fn confirm(question: &str) -> Result<bool, TerminalError> {
    Ok(matches!(answer(&format!("{question} [Y/n]")).await?.as_deref(), Some("" | "y" | "yes")))
}

/// Returns the user's answer in lower case; `None` without a terminal. A thread reads it, so that Ctrl-C works.
async fn answer(question: &str) -> Result<Option<String>, TerminalError> {
    if !stdin().is_terminal() || !stderr().is_terminal() {
        return Ok(None);
    }
    let mut stderr = stderr();
    let _ = write!(stderr, "{} ", sanitize(&format!("arcssh: {question}")));
    let _ = stderr.flush();
    let line = spawn_blocking(|| stdin().lines().next().transpose()).await;
    let line = line.map_err(io::Error::other).and_then(|line| line).map_err(TerminalError::Stdin)?;
    let Some(line) = line else {
        // After Ctrl-D, the cursor is behind the question.
        let _ = writeln!(stderr);
        return Ok(Some("no".into()));
    };
    Ok(Some(line.trim().to_lowercase()))
}
