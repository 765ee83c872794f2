//! The operating system: files, the clock, secrets in memory, the standard streams, the parent process, child processes,
//! signals, limits, timeouts, and the name resolution of a static program.

pub(crate) mod children;
pub(crate) mod clock;
pub(crate) mod files;
pub(crate) mod limits;
#[cfg(all(target_os = "linux", target_env = "gnu", target_feature = "crt-static"))]
pub(crate) mod names;
pub(crate) mod parent;
pub(crate) mod programs;
pub(crate) mod secret;
pub(crate) mod signals;
pub(crate) mod stdio;
pub(crate) mod timeout;

use std::path::PathBuf;

use crate::system::limits::DESCRIPTORS;

/// A limit of the system, or a file of arcssh that cannot be used safely.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum SystemError {
    /// Other users can read or write a state file or the state directory.
    #[error("other users can access {} (mode {mode:04o})", path.display())]
    #[cfg_attr(not(unix), allow(dead_code, reason = "only Unix has modes and owners of files"))]
    InsecurePermissions {
        /// The file or directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// The mode that it should have.
        required: u32,
    },
    /// The limit of file descriptors is too low.
    #[error("too few file descriptors are free: arcssh needs {DESCRIPTORS} ({0})")]
    Descriptors(String),
    /// The limit of processes or of memory is reached.
    #[error("the system does not start a thread: {0}")]
    Threads(String),
    /// getrandom(2) fails.
    #[error("the system does not provide random numbers")]
    Randomness,
    /// The log file has another type or owner, or cannot be written.
    #[error("cannot write the log file {}: {cause}", path.display())]
    LogNotOpened { path: PathBuf, cause: String },
    /// Other users can read or write the log file.
    #[error("other users can access the log file {} (mode {mode:04o})", path.display())]
    #[cfg_attr(not(unix), allow(dead_code, reason = "only Unix has modes and owners of files"))]
    LogInsecure {
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The log file has other content.
    #[error("the log file {} contains other data than a log of arcssh", .0.display())]
    NotALog(PathBuf),
    /// A file has the name of a new archive.
    #[error("the archive {} exists already", .0.display())]
    ArchiveExists(PathBuf),
    /// An archive cannot be created.
    #[error("cannot create the archive {}: {cause}", path.display())]
    ArchiveNotCreated { path: PathBuf, cause: String },
}
