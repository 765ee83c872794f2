//! The terminal, its user, and waiting.

use crate::diagnosis::network::check_network;
use crate::diagnosis::system::FREE_DISK;
use crate::diagnosis::{Code, Diagnosis, Hint};
use crate::terminal::TerminalError;

/// Diagnoses an error. `warm` is the command that fills the cache for the machine, if it is known.
pub(super) fn terminal(error: &TerminalError, warm: Option<String>) -> Diagnosis {
    let summary = error.to_string();
    match error {
        TerminalError::Stdout(_) => Diagnosis::new(Code::OutputFailed, summary, FREE_DISK),
        TerminalError::Stdin(_) | TerminalError::Declined => {
            Diagnosis::without_hint(Code::NotConfirmed, summary)
        }
        TerminalError::NothingPicked => Diagnosis::without_hint(Code::Interrupted, summary),
        TerminalError::NotInteractive => {
            Diagnosis::new(Code::NotConfirmed, summary, "to confirm without a question, add --yes")
        }
        TerminalError::TimedOut { .. } => Diagnosis::new(Code::TimedOut, summary, check_network()),
        TerminalError::Interrupted { signal, .. } => {
            let hint = match warm {
                Some(command) => Hint::new("to fill the cache before you connect, run: ", command),
                None => "to wait longer, use ssh -o ConnectTimeout=120".into(),
            };
            Diagnosis::new(Code::of_signal(*signal), summary, hint)
        }
    }
}
