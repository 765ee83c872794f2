//! Questions to the user, on a terminal only.

use std::io::{IsTerminal, Write, stderr, stdin};

use anyhow::{Result, bail};
use tokio::task::spawn_blocking;

use crate::text::sanitize;

/// Whether a command needs confirmation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Confirm {
    /// The user has typed `--yes`.
    Yes,
    /// The command asks the user.
    Ask,
}

impl Confirm {
    /// Returns the value for the option `--yes`.
    pub(crate) fn of(yes: bool) -> Self {
        if yes { Self::Yes } else { Self::Ask }
    }

    /// Asks the user, if necessary.
    ///
    /// # Errors
    /// [`PromptError`].
    pub(crate) async fn to(self, question: &str) -> Result<()> {
        if self == Self::Yes {
            return Ok(());
        }
        match answer(&format!("{question} [y/N]")).await?.as_deref() {
            Some("y" | "yes") => Ok(()),
            Some(_) => bail!(PromptError::Declined),
            None => bail!(PromptError::NotInteractive),
        }
    }
}

/// Asks a harmless question, which Enter answers with yes. Returns false if there is no terminal.
///
/// # Errors
/// The terminal cannot be read.
pub(crate) async fn confirm(question: &str) -> Result<bool> {
    Ok(matches!(answer(&format!("{question} [Y/n]")).await?.as_deref(), Some("" | "y" | "yes")))
}

/// Returns the user's answer in lower case, or `None` if there is no terminal. A thread reads it, so that Ctrl-C still ends
/// arcssh.
async fn answer(question: &str) -> Result<Option<String>> {
    if !stdin().is_terminal() || !stderr().is_terminal() {
        return Ok(None);
    }
    let mut stderr = stderr();
    let _ = write!(stderr, "{} ", sanitize(&format!("arcssh: {question}")));
    let _ = stderr.flush();
    let Some(line) = spawn_blocking(|| stdin().lines().next().transpose()).await?? else {
        // After Ctrl-D, the cursor is on the line of the question.
        let _ = writeln!(stderr);
        return Ok(Some("no".into()));
    };
    Ok(Some(line.trim().to_lowercase()))
}

/// The user has not confirmed a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PromptError {
    /// The user declined.
    #[error("nothing was changed")]
    Declined,
    /// There is no terminal.
    #[error("nothing was changed: there is no terminal to ask on")]
    NotInteractive,
}
