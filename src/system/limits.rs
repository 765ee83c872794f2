//! Resources that arcssh requires before it starts: file descriptors, a thread and random numbers.
//!
//! Libraries panic if the system denies them one of these (tokio: the socket pair of its signal handler, the threads for
//! name resolution; tungstenite and uuid: random numbers). arcssh therefore tries them first.

use std::io;
#[cfg(unix)]
use std::os::fd::AsFd as _;
use std::thread;

use ring::rand::{SecureRandom as _, SystemRandom};

use crate::system::SystemError;

/// File descriptors that a connection needs beside standard input, output and error: the runtime's five, those of the
/// state directory, name resolution, TCP, the trust store, an SSH agent, and the pipes of a credential program.
pub(super) const DESCRIPTORS: usize = 24;

/// Checks that the resources are available.
///
/// # Errors
/// A resource is not available; the error names the resource.
pub(crate) fn check() -> Result<(), SystemError> {
    descriptors().map_err(|error| SystemError::Descriptors(error.to_string()))?;
    // Before the first HashMap: its seed comes from the same source, and std panics without it.
    SystemRandom::new().fill(&mut [0; 32]).map_err(|_| SystemError::Randomness)
}

/// Checks that the system starts a thread.
///
/// # Errors
/// It does not.
pub(crate) fn check_thread() -> Result<(), SystemError> {
    let thread =
        thread::Builder::new().spawn(|| {}).map_err(|error| SystemError::Threads(error.to_string()))?;
    let _ = thread.join();
    Ok(())
}

/// Returns how many more descriptors than `used` a command can open, if arcssh keeps those of a connection's start.
pub(crate) fn spare(limit: Option<u64>, used: usize) -> usize {
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    limit.saturating_sub(DESCRIPTORS + used)
}

/// Returns the limit of file descriptors; `None`: there is none.
#[cfg(unix)]
pub(crate) fn descriptor_limit() -> Option<u64> {
    use rustix::process::{Resource, getrlimit};
    getrlimit(Resource::Nofile).current
}

/// Raises the limit of file descriptors as far as the system permits, and returns it.
#[cfg(unix)]
pub(crate) fn raise_descriptor_limit() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    // macOS denies more than its kern.maxfilesperproc.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    descriptor_limit()
}

/// Windows has no such limit.
#[cfg(not(unix))]
pub(crate) fn descriptor_limit() -> Option<u64> {
    None
}

/// See [`descriptor_limit`].
#[cfg(not(unix))]
pub(crate) fn raise_descriptor_limit() -> Option<u64> {
    None
}

/// Duplicates standard error, which is always open (std opens /dev/null in its place). A container can lack /dev.
#[cfg(unix)]
fn descriptors() -> io::Result<()> {
    let stderr = io::stderr();
    let all = (0..DESCRIPTORS).map(|_| stderr.as_fd().try_clone_to_owned());
    all.collect::<io::Result<Vec<_>>>().map(drop)
}

/// Windows has no such limit.
#[cfg(not(unix))]
fn descriptors() -> io::Result<()> {
    Ok(())
}
