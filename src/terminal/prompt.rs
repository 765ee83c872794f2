//! Questions to the user, on a terminal only.

use std::io::{self, IsTerminal, Write, stderr, stdin};

use tokio::task::spawn_blocking;
#[cfg(unix)]
use tokio::time::sleep;

use crate::terminal::TerminalError;
use crate::text::sanitize;

/// The time between two polls of the terminal while the user may type a line.
#[cfg(unix)]
const TYPING_INTERVAL: std::time::Duration = std::time::Duration::from_millis(200);

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

/// Returns the next line that the user types; waits forever without a terminal, or for a process in the background, which may
/// not read. The caller can drop the future at any time.
#[cfg(unix)]
pub(crate) async fn typed_line() -> String {
    while stdin().is_terminal() && stderr().is_terminal() {
        sleep(TYPING_INTERVAL).await;
        if is_line_complete()
            && let Some(Ok(line)) = stdin().lines().next()
        {
            return line;
        }
    }
    std::future::pending().await
}

/// Returns whether this process may read a line of the terminal, and reading it does not wait (termios(3), "canonical mode").
/// Another mode is that of a program in the terminal, such as a text browser, for which the input is.
#[cfg(unix)]
fn is_line_complete() -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::termios::{LocalModes, tcgetattr, tcgetpgrp};
    let terminal = stdin();
    let is_in_foreground = tcgetpgrp(&terminal).is_ok_and(|group| group == rustix::process::getpgrp());
    let is_canonical = tcgetattr(&terminal).is_ok_and(|modes| modes.local_modes.contains(LocalModes::ICANON));
    let mut input = [PollFd::new(&terminal, PollFlags::IN)];
    is_in_foreground
        && is_canonical
        && poll(&mut input, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// Waits forever: this system cannot wait for a line of a terminal and stop waiting.
#[cfg(not(unix))]
pub(crate) async fn typed_line() -> String {
    std::future::pending().await
}

/// Returns the user's answer in lower case; `None` without a terminal. A thread reads it, so that Ctrl-C works.
async fn answer(question: &str) -> Result<Option<String>, TerminalError> {
    if !stdin().is_terminal() || !stderr().is_terminal() {
        return Ok(None);
    }
    let mut stderr = stderr();
    let _ = write!(stderr, "{} ", sanitize(&format!("arcssh: {question}")));
    let _ = stderr.flush();
    let unanswered = Unanswered;
    let line = spawn_blocking(|| stdin().lines().next().transpose()).await;
    let line = line.map_err(io::Error::other).and_then(|line| line).map_err(TerminalError::Stdin)?;
    let Some(line) = line else { return Ok(Some("no".into())) };
    std::mem::forget(unanswered);
    Ok(Some(line.trim().to_lowercase()))
}

/// A question without an answer, after Ctrl-C or Ctrl-D: the cursor is behind it.
struct Unanswered;

impl Drop for Unanswered {
    fn drop(&mut self) {
        let _ = writeln!(stderr());
    }
}
