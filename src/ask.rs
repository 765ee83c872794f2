//! Asks the user before something is changed: on a terminal, and nowhere else.

use std::io::{IsTerminal, Write, stderr, stdin};

use anyhow::{Result, bail};

use crate::line::one_line;

/// How a command may go ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consent {
    /// It was given where the command was typed.
    Given,
    /// The user is to be asked.
    Asked,
}

impl Consent {
    /// What `--yes` means.
    pub(crate) fn of(yes: bool) -> Self {
        if yes { Self::Given } else { Self::Asked }
    }

    /// Asks, if that is still to be done.
    ///
    /// # Errors
    /// [`NotAgreed`].
    pub(crate) fn to(self, question: &str) -> Result<()> {
        if self == Self::Given {
            return Ok(());
        }
        if !stdin().is_terminal() || !stderr().is_terminal() {
            bail!(NotAgreed::NobodyToAsk);
        }
        let mut stderr = stderr();
        let _ = write!(stderr, "{} [y/N] ", one_line(&format!("arcssh: {question}")));
        let _ = stderr.flush();
        let mut answer = String::new();
        stdin().read_line(&mut answer)?;
        match answer.trim().to_lowercase().as_str() {
            "y" | "yes" => Ok(()),
            _ => bail!(NotAgreed::Declined),
        }
    }
}

/// Why nothing is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotAgreed {
    /// The user said no.
    #[error("nothing was changed")]
    Declined,
    /// There is no terminal to ask on.
    #[error("nothing was changed: there is no terminal to ask on")]
    NobodyToAsk,
}
