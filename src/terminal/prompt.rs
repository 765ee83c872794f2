//! Asks the user before something is changed: on a terminal, and nowhere else.

use std::io::{IsTerminal, Write, stderr, stdin};

use anyhow::{Result, bail};
use tokio::task::spawn_blocking;

use crate::text::sanitize;

/// How a command may go ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Confirm {
    /// It was given where the command was typed.
    Yes,
    /// The user is to be asked.
    Ask,
}

impl Confirm {
    /// What `--yes` means.
    pub(crate) fn of(yes: bool) -> Self {
        if yes { Self::Yes } else { Self::Ask }
    }

    /// Asks, if that is still to be done.
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

/// Whether the user wants something of no danger: nobody does where there is no terminal to ask on.
///
/// # Errors
/// The terminal cannot be read.
pub(crate) async fn confirm(question: &str) -> Result<bool> {
    Ok(matches!(answer(&format!("{question} [Y/n]")).await?.as_deref(), Some("" | "y" | "yes")))
}

/// What the user answers, in lower case; none where there is no terminal to ask on. A thread waits for it, so that Ctrl-C
/// is an answer too.
async fn answer(question: &str) -> Result<Option<String>> {
    if !stdin().is_terminal() || !stderr().is_terminal() {
        return Ok(None);
    }
    let mut stderr = stderr();
    let _ = write!(stderr, "{} ", sanitize(&format!("arcssh: {question}")));
    let _ = stderr.flush();
    let Some(line) = spawn_blocking(|| stdin().lines().next().transpose()).await?? else {
        // Ctrl-D: the cursor stands behind the question.
        let _ = writeln!(stderr);
        return Ok(Some("no".into()));
    };
    Ok(Some(line.trim().to_lowercase()))
}

/// Why nothing is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PromptError {
    /// The user said no.
    #[error("nothing was changed")]
    Declined,
    /// There is no terminal to ask on.
    #[error("nothing was changed: there is no terminal to ask on")]
    NotInteractive,
}
