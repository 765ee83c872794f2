//! What arcssh needs of the system before it starts: file descriptors, a thread and random numbers.
//!
//! The libraries below arcssh panic when the system denies them one of these (tokio: the socket pair of its signal
//! handler, the threads for name resolution; tungstenite and uuid: random numbers). They are therefore tried first.

use std::fs::File;
use std::io;
use std::thread;

use ring::rand::{SecureRandom as _, SystemRandom};

/// File descriptors that a connection needs beside standard input, output and error: the runtime's five, those of the
/// state directory, name resolution, TCP, the trust store, an SSH agent, and the pipes of a credential program.
const DESCRIPTORS: usize = 24;

/// Why arcssh does not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Exhausted {
    /// The limit of this process or of the system is too low.
    #[error("arcssh needs {DESCRIPTORS} free file descriptors: {0}")]
    Descriptors(io::Error),
    /// The user's limit of processes, or memory.
    #[error("the system does not start a thread: {0}")]
    Threads(io::Error),
    /// getrandom(2) fails.
    #[error("the system does not provide random numbers")]
    Randomness,
}

/// Tries whether there is enough of each.
///
/// # Errors
/// What is missing.
pub(crate) fn check() -> Result<(), Exhausted> {
    descriptors().map_err(Exhausted::Descriptors)?;
    // Before the first HashMap: its seed comes from the same source, and std panics without it.
    SystemRandom::new().fill(&mut [0; 32]).map_err(|_| Exhausted::Randomness)?;
    let thread = thread::Builder::new().spawn(|| {}).map_err(Exhausted::Threads)?;
    let _ = thread.join();
    Ok(())
}

#[cfg(unix)]
fn descriptors() -> io::Result<()> {
    let first = File::open("/dev/null")?;
    let _all = (1..DESCRIPTORS).map(|_| first.try_clone()).collect::<io::Result<Vec<File>>>()?;
    Ok(())
}

/// Windows has no such limit.
#[cfg(not(unix))]
fn descriptors() -> io::Result<()> {
    Ok(())
}
