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
