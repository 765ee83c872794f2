//! The terminal behind ssh.

#[cfg(not(unix))]
use console::Term;

#[cfg(unix)]
pub(crate) use unix::{ssh_terminal, tty_if_stderr_discarded};

/// Returns the width of the terminal, if it has one: that of a new pseudo-terminal is 0 (ioctl_tty(2), TIOCGWINSZ).
#[cfg(unix)]
pub(crate) fn columns(out: &impl std::os::fd::AsFd) -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(out).ok()?;
    Some(size.ws_col.into()).filter(|columns| *columns > 0)
}

#[cfg(not(unix))]
pub(crate) fn columns(_: &impl std::io::IsTerminal) -> Option<usize> {
    Term::stdout().size_checked().map(|(_, columns)| columns.into())
}

/// On Windows, ssh has no ControlPersist.
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
    use rustix::process::getppid;
    use rustix::termios::tcgetpgrp;

    use crate::system::parent::initial_group;

    /// Returns the user's terminal if ssh discards our standard error: with ControlPersist it is /dev/null (OpenSSH
    /// sshconnect.c, `ssh_proxy_connect`).
    ///
    /// Returns `None` if ssh's own standard error is /dev/null, and in the background: there, a broken master connection
    /// would write over the output of another job.
    pub(crate) fn tty_if_stderr_discarded() -> Option<File> {
        let null = metadata("/dev/null").ok()?.rdev();
        let stderr = File::from(std::io::stderr().as_fd().try_clone_to_owned().ok()?).metadata().ok()?.rdev();
        if stderr != null || device_of_ssh().is_some_and(|device| device == null) {
            return None;
        }
        let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty").ok()?;
        (tcgetpgrp(&terminal).ok()? == initial_group()).then_some(terminal)
    }

    /// Returns the same terminal if ssh writes its own messages to a terminal, which only Linux shows. Progress is not for
    /// a program that reads ssh's messages.
    pub(crate) fn ssh_terminal() -> Option<Term> {
        let terminal = Term::read_write_pair(
            tty_if_stderr_discarded()?,
            OpenOptions::new().write(true).open(stderr_of_ssh()?).ok()?,
        );
        terminal.is_term().then_some(terminal)
    }

    /// Returns the device of ssh's standard error (Linux).
    fn device_of_ssh() -> Option<u64> {
        Some(metadata(stderr_of_ssh()?).ok()?.rdev())
    }

    fn stderr_of_ssh() -> Option<String> {
        Some(format!("/proc/{}/fd/2", getppid()?))
    }
}
