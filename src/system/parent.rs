//! The parent process and the process group.
//!
//! ssh that continues in the background ends its first process, arcssh's parent. Its other process gets a new session
//! and closes its standard error (OpenSSH ssh.c, `fork_postauth` and `control_persist_detach`; clientloop.c,
//! `process_escapes`).

#[cfg(unix)]
pub(crate) use unix::{ended, initial_group, leave_group};

/// Never resolves: on Windows, ssh does not continue in the background.
#[cfg(not(unix))]
pub(crate) async fn ended() {
    std::future::pending().await
}

/// Windows has no process groups.
#[cfg(not(unix))]
pub(crate) fn leave_group() {}

#[cfg(unix)]
mod unix {
    use std::sync::OnceLock;
    use std::time::Duration;

    use rustix::process::{Pid, getpgrp, getppid, setpgid};

    /// The time between two checks of the parent process, if the system does not report its end.
    const POLL_INTERVAL: Duration = Duration::from_secs(1);

    /// The process group that this process has left.
    static LEFT_GROUP: OnceLock<Pid> = OnceLock::new();

    /// Resolves when the parent process has ended. Never resolves if it is in another PID namespace.
    pub(crate) async fn ended() {
        let Some(parent) = getppid() else { return std::future::pending().await };
        #[cfg(target_os = "linux")]
        if let Some(pidfd) = pidfd(parent) {
            let _ = pidfd.readable().await;
            return;
        }
        let mut polls = tokio::time::interval(POLL_INTERVAL);
        while getppid() == Some(parent) {
            polls.tick().await;
        }
    }

    /// A pidfd becomes readable when the process ends, like a pipe. tokio's `AsyncFd` would need `unsafe`. `None`: the kernel
    /// is older than 5.3 or denies the call (pidfd_open(2)).
    #[cfg(target_os = "linux")]
    fn pidfd(process: Pid) -> Option<tokio::net::unix::pipe::Receiver> {
        use rustix::process::{PidfdFlags, pidfd_open};
        let pidfd = pidfd_open(process, PidfdFlags::empty()).ok()?;
        tokio::net::unix::pipe::Receiver::from_owned_fd_unchecked(pidfd).ok()
    }

    /// Starts a process group, so that a signal to the group of a job that has ended does not end this process. It keeps the
    /// terminal.
    pub(crate) fn leave_group() {
        let _ = LEFT_GROUP.set(getpgrp());
        let _ = setpgid(None, None);
    }

    /// Returns the process group in which this process started.
    pub(crate) fn initial_group() -> Pid {
        LEFT_GROUP.get().copied().unwrap_or_else(getpgrp)
    }
}
