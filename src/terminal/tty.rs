//! The terminal that a user sits at: the one behind ssh, and what it can show. Knows nothing of what is told there.

use std::io::IsTerminal;

#[cfg(not(unix))]
use console::Term;

#[cfg(unix)]
pub(crate) use unix::{ssh_terminal, tty_if_stderr_discarded};

/// Whether coloured text may go there.
pub(crate) fn use_color(out: &impl IsTerminal) -> bool {
    out.is_terminal() && !color_disabled()
}

/// Whether the user wants no colours (no-color.org), or the terminal can show none (bixense.com/clicolors).
fn color_disabled() -> bool {
    let is = |name: &str, value: &str| std::env::var_os(name).is_some_and(|set| set == value);
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|set| !set.is_empty());
    no_colour || is("CLICOLOR", "0") || is("TERM", "dumb")
}

/// ssh has no ControlPersist here.
#[cfg(not(unix))]
pub(crate) fn tty_if_stderr_discarded() -> Option<std::fs::File> {
    None
}

#[cfg(not(unix))]
pub(crate) fn ssh_terminal() -> Option<Term> {
    None
}

#[cfg(unix)]
mod unix {
    use std::fs::{File, OpenOptions, metadata};
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;

    use console::Term;
    use rustix::process::{getpgrp, getppid};
    use rustix::termios::tcgetpgrp;

    /// The terminal that the user sits at, where ssh has turned our standard error away: with ControlPersist it is
    /// /dev/null (OpenSSH sshconnect.c, `ssh_proxy_connect`).
    ///
    /// None where the user has turned ssh's own away, and none in the background: a master connection that breaks there
    /// would write over what has become of the terminal.
    pub(crate) fn tty_if_stderr_discarded() -> Option<File> {
        let null = metadata("/dev/null").ok()?.rdev();
        let ours = File::from(std::io::stderr().as_fd().try_clone_to_owned().ok()?).metadata().ok()?.rdev();
        if ours != null || parents().is_some_and(|parents| parents == null) {
            return None;
        }
        let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty").ok()?;
        (tcgetpgrp(&terminal).ok()? == getpgrp()).then_some(terminal)
    }

    /// The same, if ssh's own messages go to a terminal, where the system lets one see that (Linux): what is no failure
    /// is for whoever reads them.
    pub(crate) fn ssh_terminal() -> Option<Term> {
        let terminal = Term::read_write_pair(
            tty_if_stderr_discarded()?,
            OpenOptions::new().write(true).open(stderr_of_ssh()?).ok()?,
        );
        terminal.is_term().then_some(terminal)
    }

    /// The device of ssh's own standard error, where the system lets one see it (Linux).
    fn parents() -> Option<u64> {
        Some(metadata(stderr_of_ssh()?).ok()?.rdev())
    }

    fn stderr_of_ssh() -> Option<String> {
        Some(format!("/proc/{}/fd/2", getppid()?))
    }
}
