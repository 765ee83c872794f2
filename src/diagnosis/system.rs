//! This computer: limits, files, and bugs of arcssh.

use std::panic::Location;

use crate::diagnosis::{Code, Diagnosis, Hint};
use crate::system::SystemError;
use crate::text::shell_quote;

pub(crate) const FREE_DISK: &str = "free disk space, or write to another location";
pub(crate) const OTHER_DIRECTORY: &str = "name a directory of yours in ARCSSH_STATE_DIR";

pub(super) fn system(error: &SystemError) -> Diagnosis {
    let summary = error.to_string();
    match error {
        SystemError::InsecurePermissions { path, required, .. } => {
            let path = shell_quote(&path.display().to_string());
            Diagnosis::new(
                Code::InsecurePermissions,
                summary,
                Hint::command(format!("chmod {required:o} {path}")),
            )
        }
        SystemError::Descriptors(_) => Diagnosis::new(Code::LimitReached, summary, RAISE_DESCRIPTORS),
        SystemError::Threads(_) => Diagnosis::new(Code::LimitReached, summary, RAISE_PROCESSES),
        SystemError::Randomness => Diagnosis::new(Code::LimitReached, summary, ALLOW_GETRANDOM),
        SystemError::LogNotOpened { .. } => Diagnosis::new(
            Code::LogFile,
            summary,
            "name a new or regular file of yours in an existing directory with --log-file; to log to standard error, use only -v",
        ),
        SystemError::LogInsecure { path, .. } => {
            let path = shell_quote(&path.display().to_string());
            Diagnosis::new(Code::LogFile, summary, Hint::command(format!("chmod 600 {path}")))
        }
        SystemError::NotALog(_) => {
            Diagnosis::new(Code::LogFile, summary, "name a new file, or a log of arcssh, with --log-file")
        }
        SystemError::ArchiveExists(_) => {
            Diagnosis::new(Code::NotOverwritten, summary, "name a new file with --bundle")
        }
        SystemError::ArchiveNotCreated { .. } => Diagnosis::new(
            Code::Failed,
            summary,
            "name a new file in a directory that you can write to, on a disk with free space, with --bundle",
        ),
    }
}

/// What lets a user's threads and programs start (setrlimit(2), `RLIMIT_NPROC`).
pub(super) const RAISE_PROCESSES: &str = if cfg!(windows) {
    "close other programs to free memory"
} else {
    "close other programs, or raise your limits of processes and memory; to show them, run: ulimit -a"
};
const ALLOW_GETRANDOM: &str = "check that sandboxes and containers allow getrandom(2)";
pub(super) const RAISE_DESCRIPTORS: &str =
    "raise the limit of file descriptors in this shell: ulimit -n 1024";

/// Diagnoses a panic: a library's, because the system ran out of a resource after the start, or a bug. The panic's text is
/// not part of the diagnosis: it may quote a secret.
pub(super) fn panic(text: &str, place: Option<&Location<'_>>) -> Diagnosis {
    let no_thread = "the system does not start a thread";
    let causes = [
        ("OS can't spawn", no_thread, RAISE_PROCESSES),
        ("spawn thread", no_thread, RAISE_PROCESSES),
        ("create UnixStream", "too few file descriptors are free", RAISE_DESCRIPTORS),
        ("random", "the system does not provide random numbers", ALLOW_GETRANDOM),
    ];
    if let Some((_, summary, hint)) = causes.into_iter().find(|(marker, ..)| text.contains(marker)) {
        return Diagnosis::new(Code::LimitReached, summary, hint);
    }
    let place = place.map_or(String::new(), |place| {
        let file = place.file().rsplit(['/', '\\']).next().unwrap_or_default();
        format!(" ({file}, line {})", place.line())
    });
    Diagnosis::new(
        Code::Failed,
        format!("stopped by a bug in arcssh{place}"),
        "report the bug, with the output of: arcssh version --verbose",
    )
}
