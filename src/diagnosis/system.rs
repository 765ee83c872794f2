//! Why the system, or a file that the user named, does not let arcssh work.

use std::panic::PanicHookInfo;

use anyhow::Error;

use crate::commands::doctor::report::Hint;
use crate::diagnosis::{EXIT_NETWORK, FAILED, Told, tell};
use crate::logging::NoLog;
use crate::net::tls::Unread;
#[cfg(unix)]
use crate::ssh::agent::NotServed;
use crate::system::limits::Exhausted;
use crate::text::shell_quote;

/// Limits of the system, the log file and the SSH agent's path.
pub(super) fn explain_system(error: &Error) -> Option<Told> {
    if let Some(exhausted) = error.downcast_ref::<Exhausted>() {
        return Some(explain_exhausted(exhausted));
    }
    if let Some(no_log) = error.downcast_ref::<NoLog>() {
        return Some(explain_no_log(no_log));
    }
    #[cfg(unix)]
    if let Some(not_served) = error.downcast_ref::<NotServed>() {
        return Some(explain_not_served(not_served));
    }
    None
}

fn explain_exhausted(exhausted: &Exhausted) -> Told {
    let hint = match exhausted {
        Exhausted::Descriptors(_) => RAISE_DESCRIPTORS,
        Exhausted::Threads(_) => RAISE_PROCESSES,
        Exhausted::Randomness => ALLOW_GETRANDOM,
    };
    Told::new(FAILED, exhausted.to_string(), hint)
}

/// What lets a user's threads and programs start (setrlimit(2), `RLIMIT_NPROC`).
pub(super) const RAISE_PROCESSES: &str = if cfg!(windows) {
    "close other programs to free memory"
} else {
    "end other programs of this user, or raise the limits of processes and memory that this shows: ulimit -a"
};
pub(super) const ALLOW_GETRANDOM: &str =
    "check that sandboxes and containers on this machine allow getrandom(2)";
const RAISE_DESCRIPTORS: &str = "raise the limit of file descriptors in this shell: ulimit -n 1024";

fn explain_no_log(no_log: &NoLog) -> Told {
    let hint = match no_log {
        NoLog::NotOpened { .. } => {
            "name a new or regular file of your own in an existing directory with --log-file; -v alone logs to standard error"
                .into()
        }
        NoLog::InsecurePermissions { path, .. } => {
            Hint::command(format!("chmod 600 {}", shell_quote(&path.display().to_string())))
        }
        NoLog::NotALog(_) => "name a new file, or an earlier log of arcssh, with --log-file".into(),
    };
    Told::new(FAILED, no_log.to_string(), hint)
}

/// A home directory can be the one that is too open, and is not to be closed for that.
#[cfg(unix)]
fn explain_not_served(not_served: &NotServed) -> Told {
    let hint = match not_served {
        NotServed::Occupied(_) => {
            "name a path with nothing there in --agent, as arcssh config does: ~/.ssh/arcssh/NAME"
        }
        NotServed::Open { .. } | NotServed::NotOwn(_) => {
            "name a path in a directory of its own in --agent, which arcssh creates, such as ~/.ssh/arcssh/NAME"
        }
        NotServed::TooLong(_) => "name a shorter path in --agent, such as ~/.ssh/arcssh/NAME",
    };
    Told::new(FAILED, not_served.to_string(), hint)
}

/// Root certificates that are there and cannot be read.
pub(super) fn explain_unread(unread: &Unread) -> Told {
    let hint = match unread.is_for_want_of_descriptors() {
        true => RAISE_DESCRIPTORS,
        false => "make the file readable to this user, or name a file of PEM certificates in SSL_CERT_FILE",
    };
    Told::new(EXIT_NETWORK, unread.to_string(), hint)
}

/// Reports a bug, or that the system ran out of something. The panic's own text is not shown: it may quote a secret.
pub(crate) fn report_panic(panic: &PanicHookInfo<'_>) {
    let payload = panic.payload();
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or_default();
    if let Some((cause, hint)) = exhaustion(text) {
        return tell(cause, Some(hint));
    }
    let place = panic.location().map_or(String::new(), |place| {
        let file = place.file().rsplit(['/', '\\']).next().unwrap_or_default();
        format!(" ({file}, line {})", place.line())
    });
    tell(
        &format!("arcssh met a bug of its own and ends{place}"),
        Some("report the bug together with the output of: arcssh version"),
    );
}

/// What the panic of a library means when the system ran out of something after the start, and the hint.
pub(super) fn exhaustion(text: &str) -> Option<(&'static str, &'static str)> {
    let (no_thread, no_randomness) =
        ("the system does not start a thread", "the system does not provide random numbers");
    let causes = [
        ("OS can't spawn", no_thread, RAISE_PROCESSES),
        ("spawn thread", no_thread, RAISE_PROCESSES),
        ("create UnixStream", "too few file descriptors are free", RAISE_DESCRIPTORS),
        ("random", no_randomness, ALLOW_GETRANDOM),
    ];
    causes.into_iter().find(|(marker, ..)| text.contains(marker)).map(|(_, cause, hint)| (cause, hint))
}
